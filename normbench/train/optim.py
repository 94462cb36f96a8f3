"""Optimizers, and learning rates as functions of progress in [0, 1], which mean the same at every batch size."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import nn

from normbench.errors import NormbenchError
from normbench.registry import Registry

ParamGroups = list[dict[str, Any]]
Schedule = Callable[[float], float]
Momentum = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]

MakeOptimizer = Callable[
    [ParamGroups, float], torch.optim.Optimizer
]  # of parameter groups and a learning rate

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)

# Entries make a function that makes the optimizer: so that options are checked in a plan, which has no model.
optimizers: Registry[MakeOptimizer] = Registry("optim")


@optimizers.register("adam", title="Adam")
def adam(
    *,
    betas: Annotated[tuple[Momentum, Momentum], Field(strict=False)] = (0.9, 0.999),
    eps: Annotated[float, Field(gt=0)] = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> MakeOptimizer:
    """Adam (arXiv:1412.6980, algorithm 1); weight decay, where there is any, is added to the gradient (L2)."""
    return lambda groups, lr: plain(torch.optim.Adam)(
        groups, lr, betas, eps, weight_decay, fused=True
    )


@optimizers.register("sgd", title="SGD")
def sgd(
    *,
    momentum: Momentum = 0.9,
    nesterov: bool = True,
    weight_decay: NonNegative = 5e-4,
) -> MakeOptimizer:
    """Stochastic gradient descent with (Nesterov) momentum and L2 weight decay."""
    if nesterov and momentum == 0:
        raise NormbenchError("optim.nesterov: needs optim.momentum > 0")
    return lambda groups, lr: plain(torch.optim.SGD)(
        groups, lr, momentum, 0, weight_decay, nesterov, fused=True
    )


def plain(kind: type[Kind]) -> type[Kind]:
    """The optimizer without the wrappers that keep it out of compiled code, where it never is.

    They import torch._dynamo at the first call, more than two seconds of every run's start (results/LOG.md).
    """
    wrapped = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in wrapped}
    return type(
        kind.__name__, (kind,), methods | {"step": torch.no_grad()(inspect.unwrap(kind.step))}
    )


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Lets a CUDA graph hold the optimizer's step: its learning rate becomes a tensor, read where it lies."""
    lr = torch.zeros((), device=device)
    for group in optimizer.param_groups:
        group.update(lr=lr, capturable=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def parameter_groups(model: nn.Module) -> ParamGroups:
    """Two groups: the weights of convolutions and linear layers, which decay, and all else, which never does.

    What never decays are biases and whatever a norm owns, such as its scale and shift, or the one number per filter
    that it puts beside a reparametrized weight.
    """
    decaying: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            decaying |= {id(p): p for p in module.parameters() if p.dim() > 1 and p[0].numel() > 1}
    rest = [p for p in model.parameters() if id(p) not in decaying]
    return [{"params": list(decaying.values())}, {"params": rest, "weight_decay": 0.0}]


def scaled_lr(lr: float, scaling: str, batch_size: int, reference_batch_size: int) -> float:
    """The peak learning rate for `batch_size` images a step: lr times their ratio to the reference, or its root."""
    ratio = batch_size / reference_batch_size
    return lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[scaling]


def schedule(name: str, warmup_fraction: float) -> Schedule:
    """The factor on the peak learning rate at a given progress. Raises NormbenchError for two warm-ups at once."""
    if name == "one_cycle" and warmup_fraction > 0:
        raise NormbenchError(
            "optim.warmup_fraction: one_cycle has a warm-up of its own, leave it at 0"
        )
    shape = SCHEDULES[name]

    def factor(progress: float) -> float:
        if progress < warmup_fraction:
            return progress / warmup_fraction
        return shape((progress - warmup_fraction) / (1 - warmup_fraction))

    return factor


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine (arXiv:1608.03983, equation 5, without restarts)."""
    return (1 + math.cos(math.pi * progress)) / 2


def one_cycle(progress: float, peak: float = 0.3) -> float:
    """Linearly up to 1 at `peak`, then down to 0 along half a cosine (after arXiv:1708.07120; momentum stays)."""
    return progress / peak if progress < peak else cosine((progress - peak) / (1 - peak))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "one_cycle": one_cycle}
