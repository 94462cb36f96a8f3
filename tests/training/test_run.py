"""A run from configuration to files: determinism, pairing, kill and resume, divergence, refusal."""

from __future__ import annotations

import csv
import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kit.training import run_in

from normbench.config.compose import compose
from normbench.config.schema import RunConfig, from_yaml
from normbench.data import Source
from normbench.errors import NormbenchError, RunFailure
from normbench.runs.records import SCHEMA_VERSION
from normbench.runs.rundir import RunDir
from normbench.tasks.task import Task
from normbench.training.build import LEAST_LOGGED, logged_every
from normbench.training.engine import Trainer
from normbench.training.run import Outcome, Splits, execute

CLOCKS = ("train_seconds", "eval_seconds", "compile_seconds", "images_per_second")
MEASURED = {*CLOCKS, "peak_memory_mib"}
ON_A_PIXEL = "model.widths=[4,4,4,4,4,4]"  # a 1x1 map before the last norm
BROKEN = "optim.lr=1e30"


def train(folder: Path, *settings: str, restart: bool = False) -> Outcome:
    """A run of three epochs of 7 steps, with every third step logged."""
    given = ("epochs=3", "data.augment=standard", "train.log_every=3")
    return run_in(folder, *given, *settings, restart=restart)


def results(path: Path) -> tuple[list[dict[str, str]], str, dict[str, torch.Tensor]]:
    """The results to compare bit for bit: rows without times, logged steps, final weights."""
    rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
    for row in rows:
        for name in MEASURED:
            del row[name]
    weights = torch.load(path / "checkpoint.pt", weights_only=True)["model"]
    return rows, (path / "steps.csv").read_text(), weights


def assert_equal_results(first: Path, second: Path) -> None:
    metrics, steps, weights = results(first)
    other_metrics, other_steps, other_weights = results(second)
    assert metrics == other_metrics
    assert steps == other_steps
    for name, weight in weights.items():
        assert torch.equal(weight, other_weights[name]), name


def status_in(folder: Path) -> dict[str, Any]:
    """The status of the only run in a folder."""
    (file,) = folder.glob("*/status.json")
    status: dict[str, Any] = json.loads(file.read_text())
    return status


@contextmanager
def before_step(number: int, act: Callable[[], object]) -> Iterator[None]:
    """Acts before the step `number`."""
    take_step = Trainer.take_step

    def acting(self: Trainer, group: torch.Tensor, lr: float) -> torch.Tensor:
        if self.step == number:
            act()
        return take_step(self, group, lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", acting)
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("uninterrupted")).path


# Files


def test_a_run_writes_the_files_it_promises(uninterrupted: Path) -> None:
    names = {path.name for path in uninterrupted.iterdir()} - {".lock"}
    tables = {"metrics.csv", "steps.csv"}
    records = {"config.yaml", "env.json", "status.json", "checkpoint.pt", "correct.bits"}
    assert names == records | tables
    assert (uninterrupted / "metrics.csv").read_text().splitlines()[0] == (
        "epoch,steps,lr,train_loss,train_accuracy,test_loss,test_accuracy,"
        "train_seconds,eval_seconds,compile_seconds,images_per_second,peak_memory_mib"
    )
    header, *rows = csv.reader((uninterrupted / "steps.csv").read_text().splitlines())
    assert header == ["step", "epoch", "loss", "lr"]
    logged = [[str(7 * epoch + step), str(epoch + 1)] for epoch in range(3) for step in (0, 3, 6)]
    assert [row[:2] for row in rows] == logged
    assert status_in(uninterrupted.parent)["state"] == "done"


@given(st.integers(1, 200), st.integers(1, 400), st.integers(1, 30))
def test_where_epochs_are_short_more_steps_are_logged_and_elsewhere_as_many_as_asked(
    asked: int, steps_per_epoch: int, epochs: int
) -> None:
    num_steps = steps_per_epoch * epochs
    every = logged_every(asked, steps_per_epoch, num_steps)
    if steps_per_epoch > asked:
        assert every == asked
        return
    logged = epochs * len(range(0, steps_per_epoch, every))
    assert logged >= min(num_steps, LEAST_LOGGED)
    assert every == 1 or num_steps >= 2 * LEAST_LOGGED


def test_a_short_run_logs_each_of_its_steps(tmp_path: Path) -> None:
    path = run_in(tmp_path, "epochs=1").path
    assert len((path / "steps.csv").read_text().splitlines()) == 1 + 7


def test_the_environment_holds_all_that_the_numbers_depend_on(uninterrupted: Path) -> None:
    environment = json.loads((uninterrupted / "env.json").read_text())
    assert environment["schema_version"] == SCHEMA_VERSION
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    task = environment["task"]
    assert (task["name"], task["primary"]) == ("classification", "accuracy")
    data = environment["data"]
    assert (data["name"], data["image_shape"]) == ("synthetic", [3, 32, 32])
    assert len(data["classes"]) == 10
    config = from_yaml((uninterrupted / "config.yaml").read_text())
    assert environment["cost_id"] == config.cost_id((3, 32, 32), 10)


def test_the_directory_is_named_by_the_run_id_of_its_config(uninterrupted: Path) -> None:
    text = (uninterrupted / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert uninterrupted.name.startswith("normresnet-bn-b16-s0-")
    assert uninterrupted.name == from_yaml(text).run_id
    assert config["runtime"]["device"] != "auto"
    assert config["data"]["content"] == "synthetic-v1-100-20-0"


def test_a_validation_split_adds_its_columns_and_leaves_the_test_set_alone(tmp_path: Path) -> None:
    path = train(tmp_path, "data.val_fraction=0.2", "epochs=1").path
    header = (path / "metrics.csv").read_text().splitlines()[0]
    assert "train_accuracy,val_loss,val_accuracy,test_loss" in header
    # 80 images in batches of 16.
    assert torch.load(path / "checkpoint.pt", weights_only=True)["step"] == 5


def test_the_seed_changes_neither_the_subset_nor_the_images_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, bytes]] = []

    def look(
        run: RunDir,
        config: RunConfig,
        source: Source,
        task: Task,
        splits: Splits,
        broken: list[str],
    ) -> None:
        seen.append({name: split["images"].tobytes() for name, split in splits.items()})
        run.begin(config.to_yaml(), {})
        run.finish("diverged")

    monkeypatch.setattr("normbench.training.run._train", look)
    subset = ("data.limit_train=50", "data.limit_test=10", "data.val_fraction=0.2")
    by_seed = "data.subset_seed=null"
    for choice in (["seed=0"], ["seed=1"], ["data.subset_seed=1"], ["seed=1", by_seed]):
        train(tmp_path, *subset, *choice)
    assert seen[0] == seen[1]
    assert all(seen[0][name] != seen[2][name] for name in ("train", "val", "test"))
    assert seen[2] == seen[3]


# The same numbers


def test_equal_seeds_give_equal_bits(uninterrupted: Path, tmp_path: Path) -> None:
    assert_equal_results(uninterrupted, train(tmp_path).path)
    assert results(uninterrupted)[0] != results(train(tmp_path, "seed=1").path)[0]


def test_a_finished_run_is_reported_and_trained_again_only_on_restart(tmp_path: Path) -> None:
    first = train(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", lambda *_: pytest.fail("trained again"))
        assert train(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == before
    again = train(tmp_path, restart=True)
    checkpoint = first.path / "checkpoint.pt"
    assert checkpoint.stat().st_mtime_ns > before[checkpoint]
    assert again.metrics["test_loss"] == first.metrics["test_loss"]


def test_runs_of_equal_seed_start_from_the_same_convolutions_and_see_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, list[torch.Tensor]] = {}
    orders: dict[str, list[list[int]]] = {}
    take_step = Trainer.take_step

    def spy(self: Trainer, group: torch.Tensor, lr: float) -> torch.Tensor:
        norm = type(self.model[0].norm_act[0]).__name__
        if self.step == 0:
            named = self.model.named_parameters()
            starts[norm] = [p.detach().clone() for name, p in named if name.endswith("conv.weight")]
        orders.setdefault(norm, []).append(group.tolist())
        return take_step(self, group, lr)

    monkeypatch.setattr(Trainer, "take_step", spy)
    for norm in ("bn", "gn", "in", "none"):
        train(tmp_path, f"norm={norm}", "epochs=1")
    assert len(starts) == 4
    first, *rest = starts.values()
    for start in rest:
        torch.testing.assert_close(start, first, rtol=0, atol=0)
    assert len({str(order) for order in orders.values()}) == 1


# Stopped, killed, broken


@pytest.mark.parametrize(
    ("after_steps", "number"),
    [(1, signal.SIGINT), (6, signal.SIGTERM), (7, signal.SIGINT), (20, signal.SIGTERM)],
)
def test_a_run_stopped_by_a_signal_goes_on_to_the_same_bits(
    uninterrupted: Path, tmp_path: Path, after_steps: int, number: signal.Signals
) -> None:
    def stop() -> None:
        signal.raise_signal(number)

    with before_step(after_steps - 1, stop):
        stopped = train(tmp_path)
    assert stopped.state == "interrupted"
    assert stopped.reason == f"stopped after step {after_steps} of 21"
    assert_equal_results(uninterrupted, train(tmp_path).path)


def test_a_second_ctrl_c_loses_at_most_one_epoch(uninterrupted: Path, tmp_path: Path) -> None:
    def press_twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with before_step(10, press_twice), pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert status_in(tmp_path)["state"] == "interrupted"
    (checkpoint,) = tmp_path.glob("*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
    assert_equal_results(uninterrupted, train(tmp_path).path)


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(tmp_path: Path) -> None:
    outcome = train(tmp_path, "norm=none", BROKEN, "train.log_every=1")
    assert outcome.state == "diverged"
    assert "the loss of step" in str(outcome.reason)
    assert train(tmp_path, "norm=none", BROKEN, "train.log_every=1") == outcome


@pytest.mark.parametrize("norm", ["none", "bn"])
def test_a_test_loss_that_is_not_finite_diverges_too(tmp_path: Path, norm: str) -> None:
    outcome = train(tmp_path, f"norm={norm}", "optim=sgd", "optim.lr=1e38", "train.max_steps=1")
    assert outcome.state == "diverged"
    assert outcome.reason == "the test loss after epoch 1 is nan"


def test_an_error_while_training_is_recorded_and_raised(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory\nand more")

    with before_step(0, broken), pytest.raises(RuntimeError, match="out of memory"):
        train(tmp_path)
    status = status_in(tmp_path)
    assert (status["state"], status["reason"]) == ("failed", "RuntimeError: out of memory")
    assert train(tmp_path).state == "done"


def test_a_full_disk_ends_the_run_with_its_last_checkpoint_intact(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunDir.save_checkpoint

    def full_on_the_second(self: RunDir, state: dict[str, int]) -> None:
        if state["epoch"] == 2:
            raise RunFailure("the disk is full")
        save(self, state)

    with monkeypatch.context() as patched:
        patched.setattr(RunDir, "save_checkpoint", full_on_the_second)
        with pytest.raises(RunFailure, match="the disk is full"):
            train(tmp_path)
    assert_equal_results(uninterrupted, train(tmp_path).path)


# Refused


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["norm=gn", "norm.num_groups=3"], "num_groups=3 does not divide 4 channels"),
        (["norm=in", ON_A_PIXEL], "a 1x1 map"),
        (["batch_size=1", ON_A_PIXEL], "a batch of 1 on a 1x1 map"),
        # 100 images are three batches of 33 and a single image.
        (["batch_size=33", ON_A_PIXEL], "at batch 1: one value per channel"),
        (["data.limit_train=1000"], "data.limit_train=1000: there are 100 train images"),
        (["data.val_fraction=0.001"], "leaves 100 images to train and 0 to validate"),
        (["optim=sgd", "optim.momentum=0.0"], "optim.nesterov: needs optim.momentum > 0"),
        (["optim.decay_norm=true"], "optim.decay_norm: needs optim.weight_decay > 0"),
        (["optim.schedule=one_cycle", "optim.warmup_fraction=0.1"], "a warm-up of its own"),
        (
            ["runtime.cuda_graphs=true", "runtime.device=cpu"],
            "runtime.cuda_graphs=true needs a cuda device, and this run is on cpu",
        ),
    ],
)
def test_a_run_that_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(NormbenchError, match=re.escape(message)):
        train(tmp_path / "runs", *overrides)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("cache_dir")
def test_missing_data_are_refused(tmp_path: Path) -> None:
    flags = {"system.runs_dir": str(tmp_path / "runs")}
    for root, message in (({}, "needs data.root=PATH"), ({"data.root": "nowhere"}, "no folder")):
        with pytest.raises(NormbenchError, match=message):
            execute(compose(["data=image_folder"], flags | root))
    assert not (tmp_path / "runs").exists()
