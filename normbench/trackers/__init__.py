"""Trackers: tools that show runs to people. Importing the package registers every tracker."""

from normbench.trackers import mlflow, tensorboard, wandb
from normbench.trackers.tracker import Subject, Tracker, trackers

__all__ = ["Subject", "Tracker", "mlflow", "tensorboard", "trackers", "wandb"]
