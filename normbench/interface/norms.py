"""Layers and certificates of norms in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from normbench.certificates import Certificate, certify
from normbench.norms import norms
from normbench.users_code import given_name, is_own


def norm(name: str | type[nn.Module], num_features: int, **options: Any) -> nn.Module:
    """A norm's layer for so many features. Raises NormbenchError for an unknown name or option."""
    made: nn.Module = _spec(name, options).norm(num_features)
    return made


def certificate(name: str | type[nn.Module], **options: Any) -> Certificate:
    """What a norm does, computed. Raises NormbenchError for an unknown name or option."""
    return certify(_spec(name, options))


def _spec(name: Any, options: Mapping[str, Any]) -> Any:
    called = given_name(name) if callable(name) else str(name)
    return norms.build(called, options={"options": options} if is_own(called) else options)
