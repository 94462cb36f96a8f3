"""From files of runs to tables and figures; never imports torch."""
