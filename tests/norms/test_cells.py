"""Cells that share a statistic, against the axes in each norm's formula; and their figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit.norms import NAMES, REPARAMETRIZING
from matplotlib.patches import PathPatch
from torch import Tensor, nn

from normbench.analysis.figures.cubes import (
    Cube,
    Face,
    Statistic,
    cube_figure,
    sheet,
)
from normbench.analysis.figures.saving import to_svg
from normbench.analysis.figures.style import PAGE
from normbench.certificates.cells import in_words, kinds_of_sharing
from normbench.certificates.cube import cube_of
from normbench.norms import NormSpec, norms

Run = Callable[..., tuple[int, str, str]]
N, C, H, W = SHAPE = (4, 8, 3, 2)


def oracle(axes: str, channel: int) -> Tensor:
    """The cells over these axes around the first cell of the channel, by hand."""
    cells = torch.zeros(SHAPE, dtype=torch.bool)
    group = slice(channel - channel % 2, channel - channel % 2 + 2)  # 4 groups of 8 channels
    index = {
        "n h w": (slice(None), channel),
        "c h w": (0,),
        "h w": (0, channel),
        "c": (0, slice(None), 0, 0),
        "c/4 h w": (0, group),
        "n c/4 h w": (slice(None), group),
        "n c h w": (),
        "h": (0, channel, slice(None), 0),
        "n c": (slice(None), slice(None), 0, 0),
        "nothing": (0, channel, 0, 0),
    }
    cells[index[axes]] = True
    return cells


AXES = {
    **dict.fromkeys(("bn", "bn_custom", "lazy_bn", "sync_bn", "ws_bn"), "n h w"),
    **dict.fromkeys(("batch_renorm", "evonorm_b0", "evonorm_b1", "evonorm_b2"), "n h w"),
    # bin begins as bn, and mabn's batch is in the moving average of its gradient's statistics.
    **dict.fromkeys(("bin", "mabn"), "n h w"),
    **dict.fromkeys(("ebn", "iternorm", "online"), "n c h w"),
    "bcn": "n c/4 h w",
    **dict.fromkeys(("ln", "ln_chw"), "c h w"),
    **dict.fromkeys(("in", "in_affine", "frn"), "h w"),
    **dict.fromkeys(("ln_c", "rms", "simple"), "c"),
    **dict.fromkeys(("gn", "ws_gn"), "c/4 h w"),
    **dict.fromkeys(
        ("none", "dyt", "derf", "scaled_ws", "weight_norm", "spectral_norm"), "nothing"
    ),
}


@pytest.mark.parametrize(("name", "axes"), AXES.items())
def test_the_cells_are_those_over_the_axes_of_the_formula(name: str, axes: str) -> None:
    [found] = kinds_of_sharing(norms.build(name), SHAPE, late=True)
    assert in_words(found) == axes
    assert found.channel == C - 1
    assert found.cells.equal(oracle(axes, C - 1))


def test_every_norm_has_an_oracle_or_a_test_of_its_own() -> None:
    assert {*NAMES} - AXES.keys() == {
        *("evonorm_s0", "evonorm_s1", "evonorm_s2"),
        *("ghost_bn", "ibn", "switchable"),
    }
    assert {"scaled_ws", "weight_norm"} <= {*REPARAMETRIZING}


def test_a_statistic_follows_the_options() -> None:
    chunks = norms.build("ghost_bn", options={"size": 2})
    [found] = kinds_of_sharing(chunks, SHAPE, late=True)
    assert in_words(found) == "n/2 h w"
    assert found.cells.equal(oracle("n h w", C - 1) & (torch.arange(N) < 2)[:, None, None, None])
    groups = norms.build("evonorm_s0", options={"num_groups": 4})
    assert [in_words(kind) for kind in kinds_of_sharing(groups, SHAPE, late=True)] == ["c/4 h w"]


def test_several_statistics_of_a_cell_are_several_boxes() -> None:
    [found] = kinds_of_sharing(norms.build("switchable"), SHAPE, late=True)
    assert found.axes == ("n h w", "c h w")
    assert found.cells.equal(oracle("n h w", C - 1) | oracle("c h w", C - 1))


def test_channels_of_different_statistics_are_different_kinds() -> None:
    batch, instance = kinds_of_sharing(norms.build("ibn"), SHAPE, late=True)
    assert batch.cells.equal(oracle("n h w", C - 1))
    assert instance.cells.equal(oracle("h w", C // 2 - 1))
    assert (instance.channel, instance.axes) == (C // 2 - 1, ("h w",))


def layer(forward: Callable[[Tensor], Tensor]) -> NormSpec:
    """A norm with this forward pass."""

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x)

    return NormSpec("undeclared", lambda num_features: Layer())


def divided(x: Tensor, *axes: int) -> Tensor:
    return x / x.std(axes, keepdim=True)


def in_windows(x: Tensor) -> Tensor:
    return nn.functional.local_response_norm(x, 3)


def in_diagonals(x: Tensor) -> Tensor:
    return x + x.roll((1, 1), (0, 1))


@pytest.mark.parametrize(
    ("forward", "axes"),
    [
        (lambda x: divided(x, 2), ["h"]),
        (lambda x: divided(x, 0, 1), ["n c"]),
        # Without a gradient, of which the output alone tells.
        (lambda x: x / divided(x, 1, 2, 3).detach(), ["c h w"]),
        (lambda x: x - x.mean((1, 2, 3), keepdim=True).detach(), ["c h w"]),
        # Half of the values have no gradient.
        (lambda x: divided(x, 2, 3).relu(), ["h w"]),
        (in_windows, ["c/4", "c (3 of 8)"]),
        (in_diagonals, ["2 cells in no box"]),
        (torch.tanh, ["nothing"]),
    ],
)
def test_own_norms_over_odd_axes(forward: Callable[[Tensor], Tensor], axes: list[str]) -> None:
    kinds = kinds_of_sharing(layer(forward), SHAPE, late=True)
    assert [in_words(kind) for kind in kinds] == axes
    for kind in kinds:
        if axes[0] in ("h", "n c", "c h w"):
            assert kind.cells.equal(oracle(axes[0], kind.channel))


MASKS = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4)


@given(MASKS)
def test_what_is_coloured_of_a_face_are_its_cells(rows: list[list[bool]]) -> None:
    """The area of all boxes, and the cell in whose middle a point lies."""
    mask = np.array(rows)
    row, column = np.array([0.3, 0.2]), np.array([1.0, 0.0])
    face = Face(mask, np.zeros(2), row, column, 1.0)
    path = face.coloured()
    area = 0.0
    for corners in path.to_polygons(closed_only=False):
        x, y = corners.T
        area += abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2
    assert area == pytest.approx(mask.sum() * 0.2)
    if mask.any():
        for place in np.ndindex(mask.shape):
            middle = (place[0] + 0.5) * row + (place[1] + 0.5) * column
            assert path.contains_point(middle) == mask[place], place


def test_the_sheet_shows_every_norm_and_what_it_shares() -> None:
    cubes = [cube_of(name, norms.build(name)) for name in NAMES]
    figure = sheet(cubes)
    assert [ax.get_title(loc="left") for ax in figure.axes] == NAMES
    svg = to_svg(figure, PAGE)
    for text in ("n h w: 800 cells", "n h w and c h w: 1,175 cells", "nothing is shared"):
        assert f">{text}</text>" in svg
    assert svg.count(">nothing is shared</text>") == 6
    assert "12,800 cells" in svg


def test_of_overlapping_statistics_the_first_is_drawn() -> None:
    def patches(*statistics: Statistic) -> int:
        [ax] = cube_figure(Cube("one", statistics)).axes
        return sum(isinstance(patch, PathPatch) for patch in ax.patches)

    one = Statistic(oracle("c h w", C - 1).numpy(), "c h w", C - 1)
    inside = Statistic(oracle("h w", 0).numpy(), "h w", 0)
    apart = Statistic(~one.cells, "the rest", 0)
    grids, of_each = 3, 4
    assert patches(one) == patches(one, inside) == grids + of_each
    assert patches(one, apart) == grids + 2 * of_each


def test_a_figure_of_a_norm_and_of_one_s_own(normbench: Run, tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text(
        "from torch import nn\n\n\nclass Mine(nn.Module):\n"
        "    def __init__(self, num_features):\n        super().__init__()\n\n"
        "    def forward(self, x):\n        return x / x.std((0, 1), keepdim=True)\n"
    )
    for name, said in (("gn", "c/4 h w: 100 cells"), (f"{own}:Mine", "n c: 512 cells")):
        file = tmp_path / "figure.svg"
        assert normbench("norms", name, "--figure", str(file)) == (0, f"{file}\n", "")
        assert f">{said}</text>" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("gn norm.num_groups=5 --figure a.svg", "norm gn has no figure: num_groups=5 does not "),
        ("gn --figure a.gif", "unknown format '.gif'"),
        ("gn --figure a.svg --json", "--json and --figure are different outputs: choose one"),
        ("gn --page docs", "--page is of all norms: leave the name out"),
    ],
)
def test_a_figure_that_cannot_be_is_one_line(
    normbench: Run, arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = normbench("norms", *arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"normbench: {message}")
    assert len(err.splitlines()) == 1
    assert [*tmp_path.iterdir()] == []
