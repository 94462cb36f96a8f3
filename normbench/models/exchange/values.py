"""What a new norm takes over from the one before: its values where they mean the same."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from normbench.models.exchange.found import in_mode
from normbench.models.exchange.kinds import NORMS, own_activation
from normbench.models.sites import Site
from normbench.norms.batch_layers import BatchRenorm
from normbench.seeds import stream

# Between two ways to compute the same, in the type of the values.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
COUNT = "num_batches_tracked"


def take_over(old: nn.Module, new: nn.Module, site: Site) -> str:
    """Gives `new` the values of `old` that it can use; returns what was done, for people.

    All values, where `new` with them evaluates to what `old` does on inputs of shape (n, *site).
    Else gamma alone, and only an initial one: the same number, not 1, in all channels. The values
    that torch begins with (gamma 1, beta 0) are not taken over.
    """
    parts = [_kept_values(old, new, site), *_changed_options(old, new)]
    return "; ".join(part for part in parts if part)


def _kept_values(old: nn.Module, new: nn.Module, site: Site) -> str:
    gamma, beta = getattr(old, "weight", None), getattr(old, "bias", None)
    if _are_torch_s(_values(old)):
        return ""
    if _means_the_same(old, new, site):
        _keep_frozen(old, new)
        return "values kept"
    if not _is_constant(gamma) or not _is_constant(beta):
        has_values = any(True for _ in new.parameters())
        what = "mean something else: new ones" if has_values else "have no place here"
        return f"its learned values {what}"
    initial = 1.0 if gamma is None else gamma.flatten()[0].item()
    if initial == 1:
        return ""
    gammas = _gammas(new, site)
    for parameter in gammas:
        nn.init.constant_(parameter, initial)
    if gammas:
        return f"gamma starts at {initial:g}"
    return f"gamma started at {initial:g}, and here is none"


def _keep_frozen(old: nn.Module, new: nn.Module) -> None:
    """Parameters that take over a value train only if the old ones did."""
    trains = {name: parameter.requires_grad for name, parameter in old.named_parameters()}
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(trains.get(name, True))


def _values(norm: nn.Module) -> dict[str, Tensor]:
    """The norm's parameters and running statistics by name."""
    return {name: value for name, value in norm.state_dict().items() if name != COUNT}


def _are_torch_s(values: dict[str, Tensor]) -> bool:
    """Whether the values are those that torch's norms begin with: the new norm has its own."""
    ones = ("weight", "running_var")
    for name, value in values.items():
        # On the meta device there are none.
        if not value.is_meta and not (value == float(name in ones)).all():
            return False
    return True


@torch.no_grad()
def _means_the_same(old: nn.Module, new: nn.Module, site: Site) -> bool:
    """Gives `new` the values of `old`; takes them back where the two then evaluate differently."""
    values, state = _values(old), new.state_dict()
    shapes = {name: value.shape for name, value in values.items()}
    if any(name not in state or state[name].shape != shapes[name] for name in shapes):
        return False
    before = {name: value.clone() for name, value in state.items()}
    # Batch Renorm's bounds begin to grow with its own first batch.
    if COUNT in state and not isinstance(new, BatchRenorm):
        values |= {name: value for name, value in old.state_dict().items() if name == COUNT}
    new.load_state_dict(values, strict=False)
    if _evaluates_alike(old, new, site):
        return True
    new.load_state_dict(before)
    return False


def _evaluates_alike(old: nn.Module, new: nn.Module, site: Site) -> bool:
    """Whether both give the same in evaluation, apart from eps and an activation inside `old`."""
    like = next(iter(_values(old).values()))
    x = torch.randn(2, *site, generator=stream(0, "exchange")).to(like)
    options: list[tuple[nn.Module, str, Any]] = []
    if hasattr(new, "eps") and hasattr(old, "eps"):
        options.append((new, "eps", old.eps))
    if own_activation(old) is not None:
        options.append((old, "act", nn.Identity()))
    before = [(norm, name, getattr(norm, name)) for norm, name, _ in options]
    outputs = []
    try:
        for norm, name, value in options:
            setattr(norm, name, value)
        for norm in (old, new):
            with in_mode(norm, training=False):
                outputs.append(norm(x))
    finally:
        for norm, name, value in before:
            setattr(norm, name, value)
    scale = outputs[0].abs().max().clamp(min=1)
    difference = (outputs[0] - outputs[1]).abs().max()
    return bool(difference <= TOLERANCES.get(like.dtype, 1e-2) * scale)


def _is_constant(values: Tensor | None) -> bool:
    """Whether all channels have the same number, as initial values do; true of no values."""
    return values is None or bool((values == values.flatten()[:1]).all())


def _gammas(norm: nn.Module, site: Site) -> list[nn.Parameter]:
    """The scales per group, channel or element: `weight` of the layer, else of torch's norms in it.

    Not both: of a branch that begins at zero twice, no factor would ever have a gradient.
    """
    outer = getattr(norm, "weight", None)
    if isinstance(outer, nn.Parameter):
        per_element = outer.numel() == math.prod(site)
        if per_element or (outer.dim() == 1 and site[0] % outer.numel() == 0):
            return [outer]
    inner = [module.weight for module in norm.modules() if isinstance(module, NORMS)]
    return [weight for weight in inner if isinstance(weight, nn.Parameter)]


def _changed_options(old: nn.Module, new: nn.Module) -> list[str]:
    """The options that both have, and that are not those of the network's author any more."""
    changes = []
    for name in ("eps", "momentum"):
        before, after = getattr(old, name, None), getattr(new, name, None)
        if before != after and hasattr(old, name) and hasattr(new, name):
            changes.append(f"{name} {before} -> {after}")
    return changes
