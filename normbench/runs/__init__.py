"""Runs on disk: written by `rundir`, read by `files`, shown by `listing` and `diff`."""
