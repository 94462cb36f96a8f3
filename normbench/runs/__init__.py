"""Runs on disk: `rundir` writes them, `files` reads them, the rest of the room shows them."""
