"""A norm's certificate: facts computed from its layer on drawn inputs.

The layer has inputs of shape (32, 16, 5, 5) in float64, the block is a convolution and the layer
(certificates/probes.py). Parameters have their initial values; running statistics come from three
batches; warm-ups are over.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from normbench.certificates.probes import block_of, close, drawn, fresh, images, layer_of, settled
from normbench.models import Layers, materialize
from normbench.norms import NormSpec
from normbench.norms.spec import Shape
from normbench.timing.footprint import saved_bytes

N, C, SIDE = 32, 16, 5
DIVISORS_OF_N, DIVISORS_OF_C = (1, 2, 4, 8, 16, 32), (1, 2, 4, 8, 16)
SHAPE: Shape = (N, C, SIDE, SIDE)
# Tolerance of facts that hold exactly; facts that eps disturbs have the tolerance of `close`.
ROUNDING = 1e-6
# Seeds of the batches behind running statistics.
SEEN = (11, 12, 13)


@dataclass(frozen=True)
class Certificate:
    """Facts about a norm. A norm that refuses the layer's shape has `refused`, and no more facts.

    mean_0_over, variance_1_over: the smallest sets of axes over which the layer's output has mean 0
        or variance 1, as "n h w"; "c/4" is a group of a quarter of the channels, "n/2" half of the
        samples.
    ignores_scale_of, ignores_shift_of: "sample", "channel", "batch" where a factor or offset per
        sample, per channel, or for the whole batch leaves the layer's output unchanged.
    saved_bytes: bytes that norm and activation keep for the backward pass, per float32 element of
        the input.
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
    """Computes the certificate of a norm. Errors in an own norm's code pass through."""
    if refusal := spec.refuse(SHAPE):
        return Certificate(refused=refusal.reason)
    layer = settled(layer_of(spec, SHAPE), *(drawn(*SHAPE, seed=seed) for seed in SEEN))
    block = settled(block_of(spec, SHAPE), *(images(SHAPE, seed=seed) for seed in SEEN))
    moved = _moved(block)
    x = drawn(*SHAPE)
    y = fresh(layer, x)
    return Certificate(
        mean_0_over=_smallest(y, lambda part: part.mean(-1)),
        variance_1_over=_smallest(y, lambda part: part.var(-1, correction=0) - 1),
        standardizes_weights=_standardizes(block),
        batch_mates_matter_in_training=_mates_matter(block, training=True),
        batch_mates_matter_in_evaluation=_mates_matter(block, training=False),
        evaluates_as_it_trains=_evaluates_as_it_trains(moved),
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


def _moved(block: nn.Module) -> nn.Module:
    """A copy with every parameter moved, as by a training step, and buffers left behind."""
    moved = copy.deepcopy(block)
    with torch.no_grad():
        for seed, parameter in enumerate(moved.parameters()):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise, alpha=0.1)
    return moved


# A split divides y into parts: (groups of samples, groups of channels, whether each pixel is a part
# of its own).
Split = tuple[int, int, bool]


def _smallest(y: Tensor, error: Callable[[Tensor], Tensor]) -> tuple[str, ...]:
    """Names the finest splits of y with an error near 0 in every part; coarser splits follow."""
    splits: list[Split] = [(n, c, False) for n in DIVISORS_OF_N for c in DIVISORS_OF_C]
    splits.append((N, 1, True))
    holding = [split for split in splits if error(_parts(y, split)).abs().max() < 1e-3]
    names = []
    for split in holding:
        if not any(_is_finer(candidate, split) for candidate in holding):
            names.append(_name(split))
    return tuple(names)


def _parts(y: Tensor, split: Split) -> Tensor:
    """y with the values of each part along the last axis."""
    n, c, by_pixel = split
    if by_pixel:
        return y.permute(0, 2, 3, 1)
    return y.view(n, N // n, c, C // c, SIDE * SIDE).transpose(1, 2).flatten(2)


def _is_finer(first: Split, second: Split) -> bool:
    divides = first[0] % second[0] == 0 and first[1] % second[1] == 0
    return first != second and divides and first[2] >= second[2]


def _name(split: Split) -> str:
    n, c, by_pixel = split
    samples = {N: "", 1: "n "}.get(n, f"n/{n} ")
    channels = {C: "", 1: "c "}.get(c, f"c/{c} ")
    pixels = "" if by_pixel else "h w"
    return f"{samples}{channels}{pixels}".strip()


def _standardizes(block: nn.Module) -> bool:
    """Whether all filters of the convolution have mean 0 and the same variance."""
    filters = block[0].weight.detach().flatten(1)  # type: ignore[index]
    variances = filters.var(1, correction=0)
    return close(filters.mean(1), torch.zeros(C)) and close(variances, variances.mean().expand(C))


def _mates_matter(block: nn.Module, *, training: bool) -> bool:
    """Whether the first sample's output changes with the batch's further samples."""
    block = copy.deepcopy(block)
    # A step on another batch, for norms with statistics of the previous step.
    block.train()(images(SHAPE, seed=1))
    x = images(SHAPE)
    changed = x.clone()
    changed[1:] = 5 * changed[1:] + 3
    before, after = fresh(block, x, training=training), fresh(block, changed, training=training)
    return not close(before[0], after[0], ROUNDING)


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


def _ignores_weight_scale(block: nn.Module) -> bool:
    """Whether three times the learned weight (weight norm: v) leaves the output unchanged."""
    scaled = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in scaled[0].parameters():  # type: ignore[index]
            if parameter.dim() == 4 and parameter[0].numel() > 1:
                parameter.mul_(3)
    return close(fresh(block, images(SHAPE)), fresh(scaled, images(SHAPE)))


def _outcome(spec: NormSpec, shape: Shape) -> str:
    """Whether training on inputs of this shape is refused, forgets the input, or works."""
    if refusal := spec.refuse(shape):
        return f"refused: {refusal.reason}"
    layer, x = layer_of(spec, shape), drawn(*shape)
    y = fresh(layer, x)
    if close(y, fresh(layer, drawn(*shape, seed=1))):
        return "forgets its input"
    factors = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype) + 0.5
    if close(y, fresh(layer, x * factors)):
        return "keeps only signs"
    return "works"


def sizes(spec: NormSpec) -> tuple[str, str]:
    """How many parameters and state values the norm adds, as in "2 per channel + 1"."""
    parameters, state = [], []
    for channels, side in ((16, 4), (32, 4), (16, 8)):
        block = block_of(spec, (1, channels, side, side))
        plain = nn.Conv2d(3, channels, 3, bias=spec.conv_bias)
        parameters.append(_count(block.parameters()) - _count(plain.parameters()))
        state.append(_count(block.buffers()))
    return _growth(*parameters), _growth(*state)


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _growth(base: int, wider: int, larger: int) -> str:
    """A count's growth with channels and pixels, from counts of 16x4x4, 32x4x4 and 16x8x8."""
    if base == wider == 0:
        return "0"
    # 16 channels more; with values per pixel, 4x4 pixels a channel.
    number, unit = (wider - base) // 16, "per channel"
    if larger != base:
        number, unit = number // 16, "per channel and pixel"
    rest = base - (wider - base)
    return f"{number} {unit} + {rest}" if rest else f"{number} {unit}"


def _saved_bytes_per_element(spec: NormSpec) -> float:
    shape = (4, C, 32, 32)
    norm_act = materialize(Layers(spec, seed=0).norm_act(C), shape[1:])
    x = drawn(*shape, dtype=torch.float32).requires_grad_()
    return round(saved_bytes(norm_act, x, list(norm_act.parameters())) / x.numel(), 1)


def _accumulates(block: nn.Module) -> bool:
    """Whether the gradients of a batch's two halves add up to the gradient of the batch."""
    x, weights = images(SHAPE), drawn(*SHAPE, seed=4)
    whole, halves = copy.deepcopy(block).train(), copy.deepcopy(block).train()
    (whole(x) * weights).sum().backward()
    for half, half_weights in zip(x.chunk(2), weights.chunk(2), strict=True):
        (halves(half) * half_weights).sum().backward()
    return _all(_close, _gradients(whole), _gradients(halves))


def _checkpointed(block: nn.Module) -> str:
    """Effects on state and gradients of the second forward pass that checkpointing runs."""
    x = images(SHAPE).requires_grad_()
    plain, twice, again = (copy.deepcopy(block).train() for _ in range(3))
    plain(x).square().sum().backward()
    twice(x)
    twice(x)
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
