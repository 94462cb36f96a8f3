"""Training: one run from a configuration to files on disk."""
