"""Norms through the real training code: twenty steps at a batch of one and of eight."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from kit.norms import every_norm
from torch import Tensor

from normbench.config.compose import compose
from normbench.errors import NormbenchError
from normbench.training.run import Outcome, execute

SMALL = [
    "data=synthetic",
    "data.num_train=200",
    "data.num_test=10",
    "train.max_steps=20",
    "train.log_every=1",
    "system.progress=none",
]


def train(folder: Path, name: str, batch_size: int, widths: str, *changed: str) -> Outcome:
    settings = [*SMALL, f"norm={name}", f"batch_size={batch_size}", f"model.widths={widths}"]
    system = {"system.runs_dir": str(folder), "system.threads": 1}
    return execute(compose([*settings, *changed], system))


@pytest.mark.slow
@every_norm
@pytest.mark.parametrize("batch_size", [1, 8])
def test_every_norm_trains_for_twenty_steps_with_a_finite_loss(
    name: str, batch_size: int, tmp_path: Path
) -> None:
    outcome = train(tmp_path, name, batch_size, "[8,16]")
    assert (outcome.state, outcome.reason) == ("done", None)
    with (outcome.path / "steps.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 20
    assert all(math.isfinite(loss) for loss in [*losses, outcome.metrics["test_loss"]])
    weights = torch.load(outcome.path / "checkpoint.pt", weights_only=True)["model"]
    assert all(bool(value.isfinite().all()) for value in weights.values())


def weights_of(outcome: Outcome) -> dict[str, Tensor]:
    weights: dict[str, Tensor]
    weights = torch.load(outcome.path / "checkpoint.pt", weights_only=True)["model"]
    return weights


def test_training_keeps_rho_of_bin_within_0_and_1(tmp_path: Path) -> None:
    weights = weights_of(train(tmp_path, "bin", 8, "[8,16]", "optim.lr=0.01"))
    rho = torch.cat([value for key, value in weights.items() if key.endswith("rho")])
    assert rho.min() >= 0
    assert rho.max() == 1  # where the gradient leads beyond
    assert rho.min() < 0.9


def test_adaptive_clipping_shortens_the_steps_of_all_but_the_head(tmp_path: Path) -> None:
    settings = ("optim=sgd", "optim.lr=0.5", "epochs=1", "data.limit_train=8")  # a single step
    free = weights_of(train(tmp_path, "scaled_ws", 8, "[8,16]", *settings))
    clipped = weights_of(train(tmp_path, "scaled_ws", 8, "[8,16]", *settings, "optim.agc=1e-4"))
    changed = {key for key in free if not torch.equal(free[key], clipped[key])}
    head = {key for key in free if free[key].dim() == 2 or free[key].shape == (10,)}
    assert changed == set(free) - head


ON_A_PIXEL = "[8,8,8,8,8,8]"  # widths whose last map is 1x1


@pytest.mark.parametrize(
    ("name", "batch_size", "reason"),
    [
        ("bn", 1, "one value per channel has no variance: a batch of 1 on a 1x1 map"),
        ("ibn", 8, "one value per sample and channel has no variance: a 1x1 map"),
        ("evonorm_s0", 8, "num_groups=8 leaves one value per group: 8 channels on a 1x1 map"),
    ],
)
def test_where_the_last_map_is_one_pixel_a_norm_is_refused_before_any_file_is_written(
    name: str, batch_size: int, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(NormbenchError, match=reason):
        train(tmp_path, name, batch_size, ON_A_PIXEL)
    assert list(tmp_path.rglob("*.csv")) == []


@pytest.mark.parametrize(
    ("name", "batch_size", "changed"),
    [
        ("switchable", 1, []),
        ("ln_chw", 1, []),
        ("ws_gn", 1, ["norm.num_groups=2"]),
        ("spectral_norm", 1, []),
        ("evonorm_b0", 8, []),
        ("bn", 8, []),
        ("bn", 8, ["norm.track_running_stats=false"]),
    ],
)
def test_where_the_last_map_is_one_pixel_a_norm_trains(
    name: str, batch_size: int, changed: list[str], tmp_path: Path
) -> None:
    assert train(tmp_path, name, batch_size, ON_A_PIXEL, *changed).state == "done"
