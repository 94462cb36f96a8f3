"""Launchers: ways to execute runs. Importing the package registers every launcher.

A launcher says when a run has started or ended, and nothing of the result, which the run's
directory holds; only a failure that the directory cannot hold is told by the launcher.
"""

from normbench.sweeps.launchers import inline, processes, ray, slurm
from normbench.sweeps.launchers.launcher import Event, Launcher, launchers, split_settings

__all__ = [
    "Event",
    "Launcher",
    "inline",
    "launchers",
    "processes",
    "ray",
    "slurm",
    "split_settings",
]
