"""Losses and metrics of whole runs, to the last bit as before training was told by a task.

`python tests/training/test_golden.py` records golden.json anew, for a change that is to change
numbers. Bits are those of one kind of processor and one version of torch; elsewhere, the first
steps are compared to rounding.
"""

from __future__ import annotations

import csv
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from normbench.config.compose import compose
from normbench.environment import cpu_name
from normbench.training import run
from normbench.training.run import execute

FILE = Path(__file__).with_name("golden.json")
NUM_STEPS = 50
STOP_AFTER = 23
CELLS = list(itertools.product(["bn", "gn", "frn", "ws_gn", "evonorm_b0"], ["adam", "sgd"], [1, 4]))
CELLS += [("bn", "adamw", 1), ("gn", "adamw", 4)]
# Every norm once, and every optimizer and both ways to accumulate: enough for every day.
QUICK = [
    ("bn", "adam", 1),
    ("gn", "sgd", 4),
    ("frn", "adam", 4),
    ("ws_gn", "sgd", 1),
    ("evonorm_b0", "adam", 1),
    ("gn", "adamw", 4),
]
CLOCKS = ("train_seconds", "eval_seconds", "compile_seconds", "images_per_second")
MEASURED = {*CLOCKS, "peak_memory_mib"}

Numbers = dict[str, list[str]]


def train_cell(norm: str, optim: str, accumulate: int, folder: Path) -> dict[str, Numbers]:
    """The columns of steps.csv and metrics.csv without clocks, as text, which holds every bit."""
    config = compose(
        [
            f"norm={norm}",
            f"optim={optim}",
            "optim.schedule=cosine",
            "data=synthetic",
            "data.num_train=80",
            "data.num_test=20",
            "data.val_fraction=0.2",
            "data.augment=standard",
            "model.widths=[4,8]",
            "batch_size=4",
            f"train.accumulate={accumulate}",
            f"epochs={4 * accumulate}",
            f"train.max_steps={NUM_STEPS}",
            "train.log_every=1",
            "task.label_smoothing=0.1",
            "train.bn_evaluations=true",
            "system.progress=none",
            "system.threads=1",
        ],
        {"system.runs_dir": str(folder / "runs"), "system.cache_dir": str(folder / "cache")},
    )
    path = execute(config).path
    while json.loads((path / "status.json").read_text())["state"] == "interrupted":
        execute(config)
    return {"steps": columns(path / "steps.csv"), "metrics": columns(path / "metrics.csv")}


def columns(file: Path) -> Numbers:
    rows = list(csv.DictReader(file.read_text().splitlines()))
    return {name: [row[name] for row in rows] for name in rows[0] if name not in MEASURED}


def machine() -> dict[str, str]:
    """What decides the last bits besides the code."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {"processor": cpu_name(), "capability": capability, "torch": torch.__version__}


@contextmanager
def stopped_once(after_steps: int) -> Iterator[None]:
    """The first run in here is asked to stop after so many steps; the next ones are not."""
    asked: list[int] = []

    @contextmanager
    def stop_signals() -> Iterator[Callable[[], bool]]:
        def should_stop() -> bool:
            asked.append(1)
            return len(asked) == after_steps

        yield should_stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "stop_signals", stop_signals)
        yield


@pytest.mark.parametrize(
    ("norm", "optim", "accumulate"),
    [pytest.param(*cell, marks=[] if cell in QUICK else pytest.mark.slow) for cell in CELLS],
)
def test_a_run_resumed_in_the_middle_has_the_recorded_numbers(
    norm: str, optim: str, accumulate: int, tmp_path: Path
) -> None:
    golden: dict[str, Any] = json.loads(FILE.read_text())
    expected = golden["cells"][f"{norm} {optim} {accumulate}"]
    with stopped_once(STOP_AFTER):
        found = train_cell(norm, optim, accumulate, tmp_path)

    assert len(found["steps"]["loss"]) == NUM_STEPS
    for table, part in expected.items():
        assert [*found[table]] == [*part]
    if machine() == golden["machine"]:
        assert found == expected
    else:
        losses = [[float(text) for text in cell["steps"]["loss"][:5]] for cell in (found, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def record() -> None:
    torch.set_num_threads(1)
    cells = {}
    for norm, optim, accumulate in CELLS:
        with tempfile.TemporaryDirectory() as folder:
            cells[f"{norm} {optim} {accumulate}"] = train_cell(
                norm, optim, accumulate, Path(folder)
            )
    FILE.write_text(json.dumps({"machine": machine(), "cells": cells}) + "\n")


if __name__ == "__main__":
    record()
