"""Every norm through the real training code: twenty steps at a batch of one and of eight."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from probes import ONE_INPUT

from normbench.config.compose import compose
from normbench.errors import NormbenchError
from normbench.train.run import Outcome, execute

SMALL = [
    "data=synthetic",
    "data.num_train=200",
    "data.num_test=10",
    "train.max_steps=20",
    "train.log_every=1",
    "system.progress=none",
]


def train(
    folder: Path, name: str, batch_size: int, *overrides: str, widths: str = "[8,16]"
) -> Outcome:
    chosen = [
        *SMALL,
        f"norm={name}",
        f"batch_size={batch_size}",
        f"model.widths={widths}",
        *overrides,
    ]
    return execute(compose(chosen, {"system.runs_dir": str(folder), "system.threads": 1}))


@pytest.mark.parametrize("name", ONE_INPUT)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_every_norm_trains_for_twenty_steps_with_a_finite_loss(
    name: str, batch_size: int, tmp_path: Path
) -> None:
    outcome = train(tmp_path, name, batch_size)
    assert (outcome.state, outcome.reason) == ("done", None)
    with (outcome.path / "steps.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 20
    assert all(math.isfinite(loss) for loss in [*losses, outcome.metrics["test_loss"]])
    weights = torch.load(outcome.path / "checkpoint.pt", weights_only=True)["model"]
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_adain_is_refused_with_its_reason_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(NormbenchError, match="its scale and shift come from a style image"):
        train(tmp_path, "adain", 8)
    assert list(tmp_path.rglob("*.csv")) == []


@pytest.mark.parametrize(
    ("name", "batch_size", "reason"),
    [
        ("bn", 1, "one value per channel has no variance: a batch of 1 on a 1x1 map"),
        ("switchable", 1, None),
        ("ibn", 8, "one value per sample and channel has no variance: a 1x1 map"),
        ("ln_chw", 1, None),
        ("evonorm_s0", 8, "num_groups=8 leaves one value per group: 8 channels on a 1x1 map"),
        ("evonorm_b0", 8, None),
        ("bn", 8, None),
        ("bn norm.track_running_stats=false", 8, None),
    ],
)
def test_where_the_last_map_is_one_pixel_a_norm_trains_or_is_refused_with_its_reason(
    name: str, batch_size: int, reason: str | None, tmp_path: Path
) -> None:
    name, *overrides = name.split()
    widths = "[8,8,8,8,8,8]"  # from 32x32 to 1x1
    if reason is None:
        assert train(tmp_path, name, batch_size, *overrides, widths=widths).state == "done"
    else:
        with pytest.raises(NormbenchError, match=reason):
            train(tmp_path, name, batch_size, *overrides, widths=widths)
