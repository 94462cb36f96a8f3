"""Optimizers, and learning rates as functions of progress in [0, 1].

A schedule of progress instead of steps means the same at every batch size.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import nn

from normbench.errors import NormbenchError
from normbench.norms import ParameterRule
from normbench.registry import Registry

ParamGroups = list[dict[str, Any]]
Schedule = Callable[[float], float]
Momentum = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
SHORTEST = 1e-3  # length that adaptive clipping grants a shorter unit
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


@optimizers.register("adamw", title="AdamW")
def adamw(
    *,
    betas: Annotated[tuple[Momentum, Momentum], Field(strict=False)] = (0.9, 0.999),
    eps: Annotated[float, Field(gt=0)] = 1e-8,
    weight_decay: NonNegative = 0.01,
) -> MakeOptimizer:
    """Adam with decoupled weight decay (arXiv:1711.05101, algorithm 2), lr * decay * weight."""

    def make(groups: ParamGroups, lr: float) -> torch.optim.Optimizer:
        kind = without_compiler_guards(torch.optim.AdamW)
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
    for group in optimizer.param_groups:
        group.update(lr=torch.zeros((), device=device), capturable=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of the next step, times the factor of a group that has one."""
    for group in optimizer.param_groups:
        of_group = lr * group.get("lr_factor", 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(of_group)
        else:
            group["lr"] = of_group


@torch.no_grad()
def clamp_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Clamps the parameters of groups with `bounds` to them, in place."""
    for group in optimizer.param_groups:
        if "bounds" in group:
            for parameter in group["params"]:
                parameter.clamp_(*group["bounds"])


def body_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that adaptive clipping clips: all but those of the last linear layer."""
    head: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            head = {id(parameter) for parameter in module.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in head]


@torch.no_grad()
def clip_adaptively(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Shortens gradients to `factor` times the length of their parameters, unit by unit.

    Adaptive gradient clipping (arXiv:2102.06171, equation 3): |G| <= factor * max(|W|, 0.001) for
    each filter of a convolution and each row of a matrix. A vector is one unit.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            longest = factor * _lengths(parameter).clamp(min=SHORTEST)
            tiny = torch.finfo(parameter.dtype).tiny
            scale = longest / _lengths(parameter.grad).clamp(min=tiny)
            parameter.grad.mul_(scale.clamp(max=1))


def _lengths(values: torch.Tensor) -> torch.Tensor:
    axes = None
    if values.dim() > 1 and values[0].numel() > 1:
        axes = tuple(range(1, values.dim()))
    lengths: torch.Tensor = torch.linalg.vector_norm(values, dim=axes, keepdim=axes is not None)
    return lengths


def check_decay(decay_norm: bool, weight_decay: float) -> None:
    """Raises NormbenchError where norms are to decay and nothing decays."""
    if decay_norm and weight_decay == 0:
        raise NormbenchError("optim.decay_norm: needs optim.weight_decay > 0")


def parameter_groups(model: nn.Module, *, decay_norm: bool = False) -> ParamGroups:
    """Two groups: the weights of convolutions and linear layers, and all other parameters.

    Only the first group decays. Biases do not, nor the number per filter that weight normalization
    puts beside a weight, nor a norm's scale and shift; with `decay_norm` all parameters outside
    convolutions and linear layers are in the first group. Parameters for which a layer has a
    ParameterRule are in further groups, one for each rule.
    """
    rules: dict[int, ParameterRule] = {}
    weights: set[int] = set()
    of_layers: set[int] = set()  # of convolutions and linear layers
    for module in model.modules():
        for name, rule in getattr(module, "parameter_rules", {}).items():
            rules[id(getattr(module, name))] = rule
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                of_layers.add(id(parameter))
                if parameter.dim() > 1 and parameter[0].numel() > 1:
                    weights.add(id(parameter))
    decaying: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    ruled: dict[ParameterRule, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        key = id(parameter)
        if key in rules:
            ruled.setdefault(rules[key], []).append(parameter)
        elif key in weights or (decay_norm and key not in of_layers):
            decaying.append(parameter)
        else:
            rest.append(parameter)
    groups: ParamGroups = [{"params": decaying}, {"params": rest, "weight_decay": 0.0}]
    for rule, parameters in ruled.items():
        groups.append({"params": parameters, "weight_decay": 0.0, **asdict(rule)})
    return groups


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
