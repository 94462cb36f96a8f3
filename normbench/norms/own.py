"""Own norms: an nn.Module of the user's that takes num_features, from a file or importable module.

The norm's options are the constructor's further parameters. Class attributes say more:
`conv_bias = True` for a norm without an offset, `owns_activation = True` for a norm that no ReLU
follows, and `scope` as in NormSpec, which the contract checks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, get_args

import torch
from torch import Tensor, nn

from normbench.errors import NormbenchError, first_line, unknown
from normbench.norms.spec import NormSpec, Refusal, Scope, Shape
from normbench.users_code import Own, find_own, is_own

__all__ = ["build", "check", "described", "is_own"]


def check(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Checks an own norm's options and returns {"file", "content", "options"} for a configuration.

    Raises NormbenchError where the class cannot be found or run, is not the one of the content hash
    `given["content"]`, or its constructor has no such option.
    """
    own = _find(name, given)
    features = _num_features(own)
    options = own.checked(given.get("options") or {}, {features: None})
    return {"file": str(own.path), "content": own.content, "options": options}


def build(name: str, given: Mapping[str, Any]) -> NormSpec:
    """The own norm with its options; refuses an input on which a trial of the layer fails."""
    checked = check(name, given)
    make = _find(name, checked).make
    scope: Any = getattr(make, "scope", "undeclared")
    if scope not in get_args(Scope):
        raise unknown(f"scope of norm {name}", str(scope), get_args(Scope))

    def layer(num_features: int) -> nn.Module:
        made = make(num_features, **checked["options"])
        if not isinstance(made, nn.Module):
            raise NormbenchError(
                f"norm {name} is to make an nn.Module, and made a {type(made).__name__}"
            )
        return made

    return NormSpec(
        scope=scope,
        norm=layer,
        norm_act=layer if getattr(make, "owns_activation", False) else None,
        conv_bias=bool(getattr(make, "conv_bias", False)),
        refuse=lambda shape: _try(layer, shape),
    )


def described(name: str, checked: Mapping[str, Any]) -> tuple[str, str]:
    """The class's name and docstring; `checked` is what `check` returned."""
    own = _find(name, checked)
    return own.title, own.docstring


def _find(name: str, given: Mapping[str, Any]) -> Own:
    return find_own("norm", name, given, lambda value: issubclass(value, nn.Module))


def _num_features(own: Own) -> str:
    """The name of the first parameter, which is given the number of channels."""
    first = next(iter(inspect.signature(own.make).parameters.values()), None)
    if first is None or first.kind is not Parameter.POSITIONAL_OR_KEYWORD:
        raise NormbenchError(
            f"norm {own.name}: its constructor takes no num_features: "
            "name it as the first parameter"
        )
    return first.name


def _try(layer: Callable[[int], nn.Module], shape: Shape) -> Refusal | None:
    """Refuses where a forward pass in training raises, changes the shape or is not finite."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            y = layer(shape[1]).train()(x)
    except NormbenchError:
        raise
    except Exception as error:
        return Refusal(f"on a batch of shape {shape} it raises {first_line(error)}", error)
    made = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
    if made != shape:
        return Refusal(f"it makes {made} of a batch of shape {shape}")
    if not y.isfinite().all():
        return Refusal(f"it gives values that are not finite on a batch of shape {shape}")
    return None
