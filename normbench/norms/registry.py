"""The norms by name: the registered ones, and any of the user's as `file.py:Class` or `package.module:Class`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normbench.norms import own
from normbench.norms.spec import NormSpec
from normbench.registry import Registry


class NormRegistry(Registry[NormSpec]):
    """The registered norms, and behind every name with a colon a norm of the user's own."""

    def check(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """As Registry.check; of an own norm its file, the file's content hash, and its constructor's options."""
        return own.check(name, given) if own.is_own(name) else super().check(name, given)

    def build(self, name: str, *context: Any, options: Mapping[str, Any] | None = None) -> NormSpec:
        """As Registry.build; an own norm runs its file, once per content."""
        return (
            own.build(name, options or {})
            if own.is_own(name)
            else super().build(name, *context, options=options)
        )


norms = NormRegistry("norm")
