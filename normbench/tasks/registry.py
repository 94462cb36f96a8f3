"""The tasks behind `task=`: importing this module registers all of them.

Not the package itself: tables import `normbench.tasks.metric` and must not load torch.
"""

from normbench.tasks import classification, style
from normbench.tasks.task import tasks

__all__ = ["classification", "style", "tasks"]
