"""Layers and certificates of norms in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from normbench.certificates import Certificate, catalogue, certify
from normbench.errors import NormbenchError
from normbench.norms import norms
from normbench.users_code import given_name, is_own


@dataclass(frozen=True)
class NormCertificate:
    """What a norm does: `facts` computed from its layer, shown as `normbench norms NAME` does."""

    facts: Certificate
    text: str = field(compare=False)

    def __repr__(self) -> str:
        return self.text


def norm(name: str | type[nn.Module], num_features: int, **options: Any) -> nn.Module:
    """A norm's layer for so many features.

    Raises NormbenchError for an unknown name or option, and features that the norm refuses.
    """
    if not isinstance(num_features, int) or num_features < 1:
        raise NormbenchError(f"num_features: should be a number from 1 on, not {num_features!r}")
    called, given = _given(name, options)
    spec = norms.build(called, options=given)
    refusal = spec.refusal((2, num_features, 2, 2))
    if refusal is not None:
        raise NormbenchError(f"norm {name}: {refusal.reason}") from refusal.error
    return spec.norm(num_features)


def certificate(name: str | type[nn.Module], **options: Any) -> NormCertificate:
    """What a norm does, computed. Raises NormbenchError for an unknown name or option."""
    about, spec = catalogue.listed(*_given(name, options))
    facts = certify(spec)
    return NormCertificate(facts, catalogue.certificate_text(about, facts))


def _given(
    name: str | type[nn.Module], options: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]]:
    """The name, of a class what stands for it, and the options as the registry takes them."""
    called = name if isinstance(name, str) else given_name(name)
    return called, {"options": options} if is_own(called) else options
