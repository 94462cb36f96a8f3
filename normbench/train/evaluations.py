"""Two more evaluations for BatchNorm, to tell a failure of training from a failure of evaluation.

The usual evaluation normalizes with running averages of training. Here the statistics come from the
whole training set under the final weights ("precise", arXiv:2105.07576), or from the test batch, as
in training. The model is restored afterwards, whatever happens. A compiled model runs uncompiled:
its layers are watched, or are in another mode than they were compiled for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normbench.data.loader import DeviceLoader
from normbench.errors import NormbenchError
from normbench.seeds import stream
from normbench.tasks.task import Batch, Task
from normbench.train.engine import EVAL_BATCH_SIZE, Sums, evaluate, exact_dtype
from normbench.train.runtime import Runtime

RUNNING = ("running_mean", "running_var")


def tracking_layers(model: nn.Module) -> list[nn.Module]:
    """The layers with buffers for running statistics, with which they evaluate."""
    return [module for module in model.modules() if _tracks(module)]


@torch.no_grad()
def evaluate_precisely(
    model: nn.Module, train: DeviceLoader, test: DeviceLoader, task: Task, runtime: Runtime
) -> float:
    """The primary metric on the test set, with statistics over all images of `train`."""
    with precise_statistics(model, train, runtime):
        return evaluate(model, test, task, runtime)[task.primary.name]


@torch.no_grad()
def evaluate_batchwise(
    model: nn.Module, test: DeviceLoader, task: Task, runtime: Runtime, batch_size: int
) -> float:
    """The primary metric on the test set, with the statistics of random batches of training size.

    Layers with running statistics normalize as in training: batch_renorm corrects towards the
    running ones, an InstanceNorm that tracks takes those of each image. The last batch is filled up
    with images of the first; these do not count again.
    """
    sums = Sums(task, runtime.device)
    # Seed 0 for every run: the same test batches, so that runs stay paired.
    order = torch.randperm(len(test), generator=stream(0, "test batches")).to(runtime.device)
    for indices in order.split(batch_size):
        number = len(indices)
        missing = min(batch_size, len(order)) - number
        batch = test.gather(torch.cat([indices, order[:missing]]))
        # Restored after every batch: no batch may see the running statistics of another.
        with batch_statistics(model):
            outputs = _outputs(model, batch, runtime)
        counted = {name: tensor[:number] for name, tensor in batch.items()}
        # Only the primary metric is read; the loss needs no second computation.
        sums.add(torch.zeros((), device=outputs.device), outputs[:number], counted)
    return sums.means()[task.primary.name]


@contextmanager
def precise_statistics(
    model: nn.Module, loader: DeviceLoader, runtime: Runtime, batch_size: int = EVAL_BATCH_SIZE
) -> Iterator[None]:
    """The model in evaluation mode, with statistics over all images of `loader`.

    Layer after layer, so that each layer sees the evaluation outputs of the layers before it: the
    split into batches changes nothing. The price is a forward pass for each layer, up to the layer.
    """
    with _restored(model):
        model.eval()
        for layer in _in_forward_order(model, loader, runtime):
            moments = _moments(layer, model, loader.in_order(batch_size), runtime)
            for name, value in zip(RUNNING, moments, strict=True):
                running = getattr(layer, name, None)
                if running is not None:
                    running.copy_(_in_shape(value, running))
        yield


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, but its layers with running statistics in training mode."""
    with _restored(model):
        model.eval()
        for layer in tracking_layers(model):
            layer.train()
        yield


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restores the modes and buffers of all modules at the end."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = []
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            buffers.append((module, name, buffer, buffer.clone()))
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                # By name: a layer may have put another tensor in the buffer's place.
                setattr(module, name, buffer.copy_(value))


def _tracks(module: nn.Module) -> bool:
    return any(getattr(module, name, None) is not None for name in RUNNING)


def _in_shape(value: Tensor, running: Tensor) -> Tensor:
    """Values by channel in the shape of the layer's buffer, such as (1, c, 1, 1)."""
    if value.numel() != running.numel():
        raise NormbenchError(
            f"train.bn_evaluations: running statistics of shape {tuple(running.shape)} "
            "are not one value per channel"
        )
    return value.view_as(running)


class _SeenEnough(Exception):
    """The rest of a forward pass is not needed."""


class _Moments(NamedTuple):
    """Mean and variance by channel, each of shape (c,), over `number` values of a channel."""

    number: int
    mean: Tensor
    variance: Tensor


def _in_forward_order(model: nn.Module, loader: DeviceLoader, runtime: Runtime) -> list[nn.Module]:
    """The tracking layers in the order in which an image meets them."""
    met: list[nn.Module] = []
    first_image = next(loader.in_order(1))
    with _watched(tracking_layers(model), lambda layer, _: met.append(layer)):
        _outputs(model, first_image, runtime)
    return met


def _moments(
    layer: nn.Module, model: nn.Module, batches: Iterator[Batch], runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance by channel, each of shape (c,), of all inputs of the layer.

    An InstanceNorm keeps averages over samples of their own means and variances: so does this.
    """
    by_instance = isinstance(layer, nn.InstanceNorm2d)
    parts: list[_Moments] = []

    def add(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].to(exact_dtype(inputs[0].device))
        mean = x.mean((0, 2, 3))
        if by_instance:
            parts.append(_Moments(len(x), mean, x.var((2, 3)).mean(0)))
        else:
            number = x.numel() // x.shape[1]
            parts.append(_Moments(number, mean, x.var((0, 2, 3), correction=0)))
        raise _SeenEnough

    with _watched([layer], add):
        for batch in batches:
            with suppress(_SeenEnough):
                _outputs(model, batch, runtime)
    averaged = _averaged(parts)
    return (averaged.mean, averaged.variance) if by_instance else _pooled(parts, averaged)


@contextmanager
def _watched(
    layers: list[nn.Module], look: Callable[[nn.Module, tuple[Any, ...]], None]
) -> Iterator[None]:
    """Calls `look` with the inputs of these layers."""
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _averaged(parts: list[_Moments]) -> _Moments:
    """Means and variances averaged over the parts, weighted by their counts."""
    total = sum(part.number for part in parts)
    shares = _shares(parts)
    mean = (shares * torch.stack([part.mean for part in parts])).sum(0)
    variance = (shares * torch.stack([part.variance for part in parts])).sum(0)
    return _Moments(total, mean, variance)


def _pooled(parts: list[_Moments], averaged: _Moments) -> tuple[Tensor, Tensor]:
    """The mean, and the unbiased variance: within the parts and between their means."""
    means = torch.stack([part.mean for part in parts])
    between = (_shares(parts) * (means - averaged.mean).square()).sum(0)
    unbiased = averaged.number / max(averaged.number - 1, 1)
    return averaged.mean, (averaged.variance + between) * unbiased


def _shares(parts: list[_Moments]) -> Tensor:
    """The share of each part in all values, of shape (parts, 1)."""
    counts = parts[0].mean.new_tensor([part.number for part in parts])[:, None]
    return counts / counts.sum()


def _outputs(model: nn.Module, batch: Batch, runtime: Runtime) -> Tensor:
    """The outputs of the uncompiled model in float32."""
    with runtime.autocast():
        outputs: Tensor = model.forward(batch["images"])
    return outputs.float()
