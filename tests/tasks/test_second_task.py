"""A second task, made of nothing but this file: runs, tables, figures, report name its metric."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import tiny
from numpy.typing import NDArray
from torch import Tensor, nn

import normbench.sweeps.sweep  # noqa: F401 - binds the real config_dir before the fixture patches it
from normbench.config import compose
from normbench.data.source import Source, Split
from normbench.tasks.metric import Metric
from normbench.tasks.task import Batch, tasks


class MeanColour:
    """Regression of an image's mean colour, three numbers; smaller errors are better."""

    metrics = (
        Metric("loss", unit="squared levels", better="smaller", low=0.0),
        Metric("distance", unit="levels", better="smaller", scale=255.0, decimals=2, low=0.0),
    )
    primary = metrics[1]
    image_shape = (3, 32, 32)
    least_batch = 1
    output_shape = (3,)
    output_range = None

    def prepare(self, split: Split) -> Split:
        return split

    def join(self, network: nn.Module) -> None:
        """Images are all that it needs."""

    def assess(
        self, outputs: Tensor, batch: Batch, *, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        errors = outputs - mean_colour(batch)
        return errors.square().mean(), {"distance": errors.abs().mean(1).sum()}

    def correct(self, outputs: Tensor, batch: Batch) -> None:
        """A distance is no share of images."""

    def picture(self, outputs: Tensor, batch: Batch) -> None:
        """Three numbers are nothing to look at."""

    def random_arrays(self, number: int, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        return {"images": generator.integers(0, 256, (number, 3, 32, 32), dtype=np.uint8)}


def mean_colour(batch: Batch) -> Tensor:
    return batch["images"].mean((2, 3))


@pytest.fixture(autouse=True)
def mean_colour_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The task registered, and configs/ with a file for it."""
    configs = tmp_path / "configs"
    shutil.copytree(compose.config_dir(), configs)
    (configs / "task" / "mean_colour.yaml").write_text("name: mean_colour\n")
    monkeypatch.setattr(compose, "config_dir", lambda: configs)
    compose._kept.cache_clear()
    compose._groups.cache_clear()

    @tasks.register("mean_colour", title="Mean colour")
    def make(source: Source) -> MeanColour:
        """Mean colour of an image."""
        return MeanColour()

    yield
    del tasks._entries["mean_colour"]


def test_its_runs_tables_figures_and_report_name_its_metric(normbench: Any, tmp_path: Path) -> None:
    settings = ["task=mean_colour", *tiny(), "--runs-dir", "runs"]
    for norm in ("bn", "gn"):
        for seed in (0, 1):
            code, out, err = normbench("train", f"norm={norm}", f"seed={seed}", *settings)
            assert code == 0, err
            assert "test distance" in out
            assert "accuracy" not in out

    run = next((tmp_path / "runs").glob("*-bn-*"))
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert {"train_loss", "train_distance", "test_loss", "test_distance"} <= rows[0].keys()
    assert json.loads((run / "env.json").read_text())["task"]["primary"] == "distance"

    code, out, _ = normbench("table", "runs")
    assert code == 0
    assert "test distance" in out
    assert " levels" in out
    assert "accuracy" not in out

    code, out, _ = normbench("compare", "gn", "bn", "runs")
    assert code == 0
    assert " levels" in out

    code, out, _ = normbench("runs", "--runs-dir", "runs", "--sort", "test_distance")
    assert code == 0
    assert "distance" in out

    code, _, err = normbench("report", "runs", "-o", "report")
    assert code == 0, err
    page = (tmp_path / "report" / "report.html").read_text()
    assert "distance (levels)" in page, "the axis of a figure"
    assert "lowest test distance" in page, "the leader's sentence, by the metric's direction"
    assert "accuracy" not in page
    figures = {file.name for file in (tmp_path / "report").glob("*.svg")}
    assert "loss.svg" in figures


def test_its_steps_can_be_timed_and_its_means_are_those_of_a_slow_loop(normbench: Any) -> None:
    code, out, err = normbench(
        "bench",
        "norm=bn,gn",
        "task=mean_colour",
        "batch_size=4",
        "model.widths=[4,8]",
        "--rounds",
        "6",
        "--processes",
        "1",
    )
    assert code == 0, err
    assert "relative to bn" in out
    batch = {"images": torch.rand(5, 3, 4, 4)}
    outputs = torch.rand(5, 3)
    each = [
        (o - i.mean((1, 2))).abs().mean() for o, i in zip(outputs, batch["images"], strict=True)
    ]
    _, sums = MeanColour().assess(outputs, batch, training=False)
    torch.testing.assert_close(sums["distance"], torch.stack(each).sum())


@pytest.mark.parametrize("command", ["sweep", "bench"])
def test_a_sweep_of_several_tasks_is_refused_before_any_run(
    normbench: Any, tmp_path: Path, command: str
) -> None:
    given = [*tiny("norm=bn,gn"), "task=classification,mean_colour"]
    assert normbench(command, *given) == (
        2,
        "",
        "normbench: task: classification, mean_colour: no table compares runs of several tasks; "
        "sweep each\n",
    )
    assert not (tmp_path / "results").exists()
