"""The estimate of a run's time: by finished runs of the same kind alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kit.tiny import tiny

from normbench.config.compose import compose
from normbench.config.schema import RunConfig
from normbench.sweeps.estimate import Estimator, duration

LeaveRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tiny_run(*settings: str) -> RunConfig:
    return compose(tiny(*settings))


def test_nothing_is_known_before_a_run_has_finished() -> None:
    assert Estimator().seconds(tiny_run()) is None


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_seconds_are_those_of_an_epoch_with_its_evaluation_for_each_epoch(
    leave_run: LeaveRun, epochs: int
) -> None:
    leave_run(tiny_run(), train_seconds=3.0)  # and 1 s of evaluation
    assert Estimator().seconds(tiny_run(f"epochs={epochs}")) == 4.0 * epochs


@pytest.mark.parametrize(
    "free", ["seed=3", "epochs=5", "optim.lr=1", "optim=sgd", "optim.schedule=cosine"]
)
def test_seed_epochs_and_optimizer_make_no_other_kind(leave_run: LeaveRun, free: str) -> None:
    config = tiny_run(free)
    leave_run(tiny_run("seed=1"))
    assert Estimator().seconds(config) == 4.0 * config.epochs


@pytest.mark.parametrize(
    "other",
    [
        "norm=ln",
        "norm.eps=1e-3",
        "batch_size=8",
        "data.num_train=200",
        "data.limit_train=50",
        "data.augment=standard",
        "model.widths=[8,8]",
        "runtime.precision=bf16",
        "train.accumulate=2",
    ],
)
def test_a_run_of_another_kind_is_no_measure(leave_run: LeaveRun, other: str) -> None:
    leave_run(tiny_run(other))
    assert Estimator().seconds(tiny_run(other)) == 8.0
    assert Estimator().seconds(tiny_run()) is None


@pytest.mark.parametrize("state", ["failed", "diverged", "interrupted", "running"])
def test_a_run_that_is_not_done_is_no_measure(leave_run: LeaveRun, state: str) -> None:
    leave_run(tiny_run("seed=1"), state)
    estimator = Estimator()
    estimator.learn(tiny_run("seed=1"))
    assert estimator.seconds(tiny_run()) is None


def test_a_run_that_finishes_meanwhile_is_learned_from(leave_run: LeaveRun) -> None:
    estimator = Estimator()
    assert estimator.seconds(tiny_run()) is None
    leave_run(tiny_run("seed=1"), train_seconds=1.0)
    assert estimator.seconds(tiny_run()) is None  # folders are read once
    estimator.learn(tiny_run("seed=1"))
    assert estimator.seconds(tiny_run()) == 4.0
    leave_run(tiny_run("seed=2"), train_seconds=2.0)
    estimator.learn(tiny_run("seed=2"))
    assert estimator.seconds(tiny_run()) == 6.0
    assert estimator.seconds(tiny_run("batch_size=8")) is None


def test_the_place_of_a_run_and_its_share_of_the_machine_make_no_other_kind(
    leave_run: LeaveRun,
) -> None:
    leave_run(tiny_run("seed=1").with_system(threads=1, concurrent_runs=2))
    assert Estimator().seconds(tiny_run()) == 8.0
    assert Estimator().seconds(tiny_run("system.runs_dir=elsewhere")) is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", b""),
        ("config.yaml", b"norm: [gn"),
        ("config.yaml", b"- gn"),
        ("config.yaml", b"\xff\xfe\x00garbage"),
        ("config.yaml", b"data: {}"),
        ("status.json", b"{"),
        ("status.json", b"\xff"),
        ("metrics.csv", b""),
        ("metrics.csv", b"\xff\xfe"),
        ("metrics.csv", b"a,b\n1,2\n"),
        ("metrics.csv", b"epoch,steps\n1,7\n"),
        ("metrics.csv", b"epoch,eval_seconds\n1,2\n"),
        ("metrics.csv", b"epoch,train_seconds,eval_seconds\n1,x,y\n"),
        ("metrics.csv", b"epoch,train_seconds,eval_seconds\n1," + b"1" * 200_000 + b",1\n"),
    ],
)
def test_a_damaged_run_is_no_measure_and_the_next_one_is(
    leave_run: LeaveRun, file: str, content: bytes
) -> None:
    (leave_run(tiny_run("seed=0")) / file).write_bytes(content)
    estimator = Estimator()
    if file != "config.yaml":  # the configuration of a run just ended is known
        estimator.learn(tiny_run("seed=0"))
    assert estimator.seconds(tiny_run("seed=5")) is None
    leave_run(tiny_run("seed=1"))
    assert Estimator().seconds(tiny_run("seed=5")) == 8.0


def test_what_is_no_run_directory_is_passed_over(leave_run: LeaveRun) -> None:
    folder = leave_run(tiny_run("seed=1")).parent
    (folder / "normresnet-bn-b16-s0-notes").mkdir()
    (folder / "normresnet-bn-b16-s0-a-file").write_text("notes")
    assert Estimator().seconds(tiny_run()) == 8.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "60 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (150, "2 min"),
        (3600, "60 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (360_000, "100.0 h"),
    ],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words
