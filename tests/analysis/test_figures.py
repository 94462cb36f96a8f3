"""Figures, by what is drawn and not by pixels."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from normbench.analysis.figures import STYLES, loss_curves, save, styles
from normbench.analysis.frames import Frames


def frames(*norms: str, seeds: int = 1) -> Frames:
    """Two epochs of ten steps, logged every five; the loss of norm i in seed s falls from i + s + 1."""
    keys = [(norm, seed, rank + seed + 1.0) for rank, norm in enumerate(norms) for seed in range(seeds)]
    common = {"data": "synthetic", "batch_size": 64, "precision": "fp32", "status": "done"}
    runs = pd.DataFrame([{"norm": norm, "seed": seed, **common} for norm, seed, _ in keys])
    metrics = [
        {"norm": norm, "epoch": epoch, "steps": 10 * epoch, "train_loss": start / epoch, "test_accuracy": 0.1 * epoch}
        for norm, _, start in keys
        for epoch in (1, 2)
    ]
    steps = [
        {"norm": norm, "step": step, "loss": start - step / 100} for norm, _, start in keys for step in (0, 5, 10, 15)
    ]
    return Frames(runs, pd.DataFrame(metrics), pd.DataFrame(steps), {})


def test_each_norm_has_its_raw_losses_its_epoch_means_and_its_accuracies() -> None:
    loss, accuracy = loss_curves(frames("bn", "gn")).axes
    raw, means = loss.get_lines()[:2]
    assert list(raw.get_xdata()) == [0, 5, 10, 15]
    assert list(raw.get_ydata()) == pytest.approx([1.0, 0.95, 0.9, 0.85])
    assert list(means.get_xdata()) == [5, 15]  # the middle of each epoch
    assert list(means.get_ydata()) == [1.0, 0.5]
    assert list(accuracy.get_lines()[0].get_ydata()) == pytest.approx([10.0, 20.0])
    legend = loss.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["bn", "gn"]


def test_several_seeds_are_averaged_and_counted_in_the_title() -> None:
    figure = loss_curves(frames("bn", seeds=3))
    assert list(figure.axes[0].get_lines()[1].get_ydata()) == [2.0, 1.0]
    assert figure.get_suptitle() == (
        "synthetic, batch 64, fp32, mean of 3 runs per norm; markers: mean of an epoch, faint: single steps"
    )


def test_axes_are_labelled_with_units() -> None:
    loss, accuracy = loss_curves(frames("bn")).axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("step", "training loss (cross-entropy)")
    assert (accuracy.get_xlabel(), accuracy.get_ylabel()) == ("epoch", "test accuracy (%)")


def test_a_norm_keeps_its_colour_whatever_stands_beside_it() -> None:
    assert styles(["gn", "new"])["gn"] == styles(["bn", "gn"])["gn"] == STYLES["gn"]
    assert len({*STYLES.values(), *styles(["a", "b", "c"]).values()}) == len(STYLES) + 3


def test_drawing_leaves_the_global_style_alone_and_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    first = [path.read_bytes() for path in save(loss_curves(frames("bn")), tmp_path / "a")]
    second = [path.read_bytes() for path in save(loss_curves(frames("bn")), tmp_path / "b")]
    assert dict(mpl.rcParams) == before
    assert first == second
    assert np.all([len(content) > 1000 for content in first])
