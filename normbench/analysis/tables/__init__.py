"""Tables of runs: what was reached, over which settings, against what the source claims, norm against norm."""
