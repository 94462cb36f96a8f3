"""Tasks: what a training is about, and the metrics by which its runs are judged."""
