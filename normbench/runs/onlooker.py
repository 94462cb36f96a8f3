"""The directory of a run for those of its processes that do not write: the main one does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normbench.runs.rundir import RunDir


class Onlooker(RunDir):
    """A run directory of which nothing is read or written; it has no lock either."""

    @property
    def is_over(self) -> bool:
        """Not known here."""
        return False

    @property
    def has_checkpoint(self) -> bool:
        """Not known here."""
        return False

    def begin(self, config: str, environment: Mapping[str, Any]) -> None:
        """Does nothing."""

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Does nothing."""

    def append_step(self, row: Mapping[str, Any]) -> None:
        """Does nothing."""

    def save_correct(self, bits: bytes) -> None:
        """Does nothing."""

    def save_picture(self, png: bytes) -> None:
        """Does nothing."""

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Does nothing."""

    def load_checkpoint(self) -> tuple[dict[str, Any], str | None]:
        """Gives no state."""
        return {}, None

    def discard_rows(self) -> None:
        """Does nothing."""

    def finish(self, state: str, reason: str | None = None) -> None:
        """Does nothing."""
