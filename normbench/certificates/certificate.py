"""A norm's certificate: facts computed from its layer on drawn inputs.

The layer has inputs of shape (32, 16, 5, 5) and type float64, of tokens (32, 16, 25); the block is
a convolution, or for tokens a linear layer, and the layer (certificates/probes.py). Parameters have
their initial values; running statistics come from three batches. A norm that warms up has two sets
of facts: after the warm-up, and within it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
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
    is_of_tokens,
    layer_of,
    moved,
    one_thread,
    settled,
)
from normbench.certificates.sizes import saved_bytes_per_element
from normbench.certificates.types import narrowest_type
from normbench.certificates.weights import fan_ins, ignores_scale, standardizes
from normbench.norms import NormSpec
from normbench.norms.spec import Shape

N, C, SIDE = 32, 16, 5
SHAPE: Shape = (N, C, SIDE, SIDE)
TOKENS: Shape = (N, C, SIDE * SIDE)
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
        samples. Of tokens "n t", "c".
    identity_covariance_within: "c" or groups of channels such as "c/4", in which the output's
        channels have the identity as their covariance over (n, h, w).
    standardizes_weights_of_fan_in, ignores_scale_of_weights_of_fan_in: of the fan-ins 27 and 2304
        (of tokens, 3 and 256) those where the filters have mean 0 and equal variances, and those
        where weights three times as large leave the block's output unchanged; both to 0.1 %.
    order_of_samples_matters: whether the same batch in another order gives samples other outputs.
    commutes_with_shifts: whether a map, or the tokens, shifted in a circle give the output shifted
        likewise.
    ignores_scale_of, ignores_shift_of: "sample", "channel", "batch" where a factor or offset per
        sample, per channel, or for the whole batch leaves the layer's output unchanged.
    on_1x1_maps and the like: what training comes to; of tokens, on a single one.
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


@one_thread()
def certify(spec: NormSpec, *, tokens: bool = False) -> Certificate:
    """Computes the certificate of a norm on maps or on tokens.

    Errors in an own norm's code pass through.
    """
    shape = TOKENS if tokens else SHAPE
    if refusal := spec.refusal(shape):
        return Certificate(refused=refusal.reason)
    certificate = _certified(spec, shape, late=True)
    names = [name for name, _ in layer_of(spec, shape).named_buffers()]
    if any(name.endswith(COUNTER) for name in names):
        in_warm_up = _certified(spec, shape, late=False)
        if in_warm_up != certificate:
            return replace(certificate, in_warm_up=in_warm_up)
    return certificate


def _certified(spec: NormSpec, shape: Shape, *, late: bool) -> Certificate:
    """The facts of one regime: late in training, or at its start."""
    layer = settled(layer_of(spec, shape), *(drawn(*shape, seed=seed) for seed in SEEN), late=late)
    block = settled(block_of(spec, shape), *(images(shape, seed=seed) for seed in SEEN), late=late)
    shifted = moved(block)
    x = drawn(*shape)
    y = fresh(layer, x)
    places, one_place = shape[2:], tuple(1 for _ in shape[2:])
    saved_bytes = saved_bytes_per_element(spec, late=late, tokens=is_of_tokens(shape))
    return Certificate(
        computes_in=narrowest_type(layer, x),
        shares_statistics_over=tuple(map(in_words, kinds_of_sharing(spec, shape, late=late))),
        mean_0_over=finest(y, lambda part: part.mean(-1)),
        variance_1_over=finest(y, lambda part: part.var(-1, correction=0) - 1),
        identity_covariance_within=whitened_groups(y),
        standardizes_weights_of_fan_in=fan_ins(spec, shape, standardizes, late=late),
        batch_mates_matter_in_training=_mates_matter(block, shape, training=True),
        batch_mates_matter_in_evaluation=_mates_matter(block, shape, training=False),
        order_of_samples_matters=_order_matters(layer, x),
        evaluates_as_it_trains=_evaluates_as_it_trains(shifted, shape),
        commutes_with_shifts=_commutes_with_shifts(moved(layer), x),
        ignores_scale_of=_ignored(layer, x, lambda factors: x * factors.exp()),
        ignores_shift_of=_ignored(layer, x, lambda offsets: x + offsets),
        ignores_scale_of_weights_of_fan_in=fan_ins(spec, shape, ignores_scale, late=late),
        at_batch_1=outcome(spec, (1, C, *places), late=late),
        on_1x1_maps=outcome(spec, (N, C, *one_place), late=late),
        at_batch_2_on_1x1_maps=outcome(spec, (2, C, *one_place), late=late),
        at_batch_1_on_1x1_maps=outcome(spec, (1, C, *one_place), late=late),
        saved_bytes=saved_bytes,
        accumulates_exactly_in_parts_of=_exact_parts(spec, shifted, shape),
        under_activation_checkpointing=_checkpointed(shifted, shape),
    )


def _mates_matter(block: nn.Module, shape: Shape, *, training: bool) -> bool:
    """Whether the output of the first or the last sample changes with all other samples."""
    block = copy.deepcopy(block)
    # A step on another batch, for norms with statistics of the previous step.
    block.train()(images(shape, seed=1))
    x = images(shape)
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
    """Whether shifting the map by (1, 2) pixels, or tokens by 1, in a circle shifts the output."""
    axes = tuple(range(2, x.dim()))
    steps = tuple(range(1, len(axes) + 1))
    shifted = fresh(layer, x.roll(steps, axes))
    return close(fresh(layer, x).roll(steps, axes), shifted, ROUNDING)


def _evaluates_as_it_trains(block: nn.Module, shape: Shape) -> bool:
    x = images(shape)
    return close(fresh(block, x), fresh(block, x, training=False), ROUNDING)


def _ignored(layer: nn.Module, x: Tensor, change: Callable[[Tensor], Tensor]) -> tuple[str, ...]:
    """For which of sample, channel and batch a change of x by random values alters no output."""
    generator = torch.Generator().manual_seed(2)
    y = fresh(layer, x)
    ignored = []
    places = [1 for _ in x.shape[2:]]
    parts = {"sample": (N, 1, *places), "channel": (1, C, *places), "batch": (1, 1, *places)}
    for name, shape in parts.items():
        values = torch.randn(shape, generator=generator, dtype=x.dtype)
        if close(y, fresh(layer, change(values))):
            ignored.append(name)
    return tuple(ignored)


def _exact_parts(spec: NormSpec, block: nn.Module, shape: Shape) -> tuple[int, ...]:
    """The sizes of parts of a batch whose gradients add up to the gradient of the batch."""
    wanted = _accumulated(block, N, shape)
    exact = []
    for size in PARTS:
        if spec.refusal((size, *shape[1:])) is not None:
            continue
        if _all(_close, wanted, _accumulated(block, size, shape)):
            exact.append(size)
    return tuple(exact)


def _accumulated(block: nn.Module, size: int, shape: Shape) -> list[Tensor]:
    """Gradients of a batch, accumulated over parts of `size` samples."""
    block, x, weights = copy.deepcopy(block).train(), images(shape), drawn(*shape, seed=4)
    for part, part_weights in zip(x.split(size), weights.split(size), strict=True):
        (block(part) * part_weights).sum().backward()
    return _gradients(block)


def _checkpointed(block: nn.Module, shape: Shape) -> str:
    """Effects on state and gradients of the second forward pass that checkpointing runs."""
    x = images(shape).requires_grad_()
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
