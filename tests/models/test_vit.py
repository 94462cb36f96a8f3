"""The vision transformer: sizes, sites, options, refusals, and its dependence on the order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normbench.errors import NormbenchError
from normbench.models import Layers, models, norm_sites, unsupported
from normbench.norms import norms

Run = Callable[..., tuple[int, str, str]]
SMALL = {"patch": 4, "width": 8, "depth": 2, "heads": 2}


def vit(norm: str = "ln", size: int = 8, **options: Any) -> nn.Module:
    layers = Layers(norms.build(norm), 0, (3, size, size))
    return models.build("vit", layers, 10, options=options)


def test_vit_has_about_a_million_parameters() -> None:
    made = vit(size=32)
    number = sum(parameter.numel() for parameter in made.parameters())
    width, depth, places = 128, 5, 64
    patches = 3 * 4 * 4 * width + width + places * width
    block = 4 * (width**2 + width) + 2 * 4 * width**2 + 5 * width + 2 * 2 * width
    assert number == patches + depth * block + 2 * width + width * 10 + 10 == 1_007_370


@pytest.mark.parametrize(("position", "count"), [("pre", 5), ("post", 4)])
def test_a_norm_stands_twice_in_a_block_and_under_pre_at_the_end(position: str, count: int) -> None:
    def build(layers: Layers) -> nn.Module:
        options = {**SMALL, "norm_position": position}
        return models.build("vit", layers, 10, options=options)

    assert norm_sites(build, (3, 8, 12), (10,)) == [(8, 6)] * count


def test_without_a_norm_pre_and_post_are_the_same_network() -> None:
    x = torch.randn(2, 3, 8, 8)
    pre, post = (vit("none", **SMALL, norm_position=position) for position in ("pre", "post"))
    assert torch.equal(pre(x), post(x))
    normed = [vit("ln", **SMALL, norm_position=position)(x) for position in ("pre", "post")]
    assert not torch.allclose(*normed)


def test_scores_depend_on_where_a_patch_stands() -> None:
    made, x = vit(**SMALL), torch.randn(2, 3, 8, 8)
    assert not torch.allclose(made(x), made(x.roll(4, 3)))
    with torch.no_grad():
        made.positions.positions.zero_()
    torch.testing.assert_close(made(x), made(x.roll(4, 3)))


def test_what_a_vit_cannot_be_is_refused() -> None:
    with pytest.raises(NormbenchError, match=r"model.patch=3 does not divide images of 8x8"):
        vit(**{**SMALL, "patch": 3})
    with pytest.raises(NormbenchError, match="3 heads do not divide a width of 8"):
        vit(**{**SMALL, "heads": 3})


@pytest.mark.parametrize(
    ("norm", "site", "batch", "reason"),
    [
        ("bn", (8, 1), 1, "one value per channel has no variance"),
        ("bn", (8, 1), 2, None),
        ("in", (8, 1), 64, "one value per sample and channel has no variance"),
        ("in", (8, 2), 1, None),
        ("ln", (8, 1), 1, None),
        ("ln", (1, 8), 64, "one channel has no variance over channels"),
        ("ws_gn", (8, 4), 64, "it acts on convolutions, and tokens come from linear layers"),
        ("scaled_ws", (8, 4), 64, "it acts on convolutions"),
        ("mabn", (8, 4), 64, "it acts on convolutions"),
        ("weight_norm", (8, 4), 1, None),
    ],
)
def test_a_norm_without_a_meaning_on_tokens_is_refused(
    norm: str, site: tuple[int, int], batch: int, reason: str | None
) -> None:
    refusal = unsupported(norms.build(norm), [site], batch)
    if reason is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.reason.startswith(reason)


def test_the_command_shows_the_norms_of_a_vit_on_tokens(normbench: Run) -> None:
    code, out, err = normbench("models", "vit", "model.depth=1", "model.width=8", "--norm", "rms")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()[2:5]]
    assert rows == [
        ["blocks.0.norm1", "8x64", "ChannelRMSNorm"],
        ["blocks.0.norm2", "8x64", "ChannelRMSNorm"],
        ["norm", "8x64", "ChannelRMSNorm"],
    ]
    _, out, _ = normbench("models", "vit", "model.depth=1", "--norm", "ws_gn")
    assert out.count("refused: it acts on convolutions, and tokens come from linear layers") == 3


def test_a_run_of_a_norm_without_a_meaning_is_refused_before_any_work(
    normbench: Run, tmp_path: Path
) -> None:
    runs = f"system.runs_dir={tmp_path / 'runs'}"
    code, _, err = normbench("train", "--model", "vit", "--norm", "ws_gn", "data=synthetic", runs)
    assert code == 2
    assert err == (
        "normbench: norm ws_gn cannot train vit at batch 64: it acts on convolutions, "
        "and tokens come from linear layers\n"
    )
    assert not (tmp_path / "runs").exists()
