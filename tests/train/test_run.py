"""One run from configuration to files: determinism, pairing, kill and resume, divergence, refusal before any work."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from normbench.config.compose import compose
from normbench.errors import NormbenchError, RunFailure
from normbench.runs.rundir import open_run
from normbench.train import run as run_module
from normbench.train.engine import Trainer
from normbench.train.run import Outcome, execute

MEASURED = {
    "train_seconds",
    "eval_seconds",
    "compile_seconds",
    "images_per_second",
    "peak_memory_mib",
}
TINY = [
    "data=synthetic",
    "data.num_train=100",
    "data.num_test=20",
    "data.augment=standard",
    "model.widths=[4,8]",
    "batch_size=16",
    "epochs=3",
    "train.log_every=3",
    "system.progress=none",
]


def tiny(folder: Path, *overrides: str, restart: bool = False) -> Outcome:
    keys = {text.partition("=")[0] for text in overrides}
    kept = [text for text in TINY if text.partition("=")[0] not in keys]
    return execute(compose([*kept, *overrides], {"system.runs_dir": str(folder)}), restart=restart)


def results(path: Path) -> tuple[list[dict[str, str]], str, dict[str, torch.Tensor]]:
    """What must be equal bit for bit: the rows without their timings, the logged steps, the final weights."""
    with (path / "metrics.csv").open() as file:
        metrics = [
            {key: value for key, value in row.items() if key not in MEASURED}
            for row in csv.DictReader(file)
        ]
    weights = torch.load(path / "checkpoint.pt", weights_only=True)["model"]
    return metrics, (path / "steps.csv").read_text(), weights


def assert_equal_results(first: Path, second: Path) -> None:
    (metrics, steps, weights), (other_metrics, other_steps, other_weights) = (
        results(first),
        results(second),
    )
    assert metrics == other_metrics
    assert steps == other_steps
    assert all(torch.equal(weight, other_weights[name]) for name, weight in weights.items())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("uninterrupted")).path


def test_a_run_writes_the_files_it_promises(uninterrupted: Path) -> None:
    names = {path.name for path in uninterrupted.iterdir()} - {".lock"}
    assert names == {
        "config.yaml",
        "env.json",
        "status.json",
        "metrics.csv",
        "steps.csv",
        "checkpoint.pt",
    }
    header = (uninterrupted / "metrics.csv").read_text().splitlines()[0]
    assert header == (
        "epoch,steps,lr,train_loss,train_accuracy,test_loss,test_accuracy,"
        "train_seconds,eval_seconds,compile_seconds,images_per_second,peak_memory_mib"
    )
    steps = (uninterrupted / "steps.csv").read_text().splitlines()
    assert steps[0] == "step,epoch,loss,lr"
    # 100 images in batches of 16 are 7 steps; steps 0, 3 and 6 of every epoch are logged
    assert [line.split(",")[:2] for line in steps[1:]] == [
        [str(7 * e + s), str(e + 1)] for e in range(3) for s in (0, 3, 6)
    ]
    environment = json.loads((uninterrupted / "env.json").read_text())
    assert environment["schema_version"] == 1
    assert environment["data"]["name"] == "synthetic"
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert json.loads((uninterrupted / "status.json").read_text())["state"] == "done"


def test_the_directory_is_named_by_the_run_and_its_config_gives_the_same_name(
    uninterrupted: Path,
) -> None:
    config = yaml.safe_load((uninterrupted / "config.yaml").read_text())
    assert uninterrupted.name.startswith("normresnet-bn-b16-s0-")
    assert config["runtime"]["device"] != "auto"
    assert config["data"]["content"] == "synthetic-v1-100-20-0"


def test_the_same_seed_twice_gives_the_same_bits(uninterrupted: Path, tmp_path: Path) -> None:
    assert_equal_results(uninterrupted, tiny(tmp_path).path)


def test_another_seed_gives_other_numbers(uninterrupted: Path, tmp_path: Path) -> None:
    assert results(uninterrupted)[0] != results(tiny(tmp_path, "seed=1").path)[0]


def test_a_finished_run_is_reported_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    monkeypatch.setattr(Trainer, "train_epoch", lambda *_: pytest.fail("trained again"))
    assert tiny(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == before


def test_restart_trains_again(tmp_path: Path) -> None:
    first = tiny(tmp_path)
    before = (first.path / "checkpoint.pt").stat().st_mtime_ns
    again = tiny(tmp_path, restart=True)
    assert (again.path / "checkpoint.pt").stat().st_mtime_ns > before
    assert again.metrics["test_loss"] == first.metrics["test_loss"]


@pytest.mark.parametrize("after_steps", [1, 6, 7, 10, 20])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_by_a_signal_goes_on_to_the_same_bits(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after_steps: int,
    number: int,
) -> None:
    take_step = Trainer.take_step

    def interrupted_step(self: Trainer, *arguments: torch.Tensor) -> torch.Tensor:
        loss = take_step(self, *arguments)
        if self.step == after_steps:
            signal.raise_signal(number)
        return loss

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "take_step", interrupted_step)
        stopped = tiny(tmp_path)
    assert stopped.state == "interrupted"
    assert stopped.reason == f"stopped after step {after_steps} of 21"
    assert_equal_results(uninterrupted, tiny(tmp_path).path)


KILLER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from normbench import atomic
from normbench.runs import rundir
from normbench.train import run
from normbench.train.engine import Trainer
from test_run import tiny

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(function, count):
    calls = 0
    def wrapped(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == count:
            die()
        return function(*arguments, **options)
    return wrapped

def in_the_first_epoch(): Trainer.take_step = die_at(Trainer.take_step, 5)
def in_the_second_epoch(): Trainer.take_step = die_at(Trainer.take_step, 12)
def while_evaluating(): run.evaluate = die_at(run.evaluate, 2)
def between_row_and_checkpoint(): rundir.RunDir.save_checkpoint = die_at(rundir.RunDir.save_checkpoint, 2)
def within_the_checkpoint():
    def write(path, content):
        if (path.parent / "metrics.csv").read_text().count("\\n") > 2:
            path.with_name(".checkpoint.pt.1.tmp").write_bytes(content[:500])
            die()
        atomic.write_bytes(path, content)
    rundir.write_bytes = write
def before_the_end(): rundir.RunDir.finish = die
def before_the_first_row(): rundir.RunDir.append_metrics = die

for place in {places}:
    if (child := os.fork()) == 0:
        globals()[place]()
        tiny(Path({folder!r}) / place)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), place
"""
PLACES = [
    "in_the_first_epoch",
    "before_the_first_row",
    "in_the_second_epoch",
    "while_evaluating",
    "between_row_and_checkpoint",
    "within_the_checkpoint",
    "before_the_end",
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each place, with the run that was killed there by SIGKILL."""
    folder = tmp_path_factory.mktemp("killed")
    script = KILLER.format(tests=str(Path(__file__).parent), folder=str(folder), places=PLACES)
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_leaves_readable_files_and_goes_on_to_the_same_bits(
    uninterrupted: Path, killed: Path, place: str
) -> None:
    (path,) = (killed / place).iterdir()
    assert json.loads((path / "status.json").read_text())["state"] == "running"
    if (path / "checkpoint.pt").exists():
        torch.load(path / "checkpoint.pt", weights_only=True)
    outcome = tiny(killed / place)
    assert outcome.state == "done"
    assert not list(path.glob("*.tmp"))
    assert_equal_results(uninterrupted, outcome.path)


def test_a_second_ctrl_c_stops_at_once_and_loses_at_most_one_epoch(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = Trainer.take_step

    def interrupted_twice(self: Trainer, *arguments: torch.Tensor) -> torch.Tensor:
        if self.step == 10:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return take_step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "take_step", interrupted_twice)
        with pytest.raises(KeyboardInterrupt):
            tiny(tmp_path)
    (path,) = tmp_path.glob("normresnet-*")
    assert json.loads((path / "status.json").read_text())["state"] == "interrupted"
    assert torch.load(path / "checkpoint.pt", weights_only=True)["epoch"] == 1
    assert_equal_results(uninterrupted, tiny(tmp_path).path)


def test_two_processes_on_one_run_the_second_leaves(tmp_path: Path, uninterrupted: Path) -> None:
    with (
        open_run(tmp_path / uninterrupted.name),
        pytest.raises(RunFailure, match="another process is training"),
    ):
        tiny(tmp_path)


def test_runs_of_equal_seed_start_from_the_same_convolutions_and_see_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, list[torch.Tensor]] = {}
    orders: dict[str, list[list[int]]] = {}
    take_step = Trainer.take_step

    def spy(self: Trainer, group: torch.Tensor, lr: float) -> torch.Tensor:
        norm = type(self.model[0].norm_act[0]).__name__
        if self.step == 0:
            starts[norm] = [
                p.detach().clone()
                for n, p in self.model.named_parameters()
                if n.endswith("conv.weight")
            ]
        orders.setdefault(norm, []).append(group.tolist())
        return take_step(self, group, lr)

    monkeypatch.setattr(Trainer, "take_step", spy)
    for norm in ("bn", "gn", "in", "none"):
        tiny(tmp_path, f"norm={norm}", "epochs=1")
    first, *others = starts.values()
    assert len(starts) == 4
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    assert len({str(order) for order in orders.values()}) == 1


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(tmp_path: Path) -> None:
    outcome = tiny(tmp_path, "norm=none", "optim.lr=1e30", "train.log_every=1")
    assert outcome.state == "diverged"
    assert "the loss of step" in str(outcome.reason)
    assert tiny(tmp_path, "norm=none", "optim.lr=1e30", "train.log_every=1") == outcome


@pytest.mark.parametrize("norm", ["none", "bn"])
def test_so_does_a_last_step_after_which_the_test_loss_is_not_finite(
    tmp_path: Path, norm: str
) -> None:
    outcome = tiny(tmp_path, f"norm={norm}", "optim=sgd", "optim.lr=1e38", "train.max_steps=1")
    assert outcome.state == "diverged"
    assert outcome.reason == "the test loss after epoch 1 is nan"


def test_an_error_while_training_is_recorded_and_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("out of memory\nand more")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "take_step", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            tiny(tmp_path)
    (path,) = tmp_path.glob("normresnet-*")
    status = json.loads((path / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("failed", "RuntimeError: out of memory")
    assert tiny(tmp_path).state == "done"


def test_a_full_disk_ends_the_run_with_its_last_checkpoint_intact(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = run_module.RunDir.save_checkpoint

    def full_on_the_second(self: run_module.RunDir, state: dict[str, int]) -> None:
        if state["epoch"] == 2:
            raise RunFailure("the disk is full")
        saved(self, state)

    with monkeypatch.context() as patched:
        patched.setattr(run_module.RunDir, "save_checkpoint", full_on_the_second)
        with pytest.raises(RunFailure, match="the disk is full"):
            tiny(tmp_path)
    assert_equal_results(uninterrupted, tiny(tmp_path).path)


def test_a_validation_split_adds_its_columns_and_leaves_the_test_set_alone(tmp_path: Path) -> None:
    path = tiny(tmp_path, "data.val_fraction=0.2", "epochs=1").path
    header = (path / "metrics.csv").read_text().splitlines()[0]
    assert "train_accuracy,val_loss,val_accuracy,test_loss" in header
    assert (
        torch.load(path / "checkpoint.pt", weights_only=True)["step"] == 5
    )  # 80 images in batches of 16


def test_max_steps_ends_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    outcome = tiny(tmp_path, "train.max_steps=9")
    assert (outcome.metrics["epoch"], outcome.metrics["steps"]) == (2, 9)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["norm=gn", "norm.num_groups=3"], "num_groups=3 does not divide 4 channels"),
        (["norm.eps=a"], "norm.eps: should be a valid number, not 'a'"),
        (["model.widths=[4,0]"], "model.widths.1: should be greater than or equal to 1, not 0"),
        (["norm=in", "model.widths=[4,4,4,4,4,4]"], "a 1x1 map"),
        (["batch_size=1", "model.widths=[4,4,4,4,4,4]"], "a batch of 1 on a 1x1 map"),
        (
            ["batch_size=33", "model.widths=[4,4,4,4,4,4]"],
            "at batch 1: one value per channel",
        ),  # 100 = 3 * 33 + 1
        (["data.limit_train=1000"], "data.limit_train=1000: there are 100 train images"),
        (["data.val_fraction=0.001"], "leaves 100 images to train and 0 to validate"),
        (["optim=sgd", "optim.momentum=0.0"], "optim.nesterov: needs optim.momentum > 0"),
        (
            ["optim.schedule=one_cycle", "optim.warmup_fraction=0.1"],
            "one_cycle has a warm-up of its own",
        ),
        (["data=cifar10_parquet"], "needs data.root=PATH"),
        (["data=image_folder", "data.root=nowhere"], "there is no folder 'nowhere'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    extra = [] if overrides[0].startswith("data=") else TINY
    kept = [
        text
        for text in extra
        if text.partition("=")[0] not in {o.partition("=")[0] for o in overrides}
    ]
    config = compose([*kept, *overrides], {"system.runs_dir": str(tmp_path / "runs")})
    with pytest.raises(NormbenchError, match=message.replace("(", r"\(")):
        execute(config)
    assert not (tmp_path / "runs").exists()
