"""Launchers: ways to execute runs. Importing the package registers every launcher.

A launcher says when a run has started or ended, and nothing of the result: the run's directory
holds the result, and is the only channel back.
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
