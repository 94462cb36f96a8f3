"""A norm's certificate: what it does, computed from its layer on drawn inputs and recited from nowhere.

"The layer" is the norm alone, with its activation where it owns one, on x of shape (32, 16, 5, 5) in float64; "the
block" is a 3x3 convolution and that layer. Parameters have their initial values, statistics are those of some batches,
and warm-ups by the batch are over. Laws that eps makes hold only
nearly are taken to hold to within 0.1 %, all others to within rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from normbench.certificates.probes import block_of, close, drawn, fresh, images, layer_of, settled
from normbench.models import Layers, materialize
from normbench.norms import NormSpec
from normbench.norms.spec import Shape
from normbench.timing.footprint import saved_bytes

N, C, SIDE = 32, 16, 5
SHAPE: Shape = (N, C, SIDE, SIDE)
ROUNDING = 1e-6
SEEN = (11, 12, 13)  # seeds of the batches that statistics are of


@dataclass(frozen=True)
class Certificate:
    """What was computed of one norm. Of a norm that no classifier can have, only `refused` is known.

    mean_0_over, variance_1_over: the smallest sets of axes over which the layer's output has them, as "n h w"; "c/4" is
    a group of a quarter of the channels, "n/2" half of the samples.
    ignores_scale_of, ignores_shift_of: whether factors or offsets by sample, by channel, or one for the whole batch
    leave the layer's output as it was.
    saved_bytes: what norm and activation keep for the backward pass, in bytes per float32 element of the input.
    """

    refused: str | None = None
    mean_0_over: tuple[str, ...] = ()
    variance_1_over: tuple[str, ...] = ()
    standardizes_weights: bool = False
    batch_mates_matter_in_training: bool = False
    batch_mates_matter_in_evaluation: bool = False
    evaluates_as_it_trains: bool = True
    ignores_scale_of: tuple[str, ...] = ()
    ignores_shift_of: tuple[str, ...] = ()
    ignores_scale_of_weights: bool = False
    at_batch_1: str = ""
    on_1x1_maps: str = ""
    at_batch_1_on_1x1_maps: str = ""
    saved_bytes: float = 0.0
    gradient_accumulation_is_exact: bool = True
    under_activation_checkpointing: str = ""


def certify(spec: NormSpec) -> Certificate:
    """The certificate of a norm with its options chosen. Errors of an own norm's code pass through."""
    if reason := spec.refuse(SHAPE):
        return Certificate(refused=reason)
    layer = settled(layer_of(spec, SHAPE), *(drawn(*SHAPE, seed=seed) for seed in SEEN))
    block = settled(block_of(spec, SHAPE), *(images(SHAPE, seed=seed) for seed in SEEN))
    moved, x = _moved(block), drawn(*SHAPE)
    y = fresh(layer, x)
    return Certificate(
        mean_0_over=_smallest(y, lambda part: part.mean(-1)),
        variance_1_over=_smallest(y, lambda part: part.var(-1, correction=0) - 1),
        standardizes_weights=_standardizes(block),
        batch_mates_matter_in_training=_mates_matter(block, training=True),
        batch_mates_matter_in_evaluation=_mates_matter(block, training=False),
        evaluates_as_it_trains=close(
            fresh(moved, images(SHAPE)), fresh(moved, images(SHAPE), training=False), ROUNDING
        ),
        ignores_scale_of=_ignored(layer, x, lambda factors: x * factors.exp()),
        ignores_shift_of=_ignored(layer, x, lambda offsets: x + offsets),
        ignores_scale_of_weights=_ignores_weight_scale(block),
        at_batch_1=_outcome(spec, (1, C, SIDE, SIDE)),
        on_1x1_maps=_outcome(spec, (N, C, 1, 1)),
        at_batch_1_on_1x1_maps=_outcome(spec, (1, C, 1, 1)),
        saved_bytes=_saved_bytes_per_element(spec),
        gradient_accumulation_is_exact=_accumulates(moved),
        under_activation_checkpointing=_checkpointed(moved),
    )


# Moments

Parts = tuple[
    int, int, bool
]  # into how many parts the samples and channels are split; whether each pixel is alone


def _smallest(y: Tensor, error: Callable[[Tensor], Tensor]) -> tuple[str, ...]:
    """Names of the finest splits of y within whose parts the error is nearly 0, leaving out those that follow."""
    divisors = [[k for k in range(1, size + 1) if size % k == 0] for size in (N, C)]
    splits: list[Parts] = [(n, c, False) for n, c in product(*divisors)] + [(N, 1, True)]
    holds = [split for split in splits if error(_parts(y, split)).abs().max() < 1e-3]
    return tuple(
        _name(split) for split in holds if not any(_is_finer(other, split) for other in holds)
    )


def _parts(y: Tensor, split: Parts) -> Tensor:
    """The values of each part in the last axis."""
    n, c, by_pixel = split
    if by_pixel:
        return y.permute(0, 2, 3, 1)
    return y.view(n, N // n, c, C // c, SIDE * SIDE).transpose(1, 2).flatten(2)


def _is_finer(one: Parts, other: Parts) -> bool:
    return one != other and one[0] % other[0] == 0 and one[1] % other[1] == 0 and one[2] >= other[2]


def _name(split: Parts) -> str:
    n, c, by_pixel = split
    samples = {N: "", 1: "n"}.get(n, f"n/{n}")
    channels = {C: "", 1: "c"}.get(c, f"c/{c}")
    return " ".join(filter(None, [samples, channels, "" if by_pixel else "h w"]))


def _standardizes(block: nn.Module) -> bool:
    """Whether every filter that the convolution uses has mean 0 and one and the same variance."""
    filters = block[0].weight.detach().flatten(1)  # type: ignore[index]
    variances = filters.var(1, correction=0)
    return close(filters.mean(1), torch.zeros(C)) and close(variances, variances.mean().expand(C))


# Dependence and invariance


def _mates_matter(block: nn.Module, *, training: bool) -> bool:
    """Whether the first sample's output changes with another sample, after one training step's statistics."""
    block, x = copy.deepcopy(block), images(SHAPE)
    block.train()(images(SHAPE, seed=1))
    changed = x.clone()
    changed[1:] = 5 * changed[1:] + 3
    return not close(
        fresh(block, x, training=training)[0], fresh(block, changed, training=training)[0], ROUNDING
    )


def _moved(block: nn.Module) -> nn.Module:
    """The block after a step that has moved every parameter, which statistics and power iterations then run after."""
    moved = copy.deepcopy(block)
    with torch.no_grad():
        for seed, parameter in enumerate(moved.parameters()):
            noise = torch.randn(
                parameter.shape,
                generator=torch.Generator().manual_seed(seed),
                dtype=parameter.dtype,
            )
            parameter.add_(noise, alpha=0.1)
    return moved


def _ignored(layer: nn.Module, x: Tensor, change: Callable[[Tensor], Tensor]) -> tuple[str, ...]:
    shapes = {"sample": (N, 1, 1, 1), "channel": (1, C, 1, 1), "batch": (1, 1, 1, 1)}
    generator = torch.Generator().manual_seed(2)
    values = {
        name: torch.randn(shape, generator=generator, dtype=x.dtype)
        for name, shape in shapes.items()
    }
    return tuple(
        name
        for name, value in values.items()
        if close(fresh(layer, x), fresh(layer, change(value)))
    )


def _ignores_weight_scale(block: nn.Module) -> bool:
    """Whether three times the learned weight (of weight norm its v) gives the same output."""
    scaled = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in scaled[0].parameters():  # type: ignore[index]
            if parameter.dim() == 4 and parameter[0].numel() > 1:
                parameter.mul_(3)
    return close(fresh(block, images(SHAPE)), fresh(scaled, images(SHAPE)))


def _outcome(spec: NormSpec, shape: Shape) -> str:
    """What training on inputs of this shape comes to."""
    if reason := spec.refuse(shape):
        return f"refused: {reason}"
    layer, x = layer_of(spec, shape), drawn(*shape)
    factors = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype) + 0.5
    if close(fresh(layer, x), fresh(layer, drawn(*shape, seed=1))):
        return "forgets its input"
    return "keeps only signs" if close(fresh(layer, x), fresh(layer, x * factors)) else "works"


# Sizes


def sizes(spec: NormSpec) -> tuple[str, str]:
    """How many parameters and how many values of state the norm adds, as in "2 per channel + 1"."""
    return (
        _size(spec, lambda module: sum(p.numel() for p in module.parameters())),
        _size(spec, lambda module: sum(b.numel() for b in module.buffers())),
    )


def _size(spec: NormSpec, count: Callable[[nn.Module], int]) -> str:
    """How a count grows with channels and pixels, beyond the convolution's own weight and bias."""

    def beyond(channels: int, side: int) -> int:
        plain = nn.Conv2d(3, channels, 3, bias=spec.conv_bias)
        return count(block_of(spec, (1, channels, side, side))) - count(plain)

    at_first, wider, larger = beyond(16, 4), beyond(32, 4), beyond(16, 8)
    if at_first == wider == 0:
        return "0"
    per_channel, rest = divmod(wider - at_first, 16)[0], at_first - (wider - at_first)
    unit = "per channel" if larger == at_first else "per channel and pixel"
    number = per_channel if larger == at_first else per_channel // 16
    return f"{number} {unit}" + (f" + {rest}" if rest else "")


def _saved_bytes_per_element(spec: NormSpec) -> float:
    shape = (4, C, 32, 32)
    site = materialize(Layers(spec, seed=0).norm_act(C), shape[1:])
    x = drawn(*shape, dtype=torch.float32).requires_grad_()
    return round(saved_bytes(site, x, list(site.parameters())) / x.numel(), 1)


# Training


def _gradients(block: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Of the mean over all samples of a fixed linear function of the output."""
    block = copy.deepcopy(block).train()
    for x, weights in batches:
        ((block(x) * weights).sum() / N).backward()
    return [p.grad for p in block.parameters() if p.grad is not None]


def _accumulates(block: nn.Module) -> bool:
    """Whether the gradients of two halves of a batch add up to the gradient of the whole."""
    x, weights = images(SHAPE), drawn(*SHAPE, seed=4)
    whole = _gradients(block, iter([(x, weights)]))
    halves = _gradients(block, zip(x.chunk(2), weights.chunk(2), strict=True))
    return all(close(one, other, ROUNDING) for one, other in zip(whole, halves, strict=True))


def _checkpointed(block: nn.Module) -> str:
    """What running the forward pass a second time in the backward pass does to the state and to the gradients."""
    x = images(SHAPE).requires_grad_()
    plain, twice, again = (copy.deepcopy(block).train() for _ in range(3))
    plain(x).square().sum().backward()
    twice(x)
    twice(x)
    CheckpointFunction.apply(
        again, True, x
    ).square().sum().backward()  # `checkpoint` itself imports torch._dynamo
    pairs = [
        (one.grad, other.grad)
        for one, other in zip(plain.parameters(), again.parameters(), strict=True)
    ]
    same = all(
        close(one, other, ROUNDING) for one, other in pairs if one is not None and other is not None
    )
    return _state_after(again, plain, twice) + ("" if same else "; gradient differs")


def _state_after(again: nn.Module, plain: nn.Module, twice: nn.Module) -> str:
    if not list(plain.buffers()):
        return "no state"
    if _same_state(again, plain):
        return "state as without"
    return "state updated twice" if _same_state(again, twice) else "state differs"


def _same_state(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(first, second)
        for first, second in zip(one.buffers(), other.buffers(), strict=True)
    )
