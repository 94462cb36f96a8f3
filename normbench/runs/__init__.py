"""Runs on disk: written by `rundir`, read by `files`."""
