"""Layers and certificates of norms in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from normbench.certificates import Certificate, certify
from normbench.errors import NormbenchError
from normbench.norms import NormSpec, norms
from normbench.users_code import given_name, is_own


def norm(name: str | type[nn.Module], num_features: int, **options: Any) -> nn.Module:
    """A norm's layer for so many features.

    Raises NormbenchError for an unknown name or option, and features that the norm refuses.
    """
    spec = _spec(name, options)
    refusal = spec.refusal((2, num_features, 2, 2))
    if refusal is not None:
        raise NormbenchError(f"norm {name}: {refusal.reason}") from refusal.error
    return spec.norm(num_features)


def certificate(name: str | type[nn.Module], **options: Any) -> Certificate:
    """What a norm does, computed. Raises NormbenchError for an unknown name or option."""
    return certify(_spec(name, options))


def _spec(name: str | type[nn.Module], options: Mapping[str, Any]) -> NormSpec:
    called = name if isinstance(name, str) else given_name(name)
    return norms.build(called, options={"options": options} if is_own(called) else options)
