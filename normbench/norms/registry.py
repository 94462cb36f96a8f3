"""The norms by name: registered norms, and own norms such as `file.py:Class`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normbench.config.names import spoken
from normbench.errors import unknown
from normbench.norms import own
from normbench.norms.spec import NormSpec
from normbench.registry import Entry, Registry


class NormRegistry(Registry[NormSpec]):
    """The registered norms; a name with a colon is an own norm."""

    def __getitem__(self, name: str) -> Entry[NormSpec]:
        """The entry called `name`. Raises NormbenchError with what people call so, or the nearest.

        Own norms have no entry.
        """
        known = [entry.name for entry in self]
        if name not in known:
            raise unknown(self.noun, name, known, spoken(name))
        return super().__getitem__(name)

    def check(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Checks options as Registry.check does; an own norm has file, content hash and options."""
        if own.is_own(name):
            return own.check(name, given)
        return super().check(name, given)

    def build(self, name: str, *context: Any, options: Mapping[str, Any] | None = None) -> NormSpec:
        """Builds as Registry.build does; an own norm's file runs once per content."""
        if own.is_own(name):
            return own.build(name, options or {})
        return super().build(name, *context, options=options)


norms = NormRegistry("norm")
