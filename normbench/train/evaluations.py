"""BatchNorm's other two evaluations, which tell a failure of training from a failure of evaluation.

The usual one takes running averages of training. Here the statistics come from the whole training set under the final
weights ("precise", arXiv:2105.07576), or from the test batch, as in training. The model is left as it was, whatever
happens. A compiled model runs uncompiled where its layers are watched, or are in another mode than it was compiled for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from normbench.data.loader import Batch, DeviceLoader
from normbench.errors import NormbenchError
from normbench.seeds import stream
from normbench.train.engine import EVAL_BATCH_SIZE, Metrics, evaluate, exact_dtype
from normbench.train.runtime import Runtime

RUNNING = ("running_mean", "running_var")


def tracking_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that evaluate with running statistics: those with buffers of these names."""
    return [
        module
        for module in model.modules()
        if any(getattr(module, name, None) is not None for name in RUNNING)
    ]


@torch.no_grad()
def precise_accuracy(
    model: nn.Module, train: DeviceLoader, test: DeviceLoader, runtime: Runtime
) -> float:
    """Test accuracy with the mean and variance over all images of `train`, not augmented, for the running ones."""
    with precise_statistics(model, train, runtime):
        return evaluate(model, test, runtime)[1]


@torch.no_grad()
def batch_accuracy(
    model: nn.Module, test: DeviceLoader, runtime: Runtime, batch_size: int
) -> float:
    """Test accuracy with the statistics of the test batch, in random batches of as many images as in training.

    Layers with running statistics normalize as in training: batch_renorm corrects towards the running ones, and an
    InstanceNorm that keeps some takes those of each image. The last batch is filled up with images of the first, which
    are not counted again.
    """
    metrics = Metrics(runtime.device)
    order = torch.randperm(len(test), generator=stream(0, "test batches")).to(runtime.device)
    for indices in order.split(batch_size):
        missing = min(batch_size, len(order)) - len(indices)
        batch = test.gather(torch.cat([indices, order[:missing]]))
        with batch_statistics(
            model
        ):  # for each batch anew: what one leaves in the state is none of the next one's
            logits = _logits(model, batch["images"], runtime)
        new = len(indices)
        metrics.add(
            torch.zeros((), device=logits.device), logits[:new], batch["labels"][:new]
        )  # of a loss nobody asks
    return metrics.read()[1]


@contextmanager
def precise_statistics(
    model: nn.Module, loader: DeviceLoader, runtime: Runtime, batch_size: int = EVAL_BATCH_SIZE
) -> Iterator[None]:
    """The model in evaluation mode, with statistics over all images of `loader`.

    One layer after the other, so that each sees what those before it give in evaluation: how the images are split into
    batches changes nothing. That is a forward pass for every layer, up to that layer.
    """
    with _left_as_it_was(model):
        model.eval()
        for layer in _in_forward_order(model, loader, runtime):
            moments = _moments(layer, model, loader.in_order(batch_size), runtime)
            for name, value in zip(RUNNING, moments, strict=True):
                if (running := getattr(layer, name, None)) is not None:
                    running.copy_(_in_shape(value, running))
        yield


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode but for its layers with running statistics, which normalize as in training."""
    with _left_as_it_was(model):
        model.eval()
        for layer in tracking_layers(model):
            layer.train()
        yield


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    values = [  # by name, since a layer may put another tensor in a buffer's place
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, value in values:
                setattr(module, name, buffer.copy_(value))


def _in_shape(value: Tensor, running: Tensor) -> Tensor:
    """A value per channel in the shape that the layer keeps it in, such as (1, c, 1, 1)."""
    if value.numel() != running.numel():
        kept = tuple(running.shape)
        raise NormbenchError(
            f"train.bn_evaluations: running statistics of shape {kept} are not one value per channel"
        )
    return value.view_as(running)


class _SeenEnough(Exception):
    """The rest of this forward pass is not needed."""


def _in_forward_order(model: nn.Module, loader: DeviceLoader, runtime: Runtime) -> list[nn.Module]:
    """The tracking layers as an image meets them."""
    met: list[nn.Module] = []
    images = next(loader.in_order(1))["images"]
    with _watched(tracking_layers(model), lambda layer, _: met.append(layer)):
        _logits(model, images, runtime)
    return met


def _moments(
    layer: nn.Module, model: nn.Module, batches: Iterator[Batch], runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance by channel, each of shape (c,), of all that reaches the layer.

    Of an InstanceNorm the average over samples of their own means and variances, since that is what it keeps.
    """
    parts: list[tuple[int, Tensor, Tensor]] = []

    def add(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].to(exact_dtype(inputs[0].device))
        if isinstance(layer, nn.InstanceNorm2d):
            parts.append((len(x), x.mean((0, 2, 3)), x.var((2, 3)).mean(0)))
        else:
            parts.append(
                (x.numel() // x.shape[1], x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
            )
        raise _SeenEnough

    with _watched([layer], add):
        for batch in batches:
            with suppress(_SeenEnough):
                _logits(model, batch["images"], runtime)
    return _averaged(parts) if isinstance(layer, nn.InstanceNorm2d) else _pooled(parts)


@contextmanager
def _watched(
    layers: list[nn.Module], look: Callable[[nn.Module, tuple[Any, ...]], None]
) -> Iterator[None]:
    """`look` sees the inputs of these layers."""
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _averaged(parts: list[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    means, variances = (
        torch.stack([mean for _, mean, _ in parts]),
        torch.stack([var for _, _, var in parts]),
    )
    shares = _shares(parts, means)
    return (shares * means).sum(0), (shares * variances).sum(0)


def _pooled(parts: list[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The variance within the parts and between them."""
    total = sum(count for count, _, _ in parts)
    mean, within = _averaged(parts)
    means = torch.stack([mean for _, mean, _ in parts])
    between = (_shares(parts, means) * (means - mean).square()).sum(0)
    return mean, (within + between) * (total / max(total - 1, 1))


def _shares(parts: list[tuple[int, Tensor, Tensor]], like: Tensor) -> Tensor:
    """Each part's share of all values, of shape (parts, 1)."""
    counts = like.new_tensor([count for count, _, _ in parts])[:, None]
    return counts / counts.sum()


def _logits(model: nn.Module, images: Tensor, runtime: Runtime) -> Tensor:
    with runtime.autocast():
        logits: Tensor = model.forward(images)
    return logits.float()
