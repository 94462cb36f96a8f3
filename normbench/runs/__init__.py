"""Runs on disk: `rundir` writes, `state` says how a run stands, `files` reads all of it."""
