"""Two more evaluations for BatchNorm, to tell a failure of training from a failure of evaluation.

The usual evaluation normalizes with running averages of training. Here the statistics come from the
whole training set under the final weights ("precise", arXiv:2105.07576), or from the test batch, as
in training. The model is restored afterwards, whatever happens. A compiled model runs uncompiled:
its layers are watched, or are in another mode than they were compiled for. A third evaluation is in
weighing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normbench.data.loader import DeviceLoader
from normbench.errors import NormbenchError
from normbench.norms.batch_layers import ExtendedBatchNorm
from normbench.norms.whitening import IterNorm
from normbench.seeds import stream
from normbench.tasks.task import Batch, Task
from normbench.training.evaluate import EVAL_BATCH_SIZE, evaluate
from normbench.training.runtime import Runtime
from normbench.training.sums import Sums, exact_dtype

RUNNING = ("running_mean", "running_var", "running_mean_square", "running_whitening")


def tracking_layers(model: nn.Module) -> list[nn.Module]:
    """The layers with buffers for running statistics, with which they evaluate."""
    found = []
    for module in model.modules():
        if any(getattr(module, name, None) is not None for name in RUNNING):
            found.append(module)
    return found


@torch.no_grad()
def check_evaluations(model: nn.Module, image_shape: Sequence[int]) -> None:
    """Raises NormbenchError where a layer with running statistics runs twice on an image.

    Precise statistics are taken layer after layer; of such a layer none comes first.
    """
    layers, met = tracking_layers(model), []
    if not layers:
        return
    with restored(model), watched(layers, lambda layer, _: met.append(layer)):
        model.eval()(torch.zeros(1, *image_shape))
    if len(set(met)) < len(met):
        raise NormbenchError(
            "train.bn_evaluations=true: a layer with running statistics runs several times on an "
            "image, and precise statistics are taken layer after layer; of the lstm, "
            "model.statistics=per_step can be evaluated so"
        )


@torch.no_grad()
def evaluate_precisely(
    model: nn.Module, train: DeviceLoader, test: DeviceLoader, task: Task, runtime: Runtime
) -> float:
    """The primary metric on the test set, with statistics over all images of `train`."""
    with precise_statistics(model, train, runtime):
        return evaluate(model, test, task, runtime).means[task.primary.name]


@torch.no_grad()
def evaluate_batchwise(
    model: nn.Module, test: DeviceLoader, task: Task, runtime: Runtime, batch_size: int
) -> float:
    """The primary metric on the test set, with the statistics of random batches of training size.

    Layers with running statistics normalize as in training. The last batch is filled up with images
    of the first, which do not count again.
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
            outputs = outputs_of(model, batch, runtime)
        counted = {name: tensor[:number] for name, tensor in batch.items()}
        sums.add(*task.assess(outputs[:number], counted, training=False), number)
    return sums.means()[task.primary.name]


@contextmanager
def precise_statistics(
    model: nn.Module, loader: DeviceLoader, runtime: Runtime, batch_size: int = EVAL_BATCH_SIZE
) -> Iterator[None]:
    """The model in evaluation mode, with statistics over all images of `loader`.

    Layer after layer, so that each layer sees the evaluation outputs of the layers before it: the
    split into batches changes nothing. The price is a forward pass for each layer, up to the layer.
    """
    with restored(model):
        model.eval()
        for layer in in_forward_order(tracking_layers(model), model, loader, runtime):
            moments = _moments(layer, model, loader.in_order(batch_size), runtime)
            for name, value in moments.items():
                running = getattr(layer, name, None)
                if running is not None:
                    running.copy_(_in_shape(value, running))
        yield


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, but its layers with running statistics in training mode."""
    with restored(model):
        model.eval()
        for layer in tracking_layers(model):
            layer.train()
        yield


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Gives every module its mode and its buffers back, whatever happened to them."""
    modes, buffers = [], []
    for module in model.modules():
        modes.append((module, module.training))
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


def in_forward_order(
    layers: list[nn.Module], model: nn.Module, loader: DeviceLoader, runtime: Runtime
) -> list[nn.Module]:
    """Those of the layers that run on an image, in the order in which they do."""
    met: list[nn.Module] = []
    first_image = next(loader.in_order(1))
    with watched(layers, lambda layer, _: met.append(layer)):
        outputs_of(model, first_image, runtime)
    return met


def _moments(
    layer: nn.Module, model: nn.Module, batches: Iterator[Batch], runtime: Runtime
) -> dict[str, Tensor]:
    """Statistics of all inputs of the layer, of shape (c,), by the name of their running average.

    Mean, unbiased variance and mean square by channel; of an IterNorm the whitening matrices, too.
    An InstanceNorm keeps averages over samples of their own means and variances: so does this. Of
    an ExtendedBatchNorm the variance is the channels' mean, of shape (1,).
    """
    by_instance = isinstance(layer, nn.InstanceNorm2d)
    found: list[_Moments] = []
    products: list[Tensor] = []  # by batch, for an IterNorm

    def add(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].to(exact_dtype(inputs[0].device))
        if not found:
            found.append(_Moments(x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])))
        count = len(x) if by_instance else x.numel() // x.shape[1]
        by_channel = x.var((2, 3)).mean(0) if by_instance else x.var((0, 2, 3), correction=0)
        found[0].add(count, x.mean((0, 2, 3)), by_channel)
        if isinstance(layer, IterNorm):
            rows = layer.rows_of(x)
            products.append(rows @ rows.mT)
        raise _SeenEnough

    with watched([layer], add):
        for batch in batches:
            with suppress(_SeenEnough):
                outputs_of(model, batch, runtime)
    (moments,) = found
    if by_instance:
        return {"running_mean": moments.mean, "running_var": moments.within}
    variance = moments.within + moments.between
    statistics = {
        "running_mean": moments.mean,
        "running_mean_square": variance + moments.mean.square(),
    }
    if isinstance(layer, IterNorm):
        mean = moments.mean.reshape(len(layer.running_whitening), -1, 1)
        covariance = torch.stack(products).sum(0) / moments.count - mean @ mean.mT
        statistics["running_whitening"] = layer.whitening_of(covariance)
    if isinstance(layer, ExtendedBatchNorm):
        variance = variance.mean(0, keepdim=True)
    statistics["running_var"] = variance * (moments.count / max(moments.count - 1, 1))
    return statistics


@dataclass
class _Moments:
    """Mean over parts, mean of their variances, and variance of their means, each (c,).

    Kept up in place: small tensors that stay, between large ones that go, would keep the large
    ones' memory from being used again.
    """

    mean: Tensor
    within: Tensor
    count: int = 0

    def __post_init__(self) -> None:
        self.between = torch.zeros_like(self.mean)

    def add(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Adds a part of so many values (Chan, Golub, LeVeque, Am. Stat. 37, 1983, 242-247)."""
        self.count += count
        share = count / self.count
        step = mean - self.mean
        self.between.add_(step.square(), alpha=share).mul_(1 - share)
        self.mean.add_(step, alpha=share)
        self.within.add_(variance - self.within, alpha=share)


@contextmanager
def watched(
    layers: list[nn.Module], look: Callable[[nn.Module, tuple[Any, ...]], None]
) -> Iterator[None]:
    """Calls `look` with the layer and its inputs before each of these layers runs."""
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def outputs_of(model: nn.Module, batch: Batch, runtime: Runtime) -> Tensor:
    """The outputs of the uncompiled model in float32."""
    with runtime.autocast():
        outputs: Tensor = model.forward(batch["images"])
    return outputs.float()
