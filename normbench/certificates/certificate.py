"""A norm's certificate: facts computed from its layer on drawn inputs.

The layer has inputs of shape (32, 16, 5, 5) and type float64, the block is a convolution and the
layer (certificates/probes.py). Parameters have their initial values; running statistics come from
three batches. A norm that warms up has two sets of facts: after the warm-up, and within it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from normbench.certificates.axes import finest, whitened_groups
from normbench.certificates.cells import in_words, kinds_of_sharing
from normbench.certificates.outcome import outcome
from normbench.certificates.probes import (
    COUNTER,
    SEEN,
    block_of,
    close,
    drawn,
    fresh,
    images,
    layer_of,
    moved,
    settled,
)
from normbench.certificates.sizes import saved_bytes_per_element
from normbench.certificates.weights import fan_ins, ignores_scale, standardizes
from normbench.norms import NormSpec
from normbench.norms.spec import Shape

N, C, SIDE = 32, 16, 5
SHAPE: Shape = (N, C, SIDE, SIDE)
# Tolerance of facts that hold exactly; facts that eps disturbs have the tolerance of `close`.
ROUNDING = 1e-6
# Sizes of the parts of a batch whose gradients are accumulated.
PARTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Certificate:
    """Facts about a norm. A norm that refuses the layer's shape has `refused`, and no more facts.

    computes_in: the narrowest floating type of what the layer computes from a float64 input.
    shares_statistics_over: the axes of the cells whose values enter an output in training, one for
        each kind of channel; "nothing" where a cell is alone (certificates/cells.py).
    mean_0_over, variance_1_over: the smallest sets of axes over which the layer's output has mean 0
        or variance 1, as "n h w"; "c/4" is a group of a quarter of the channels, "n/2" half of the
        samples.
    identity_covariance_within: "c" or groups of channels such as "c/4", in which the output's
        channels have the identity as their covariance over (n, h, w).
    standardizes_weights_of_fan_in, ignores_scale_of_weights_of_fan_in: of the fan-ins 27 and 2304
        those where the filters have mean 0 and equal variances, and those where weights three times
        as large leave the block's output unchanged; both to 0.1 %.
    order_of_samples_matters: whether the same batch in another order gives samples other outputs.
    commutes_with_shifts: whether a map shifted in a circle gives the output shifted likewise.
    ignores_scale_of, ignores_shift_of: "sample", "channel", "batch" where a factor or offset per
        sample, per channel, or for the whole batch leaves the layer's output unchanged.
    saved_bytes: bytes that norm and activation keep for the backward pass, per float32 element of
        the input.
    accumulates_exactly_in_parts_of: sizes of equal parts of the batch whose gradients add up to the
        gradient of the batch.
    in_warm_up: the facts before the layer has counted many batches, where any of them differs.
    """

    refused: str | None = None
    computes_in: str = ""
    shares_statistics_over: tuple[str, ...] = ()
    mean_0_over: tuple[str, ...] = ()
    variance_1_over: tuple[str, ...] = ()
    identity_covariance_within: str = "-"
    standardizes_weights_of_fan_in: tuple[int, ...] = ()
    batch_mates_matter_in_training: bool = False
    batch_mates_matter_in_evaluation: bool = False
    order_of_samples_matters: bool = False
    evaluates_as_it_trains: bool = True
    commutes_with_shifts: bool = True
    ignores_scale_of: tuple[str, ...] = ()
    ignores_shift_of: tuple[str, ...] = ()
    ignores_scale_of_weights_of_fan_in: tuple[int, ...] = ()
    at_batch_1: str = ""
    on_1x1_maps: str = ""
    at_batch_2_on_1x1_maps: str = ""
    at_batch_1_on_1x1_maps: str = ""
    saved_bytes: float = 0.0
    accumulates_exactly_in_parts_of: tuple[int, ...] = ()
    under_activation_checkpointing: str = ""
    in_warm_up: Certificate | None = None


def certify(spec: NormSpec) -> Certificate:
    """Computes the certificate of a norm. Errors in an own norm's code pass through."""
    if refusal := spec.refuse(SHAPE):
        return Certificate(refused=refusal.reason)
    certificate = _certified(spec, late=True)
    names = [name for name, _ in layer_of(spec, SHAPE).named_buffers()]
    if any(name.endswith(COUNTER) for name in names):
        in_warm_up = _certified(spec, late=False)
        if in_warm_up != certificate:
            return replace(certificate, in_warm_up=in_warm_up)
    return certificate


def _certified(spec: NormSpec, *, late: bool) -> Certificate:
    """The facts of one regime: late in training, or at its start."""
    layer = settled(layer_of(spec, SHAPE), *(drawn(*SHAPE, seed=seed) for seed in SEEN), late=late)
    block = settled(block_of(spec, SHAPE), *(images(SHAPE, seed=seed) for seed in SEEN), late=late)
    shifted = moved(block)
    x = drawn(*SHAPE)
    y = fresh(layer, x)
    return Certificate(
        computes_in=_narrowest_type(layer, x),
        shares_statistics_over=tuple(map(in_words, kinds_of_sharing(spec, SHAPE, late=late))),
        mean_0_over=finest(y, lambda part: part.mean(-1)),
        variance_1_over=finest(y, lambda part: part.var(-1, correction=0) - 1),
        identity_covariance_within=whitened_groups(y),
        standardizes_weights_of_fan_in=fan_ins(spec, SHAPE, standardizes, late=late),
        batch_mates_matter_in_training=_mates_matter(block, training=True),
        batch_mates_matter_in_evaluation=_mates_matter(block, training=False),
        order_of_samples_matters=_order_matters(layer, x),
        evaluates_as_it_trains=_evaluates_as_it_trains(shifted),
        commutes_with_shifts=_commutes_with_shifts(moved(layer), x),
        ignores_scale_of=_ignored(layer, x, lambda factors: x * factors.exp()),
        ignores_shift_of=_ignored(layer, x, lambda offsets: x + offsets),
        ignores_scale_of_weights_of_fan_in=fan_ins(spec, SHAPE, ignores_scale, late=late),
        at_batch_1=outcome(spec, (1, C, SIDE, SIDE), late=late),
        on_1x1_maps=outcome(spec, (N, C, 1, 1), late=late),
        at_batch_2_on_1x1_maps=outcome(spec, (2, C, 1, 1), late=late),
        at_batch_1_on_1x1_maps=outcome(spec, (1, C, 1, 1), late=late),
        saved_bytes=saved_bytes_per_element(spec, late=late),
        accumulates_exactly_in_parts_of=_exact_parts(spec, shifted),
        under_activation_checkpointing=_checkpointed(shifted),
    )


class _FloatingTypes(TorchFunctionMode):
    """Collects the floating types that torch's functions return."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, list | tuple) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.found.add(value.dtype)
        return result


def _narrowest_type(layer: nn.Module, x: Tensor) -> str:
    """The narrowest floating type that the layer's forward pass makes of x, as "float64"."""
    layer = copy.deepcopy(layer).train()
    with _FloatingTypes() as types:
        layer(x)
    narrowest = min(types.found | {x.dtype}, key=lambda dtype: dtype.itemsize)
    return str(narrowest).removeprefix("torch.")


def _mates_matter(block: nn.Module, *, training: bool) -> bool:
    """Whether the output of the first or the last sample changes with all other samples."""
    block = copy.deepcopy(block)
    # A step on another batch, for norms with statistics of the previous step.
    block.train()(images(SHAPE, seed=1))
    x = images(SHAPE)
    before = fresh(block, x, training=training)
    for kept in (0, N - 1):
        changed = 5 * x + 3
        changed[kept] = x[kept]
        after = fresh(block, changed, training=training)
        if not close(before[kept], after[kept], ROUNDING):
            return True
    return False


def _order_matters(layer: nn.Module, x: Tensor) -> bool:
    """Whether a sample's output in training changes with the order of the batch."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    return not close(fresh(layer, x)[order], fresh(layer, x[order]), ROUNDING)


def _commutes_with_shifts(layer: nn.Module, x: Tensor) -> bool:
    """Whether shifting the map by (1, 2) pixels, in a circle, shifts the output."""
    shifted = fresh(layer, x.roll((1, 2), (2, 3)))
    return close(fresh(layer, x).roll((1, 2), (2, 3)), shifted, ROUNDING)


def _evaluates_as_it_trains(block: nn.Module) -> bool:
    x = images(SHAPE)
    return close(fresh(block, x), fresh(block, x, training=False), ROUNDING)


def _ignored(layer: nn.Module, x: Tensor, change: Callable[[Tensor], Tensor]) -> tuple[str, ...]:
    """For which of sample, channel and batch a change of x by random values alters no output."""
    generator = torch.Generator().manual_seed(2)
    y = fresh(layer, x)
    ignored = []
    for name, shape in (("sample", (N, 1, 1, 1)), ("channel", (1, C, 1, 1)), ("batch", (1,) * 4)):
        values = torch.randn(shape, generator=generator, dtype=x.dtype)
        if close(y, fresh(layer, change(values))):
            ignored.append(name)
    return tuple(ignored)


def _exact_parts(spec: NormSpec, block: nn.Module) -> tuple[int, ...]:
    """The sizes of parts of a batch whose gradients add up to the gradient of the batch."""
    wanted = _accumulated(block, N)
    exact = []
    for size in PARTS:
        if spec.refuse((size, C, SIDE, SIDE)) is not None:
            continue
        if _all(_close, wanted, _accumulated(block, size)):
            exact.append(size)
    return tuple(exact)


def _accumulated(block: nn.Module, size: int) -> list[Tensor]:
    """Gradients of a batch, accumulated over parts of `size` samples."""
    block, x, weights = copy.deepcopy(block).train(), images(SHAPE), drawn(*SHAPE, seed=4)
    for part, part_weights in zip(x.split(size), weights.split(size), strict=True):
        (block(part) * part_weights).sum().backward()
    return _gradients(block)


def _checkpointed(block: nn.Module) -> str:
    """Effects on state and gradients of the second forward pass that checkpointing runs."""
    x = images(SHAPE).requires_grad_()
    plain, twice, again = (copy.deepcopy(block).train() for _ in range(3))
    plain(x).square().sum().backward()
    twice(x)
    # With its backward pass, in which some norms keep state, too.
    twice(x).square().sum().backward()
    # torch.utils.checkpoint.checkpoint would import torch._dynamo, which takes seconds.
    CheckpointFunction.apply(again, True, x).square().sum().backward()
    state = "state differs"
    if not list(plain.buffers()):
        state = "no state"
    elif _all(torch.equal, again.buffers(), plain.buffers()):
        state = "state as without"
    elif _all(torch.equal, again.buffers(), twice.buffers()):
        state = "state updated twice"
    if not _all(_close, _gradients(plain), _gradients(again)):
        state += "; gradient differs"
    return state


def _gradients(block: nn.Module) -> list[Tensor]:
    return [p.grad for p in block.parameters() if p.grad is not None]


def _close(first: Tensor, second: Tensor) -> bool:
    return close(first, second, ROUNDING)


def _all(
    equal: Callable[[Tensor, Tensor], bool], first: Iterable[Tensor], second: Iterable[Tensor]
) -> bool:
    return all(equal(*pair) for pair in zip(first, second, strict=True))
