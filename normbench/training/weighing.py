"""BatchNorm evaluated with each image's own statistics mixed into the running averages.

In training an image is one of the n in its batch's statistics, in evaluation none: inference
example weighing (arXiv:1906.03548, section 3.1) gives it a weight alpha there, too. The model is
not changed. A compiled model runs uncompiled: its layers are watched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normbench.data.loader import DeviceLoader
from normbench.norms.arithmetic import PIXELS, normalized, scale_and_shift, widened
from normbench.norms.batch_layers import (
    BatchRenorm,
    GhostBatchNorm,
    SyncBatchNorm,
    WrittenOutBatchNorm,
)
from normbench.seeds import stream
from normbench.tasks.task import Task
from normbench.training.evaluate import EVAL_BATCH_SIZE
from normbench.training.evaluations import outputs_of, restored, tracking_layers
from normbench.training.runtime import Runtime
from normbench.training.sums import Sums

# The weights that are tried, besides 1 / batch_size, that of an image in its training batch.
ALPHAS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# Not what derives from them: a mixture of norms evaluates by another formula.
BATCH_NORMS = {nn.BatchNorm2d, BatchRenorm, GhostBatchNorm, SyncBatchNorm, WrittenOutBatchNorm}
NUM_CHOOSING = 2000  # images at most by which alpha is chosen


def can_be_weighed(model: nn.Module) -> bool:
    """Whether every layer with running statistics is one that evaluates as BatchNorm does."""
    kinds = {type(layer) for layer in tracking_layers(model)}
    return bool(kinds) and kinds <= BATCH_NORMS


@torch.no_grad()
def evaluate_weighed(
    model: nn.Module,
    choosing: DeviceLoader,
    test: DeviceLoader,
    task: Task,
    runtime: Runtime,
    batch_size: int,
) -> tuple[float, float]:
    """The primary metric on the test set with the example's weight alpha, and alpha.

    alpha is the one of ALPHAS and 1 / batch_size with the least loss on at most NUM_CHOOSING images
    of `choosing`, which are not test images; of equal ones the smallest.
    """
    with restored(model):
        model.eval()
        # Seed 0 for every run: the same images, so that runs stay paired.
        order = torch.randperm(len(choosing), generator=stream(0, "images that choose alpha"))
        chosen_by = order[:NUM_CHOOSING].to(runtime.device)
        losses = {}
        for alpha in sorted({*ALPHAS, 1 / batch_size}):
            losses[alpha] = _means(model, alpha, choosing, chosen_by, task, runtime)["loss"]
        best = best_alpha(losses)
        every_image = torch.arange(len(test), device=runtime.device)
        reached = _means(model, best, test, every_image, task, runtime)
    return reached[task.primary.name], best


def best_alpha(losses: dict[float, float]) -> float:
    """The weight with the least loss, a loss that is not finite being the largest."""
    return min(
        losses, key=lambda alpha: losses[alpha] if math.isfinite(losses[alpha]) else math.inf
    )


def _means(
    model: nn.Module,
    alpha: float,
    loader: DeviceLoader,
    indices: Tensor,
    task: Task,
    runtime: Runtime,
) -> dict[str, float]:
    sums = Sums(task, runtime.device)
    with weighed(model, alpha):
        for some in indices.split(EVAL_BATCH_SIZE):
            batch = loader.gather(some)
            outputs = outputs_of(model, batch, runtime)
            sums.add(*task.assess(outputs, batch, training=False), len(some))
    return sums.means()


@contextmanager
def weighed(model: nn.Module, alpha: float) -> Iterator[None]:
    """The layers with running statistics give what they would with the example's weight alpha."""
    hook = partial(_weighed_output, alpha)
    hooks = [layer.register_forward_hook(hook) for layer in tracking_layers(model)]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _weighed_output(alpha: float, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The layer's output on x (n, c, h, w), normalized by (1 - alpha) running + alpha * its own.

    So weighed are E[x] and E[x^2] = var + E[x]^2 of each example and channel, over the axes (h, w).
    The variance is E[x^2] - E[x]^2 of the weighed ones, written so that nothing cancels.
    """
    x = widened(inputs[0])
    own_var, own_mean = torch.var_mean(x, PIXELS, correction=0)
    step = own_mean - layer.running_mean
    mean = layer.running_mean + alpha * step
    within = (1 - alpha) * layer.running_var + alpha * own_var
    var = within + alpha * (1 - alpha) * step.square()
    y = normalized(x, mean, var, layer.eps)
    return scale_and_shift(y, layer.weight, layer.bias).to(output.dtype)
