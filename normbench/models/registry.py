"""The networks by name: registered ones, and own ones such as `file.py:Net`.

An entry is a function `(layers, num_outputs, *, options)` of a module; num_outputs is the number of
classes, or of channels of the images that the network makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from normbench.errors import NormbenchError, unknown
from normbench.registry import Registry
from normbench.users_code import is_own


class ModelRegistry(Registry[nn.Module]):
    """The registered networks; a name with a colon is an own network."""

    def check(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Checks options as Registry.check; an own network has file, content hash and options."""
        if is_own(name):
            # The tracing of networks takes a second to import.
            from normbench.models import own

            return own.check(name, given)
        if name not in {entry.name for entry in self}:
            unknown_one = unknown("model", name, [entry.name for entry in self])
            raise NormbenchError(f"{unknown_one}, FILE.py:NAME, package.module:NAME")
        return super().check(name, given)

    def build(
        self, name: str, *context: Any, options: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Builds as Registry.build does, from Layers and the number of outputs."""
        if is_own(name):
            from normbench.models import own

            return own.build(name, options or {}, *context)
        return super().build(name, *context, options=options)


models = ModelRegistry("model")
