"""Optimizers, and learning rates as functions of progress in [0, 1].

A schedule of progress instead of steps means the same at every batch size.
"""

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
Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
# From parameter groups and a learning rate.
MakeOptimizer = Callable[[ParamGroups, float], torch.optim.Optimizer]

# Entries make a function that makes the optimizer: a plan checks options without any model.
optimizers: Registry[MakeOptimizer] = Registry("optim")


@optimizers.register("adam", title="Adam")
def adam(
    *,
    betas: Annotated[tuple[Momentum, Momentum], Field(strict=False)] = (0.9, 0.999),
    eps: Annotated[float, Field(gt=0)] = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> MakeOptimizer:
    """Adam (arXiv:1412.6980, algorithm 1); weight decay is added to the gradient (L2)."""

    def make(groups: ParamGroups, lr: float) -> torch.optim.Optimizer:
        kind = without_compiler_guards(torch.optim.Adam)
        return kind(groups, lr, betas, eps, weight_decay, fused=True)

    return make


@optimizers.register("sgd", title="SGD")
def sgd(
    *, momentum: Momentum = 0.9, nesterov: bool = True, weight_decay: NonNegative = 5e-4
) -> MakeOptimizer:
    """Stochastic gradient descent with (Nesterov) momentum and L2 weight decay."""
    if nesterov and momentum == 0:
        raise NormbenchError("optim.nesterov: needs optim.momentum > 0")

    def make(groups: ParamGroups, lr: float) -> torch.optim.Optimizer:
        kind = without_compiler_guards(torch.optim.SGD)
        return kind(groups, lr, momentum, 0, weight_decay, nesterov, fused=True)

    return make


def without_compiler_guards(kind: type[Kind]) -> type[Kind]:
    """The optimizer without torch's wrappers, which keep an optimizer out of compiled code.

    Ours never is in compiled code, and the wrappers import torch._dynamo at their first call: more
    than two seconds of every run's start (results/LOG.md).
    """
    wrapped = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in wrapped}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Makes the learning rate a tensor, of which a CUDA graph reads the current value."""
    lr = torch.zeros((), device=device)
    for group in optimizer.param_groups:
        group.update(lr=lr, capturable=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def parameter_groups(model: nn.Module) -> ParamGroups:
    """Two groups: the weights of convolutions and linear layers, and all other parameters.

    Only the first group decays. Biases and a norm's own parameters never do: scale, shift, and the
    number per filter that weight normalization puts beside a weight.
    """
    decaying: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                if parameter.dim() > 1 and parameter[0].numel() > 1:
                    decaying[id(parameter)] = parameter
    rest = [parameter for parameter in model.parameters() if id(parameter) not in decaying]
    return [{"params": list(decaying.values())}, {"params": rest, "weight_decay": 0.0}]


def check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError where a loaded state has another shape than its parameter."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.dim() > 0 and value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)}, its parameter {tuple(parameter.shape)}"
                raise ValueError(f"{name} has the shape {shapes}")


def scaled_lr(lr: float, scaling: str, batch_size: int, reference_batch_size: int) -> float:
    """The peak learning rate at `batch_size` images a step.

    scaling: linear is lr * batch_size / reference_batch_size, sqrt the root of the ratio, none lr.
    """
    ratio = batch_size / reference_batch_size
    return lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[scaling]


def schedule(name: str, warmup_fraction: float) -> Schedule:
    """The factor on the peak learning rate by progress. Raises NormbenchError for two warm-ups."""
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
    """Linearly up to 1 at `peak`, then to 0 along half a cosine (after arXiv:1708.07120)."""
    return progress / peak if progress < peak else cosine((progress - peak) / (1 - peak))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "one_cycle": one_cycle}
