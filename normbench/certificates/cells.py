"""Which cells of a batch share a statistic, computed from a layer in training.

A cell is a place in the input, (n, c, h, w) or of t tokens (n, c, t). Two cells share a statistic
where the value of one enters the output at the other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from normbench.certificates.probes import SEEN, drawn, fresh, layer_of, one_thread, settled
from normbench.norms import NormSpec
from normbench.norms.spec import Shape

AXES = {4: "nchw", 3: "nct"}  # names of axes, by their number
Place = tuple[int, ...]
# Seeds of the inputs. An input in which two effects cancel, or a maximum picks another value, is
# only one of several.
DRAWS = range(2)
# Effects below this share of the cell's own are rounding, in float64. They may be small: under one
# standard deviation of all cells, two cells near the mean move each other by little.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Sharing:
    """The cells that share a statistic with one cell, the cell itself among them.

    channel: of the cell; its sample and pixel are the first.
    cells: whether each cell is one of them, of the input's shape.
    axes: the largest boxes of these cells around the cell, as ("n h w",); "c/4" is a quarter of
        the channels, "c (3 of 16)" a number that does not divide them. Empty where the cell is
        alone.
    """

    channel: int
    cells: Tensor
    axes: tuple[str, ...]


@lru_cache(maxsize=64)
@one_thread()
def kinds_of_sharing(spec: NormSpec, shape: Shape, *, late: bool) -> tuple[Sharing, ...]:
    """One Sharing for each different `axes` among all channels, the last channel's first.

    late: after every warm-up, else before. Kept for the next call: a certificate and a cube of the
    same norm both ask.
    """
    layer = settled(layer_of(spec, shape), *(drawn(*shape, seed=seed) for seed in SEEN), late=late)
    kinds: dict[tuple[str, ...], Sharing] = {}
    for channel, cells in _sharing(layer, shape):
        axes = _axes(cells, channel)
        kinds.setdefault(axes, Sharing(channel, cells, axes))
    return tuple(kinds.values())


def in_words(sharing: Sharing) -> str:
    """The axes of the statistics in words: `n h w`, `c h w and n h w`, `nothing`."""
    return " and ".join(sharing.axes) or "nothing"


def _sharing(layer: nn.Module, shape: Shape) -> Iterator[tuple[int, Tensor]]:
    """Each channel from the last, and which cells share with its first cell."""
    probes = []
    for seed in DRAWS:
        x = drawn(*shape, seed=seed)
        # A thresholded unit stops the gradient of one of the two.
        probes += [_Probe(layer, x), _Probe(layer, -x)]
    for channel in reversed(range(shape[1])):
        place = (0, channel, *(0 for _ in shape[2:]))
        shares = torch.zeros(shape, dtype=torch.bool)
        shares[place] = True
        for probe in probes:
            shares |= probe.entering(place) | probe.left_by(place)
        yield channel, shares


class _Probe:
    """A layer's output in training on one input, and the effects of cells on cells."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        self.layer, self.x = layer, x.detach().clone().requires_grad_()
        self.y = fresh(layer, x)

    def entering(self, place: Place) -> Tensor:
        """Whether each cell of the input has a gradient from the output at this place."""
        # A layer of its own for each pass, since some keep what they saw in the backward pass.
        y = copy.deepcopy(self.layer).train()(self.x)
        (effects,) = torch.autograd.grad(y[place], self.x, materialize_grads=True)
        return _above_rounding(effects)

    @torch.no_grad()
    def left_by(self, place: Place) -> Tensor:
        """Whether each cell of the output moves with the input at this place.

        It sees statistics that have no gradient, too.
        """
        moved = self.x.clone()
        moved[place] += 1
        return _above_rounding(fresh(self.layer, moved) - self.y)


def _above_rounding(effects: Tensor) -> Tensor:
    sizes = effects.abs()
    return sizes > ROUNDING * sizes.max()


def _axes(cells: Tensor, channel: int) -> tuple[str, ...]:
    """The largest boxes of these cells, by the axes along which they have more than one cell."""
    place = (0, channel, *(0 for _ in cells.shape[2:]))
    lines = []
    for axis, index in enumerate(place):
        around: Any = (*place[:axis], slice(None), *place[axis + 1 :])
        line = cells[around].clone()
        line[index] = True
        lines.append(line)
    long = [axis for axis, line in enumerate(lines) if line.sum() > 1]
    boxes: list[tuple[int, ...]] = []
    covered = torch.zeros_like(cells)
    for number in range(len(long), 0, -1):
        for axes in combinations(long, number):
            box = _box(lines, place, axes)
            if bool((box & ~cells).any()) or any({*axes} <= {*found} for found in boxes):
                continue
            boxes.append(axes)
            covered |= box
    names = [_name(lines, axes) for axes in boxes]
    covered[place] = True
    apart = int((cells & ~covered).sum())
    if apart:
        names.append(f"{apart} cells in no box")
    return tuple(names)


def _box(lines: list[Tensor], place: Place, axes: tuple[int, ...]) -> Tensor:
    """The cells whose place along each of the axes is on its line, and as `place` elsewhere."""
    box = torch.ones([len(line) for line in lines], dtype=torch.bool)
    for axis, line in enumerate(lines):
        if axis not in axes:
            line = torch.zeros_like(line)
            line[place[axis]] = True
        sizes = [1] * len(lines)
        sizes[axis] = len(line)
        box &= line.view(sizes)
    return box


def _name(lines: list[Tensor], axes: tuple[int, ...]) -> str:
    """The axes with their parts: `c/4 h w` for a line of a quarter of the channels."""
    names = []
    for axis in axes:
        size, held = len(lines[axis]), int(lines[axis].sum())
        part = f" ({held} of {size})"
        if size % held == 0:
            part = "" if held == size else f"/{size // held}"
        names.append(f"{AXES[len(lines)][axis]}{part}")
    return " ".join(names)
