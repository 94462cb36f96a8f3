"""What a dry run says of a plan's axes, settings, data and cells."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.launchers import tiny_sweep

from normbench.sweeps.estimate import Estimator
from normbench.sweeps.plan import make_plan
from normbench.sweeps.preview import MOST_CELLS, preview
from normbench.sweeps.sweep import load_sweep
from normbench.training.resolve import Resolver


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(*settings: str, study: str | None = None) -> list[str]:
    sweep = tiny_sweep(*settings) if study is None else load_sweep(study)
    sweep = sweep.with_overrides(settings) if study is not None else sweep
    plan = make_plan(sweep)
    return [*preview(sweep, plan, plan.open(), Estimator(), Resolver())]


def told(beginning: str, found: list[str]) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in found if line.split()[0] == beginning]


def test_axes_have_their_values_and_long_ones_an_end() -> None:
    found = told("axis", lines("norm=gn,ln", "seed=range(0,30)", "optim.lr=0.1"))
    assert found == ["norm: gn, ln", f"seed: {', '.join(map(str, range(12)))}, and 18 more"]


def test_joint_axes_stand_together() -> None:
    study = lines("data=synthetic", "data.num_train=300", "epochs=1", study="demo")
    axes = {line.partition(":")[0] for line in told("axis", study)}
    assert axes == {"norm"}


@pytest.mark.parametrize(
    ("settings", "data"),
    [
        ([], "100 training images, 20 test images"),
        (["data.limit_train=50"], "50 of 100 training images, 20 test images"),
        (["data.val_fraction=0.1"], "90 of 100 training images, 10 held out, 20 test images"),
        (["data.limit_test=5"], "100 training images, 5 test images"),
    ],
)
def test_data_have_their_numbers_of_images(settings: list[str], data: str) -> None:
    assert told("data", lines(*settings)) == [f"synthetic: {data}"]


def test_each_data_set_is_told_once() -> None:
    found = told("data", lines("data.num_train=100,2000", "seed=0,1"))
    assert [line.split()[1] for line in found] == ["100", "2,000"]


def test_a_cell_is_the_runs_of_all_seeds() -> None:
    found = told("cell", lines("norm=bn,gn", "seed=0,1,2", "optim.lr=0.1,0.2"))
    assert found == [
        "normresnet-bn-b16 optim.lr=0.1  3 to do",
        "normresnet-bn-b16 optim.lr=0.2  3 to do",
        "normresnet-gn-b16 optim.lr=0.1  3 to do",
        "normresnet-gn-b16 optim.lr=0.2  3 to do",
    ]


@pytest.mark.parametrize("more", [0, 1, 7])
def test_beyond_twenty_cells_are_counted(more: int) -> None:
    found = lines(f"optim.lr={','.join(map(str, range(1, 21 + more)))}")
    assert len(told("cell", found)) == MOST_CELLS == 20
    rest = {0: [], 1: ["1 cell more"], 7: ["7 cells more"]}
    assert told("and", found) == rest[more]
