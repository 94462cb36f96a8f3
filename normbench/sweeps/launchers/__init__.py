"""Where runs execute: importing this package registers every launcher.

A launcher starts runs and says when one has started or ended, and never how: the run's directory says that, and is the
only channel back.
"""

from normbench.sweeps.launchers import inline, processes, ray, slurm
from normbench.sweeps.launchers.launcher import Event, Launcher, launchers

__all__ = ["Event", "Launcher", "inline", "launchers", "processes", "ray", "slurm"]
