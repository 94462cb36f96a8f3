"""normbench sweep and demo for a user: output, files and exit codes."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from kit.tiny import tiny

from normbench.checksums import SUMS
from normbench.cli import sweep as sweep_module
from normbench.config.compose import compose
from normbench.sweeps import carry_out
from normbench.sweeps import plan as plan_module
from normbench.sweeps.plan import make_plan
from normbench.sweeps.sweep import load_sweep
from normbench.training import run as run_module
from normbench.training.engine import Trainer

ON_A_PIXEL = "model.widths=[8,8,8,8,8,8]"  # a 1x1 map before the last norm
INLINE = ["--launcher", "inline"]
STUDY = {"runs.csv", "metrics.csv", "steps.csv", "env.json", "configs.json", SUMS}
Run = Callable[..., tuple[int, str, str]]
LeaveRun = Callable[..., Path]


def short(*settings: str) -> list[str]:
    """The settings of a tiny run of one epoch."""
    return tiny("epochs=1", *settings)


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Training with norm gn runs out of memory, until undone."""
    build = run_module.build_trainer

    def failing(config: object, *others: object) -> Trainer:
        if config.norm.name == "gn":  # type: ignore[attr-defined]
            raise MemoryError("no room")
        return build(config, *others)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "build_trainer", failing)
        yield patched


def test_a_dry_run_prints_the_plan_and_writes_nothing(normbench: Run, tmp_path: Path) -> None:
    code, out, err = normbench(
        "sweep", *short(ON_A_PIXEL, "norm=ln,in,ln", "seed=range(0,3)"), "--dry-run", "-o", "out"
    )
    assert (code, err) == (0, "")
    counts, *details, refusal, time = out.splitlines()
    assert counts == "sweep: 6 runs: 0 done, 3 to do, 3 refused"
    assert details == [
        "  axis  norm: ln, in",
        "  axis  seed: 0, 1, 2",
        "  fixed data=synthetic, data.num_train=100, data.num_test=20, batch_size=16, epochs=1, "
        "model.widths=[8,8,8,8,8,8]; all else as in configs/train.yaml",
        "  data  synthetic: 100 training images, 20 test images",
        "  cell  normresnet-ln-b16  3 to do",
        "  cell  normresnet-in-b16  3 refused",
    ]
    assert refusal.startswith("  refused: norm in cannot train normresnet at batch 16: ")
    assert refusal.endswith(" (3 runs)")
    assert time == "  time: not known yet, no run of these kinds has finished or was timed"
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_trains_every_run_once_and_the_same_command_none(
    normbench: Run, tmp_path: Path
) -> None:
    command = ["sweep", *short("norm=bn,gn", "seed=0,1"), *INLINE]
    code, out, err = normbench(*command)
    assert (code, err) == (0, "")
    _, _, *lines = out.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert out.splitlines()[-1] == "sweep: 4 done"
    assert "\x1b" not in out
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/runs/*/*")}
    assert len(list(tmp_path.glob("results/runs/*"))) == 4
    code, again, _ = normbench(*command)
    assert (code, again.splitlines()[0]) == (0, "sweep: 4 runs: 4 done, 0 to do")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/runs/*/*")} == files
    one = short("norm=gn", "seed=1")
    assert "[1/1] done" in normbench("sweep", *one, *INLINE, "--restart")[1]


def test_a_run_of_train_is_done_in_a_sweep_and_the_other_way_round(normbench: Run) -> None:
    normbench("train", "--norm", "gn", *short())
    assert (
        normbench("sweep", *short("norm=gn,bn"), *INLINE)[1].splitlines()[0]
        == "sweep: 2 runs: 1 done, 1 to do"
    )
    _, out, _ = normbench("train", "--norm", "bn", *short())
    assert [line.split()[0] for line in out.splitlines()] == ["test"]


def test_output_gets_the_tables_figures_and_the_report(normbench: Run, tmp_path: Path) -> None:
    code, out, _ = normbench(
        "sweep", *short("norm=gn,bn", "data.val_fraction=0.1"), *INLINE, "-o", "out"
    )
    assert code == 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {*STUDY, "table.md", "tables", "report.html", "loss.svg", "loss.png"}
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert runs["norm"].tolist() == ["bn", "gn"]
    assert runs["val_accuracy"].between(0, 1).all()
    assert (tmp_path / "out" / "table.md").read_text() in out
    assert f"\nreport: {Path('out') / 'report.html'}\n" in out


def test_a_run_that_fails_is_exit_code_1_and_retried_when_asked(
    normbench: Run, unlucky: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = ["sweep", *short("norm=gn,bn"), *INLINE]
    code, out, _ = normbench(*command)
    assert code == 1
    (failed,) = [path.name for path in tmp_path.glob("results/runs/normresnet-gn-*")]
    assert out.splitlines()[-3:-1] == [
        "sweep: 1 failed, 1 done",
        f"  failed: {failed}: MemoryError: no room",
    ]
    retry = out.splitlines()[-1].partition("retry with: normbench ")[2]
    assert retry.endswith("--retry-failed")
    assert normbench(*command, "--retry-failed")[1].splitlines()[-1].count("--retry-failed") == 1
    unlucky.undo()
    code, out, _ = normbench(*command)
    assert code == 1
    assert "failed runs are left as they are; --retry-failed goes on with them" in out
    code, out, _ = normbench(*command, "--retry-failed")
    assert (code, out.splitlines()[-1]) == (0, "sweep: 2 done")


def test_a_diverged_run_is_exit_code_3(normbench: Run) -> None:
    code, out, _ = normbench(
        "sweep", *short("norm=none", "optim.lr=1e-3,1e30", "train.log_every=1"), *INLINE
    )
    assert code == 3
    assert out.splitlines()[-1] == "sweep: 1 done, 1 diverged"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("make_plan", "interrupted before the first step; go on with: {command} --restart"),
        ("run_plan", "interrupted; go on with: {command}"),
    ],
)
def test_a_sweep_stopped_at_once_names_the_command_that_goes_on(
    normbench: Run, monkeypatch: pytest.MonkeyPatch, place: str, told: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    module = {"make_plan": plan_module, "run_plan": carry_out}[place]
    monkeypatch.setattr(module, place, interrupted)
    command = ["sweep", *short("norm=gn"), *INLINE]
    code, _, err = normbench(*command, "--restart")
    named = shlex.join(["normbench", *command])
    assert (code, err) == (130, f"normbench: {told.format(command=named)}\n")


def test_an_interrupted_sweep_is_exit_code_130_and_names_the_command_that_goes_on(
    normbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = Trainer.take_step

    def interrupted(self: Trainer, *arguments: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return take_step(self, *arguments)  # type: ignore[arg-type]

    command = ["sweep", *short("norm=gn,bn"), *INLINE]
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "take_step", interrupted)
        code, out, _ = normbench(*command, "--restart")
    assert code == 130
    assert out.splitlines()[-2] == "sweep: 1 interrupted, 1 new"
    assert "the same command goes on: normbench sweep data=synthetic" in out.splitlines()[-1]
    assert "--restart" not in out
    code, out, _ = normbench(*command)
    assert (code, out.splitlines()[0]) == (0, "sweep: 2 runs: 0 done, 1 resumable, 1 to do")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "say what to sweep: a study of configs/sweep/, or settings such as norm=bn,gn seed=0,1",
        ),
        (
            ["tabel"],
            "unknown study 'tabel': did you mean 'table'? allowed: appearance, batch_size, ",
        ),
        (["table", "groups"], "one study at a time, not table and groups"),
        (["norm=bn,gm", "data=synthetic"], "unknown norm 'gm': did you mean 'gn'?"),
        (["norm=bn", "norm=gn"], "'norm' is given twice: as ['bn'] and in 'norm=gn'"),
        (
            ["groups", "norm=bn"],
            "'norm' belongs to the joint axis 'norm, norm.num_groups' of this study",
        ),
        (["system.threads=1,2"], "'system.threads' cannot be an axis"),
        (
            ["seed=0", "--launcher", "inlien"],
            "unknown launcher 'inlien': did you mean 'inline'? allowed: inline, pro",
        ),
        (
            ["seed=0", "--launcher", "inline", "--jobs", "2"],
            "unknown option of launcher inline 'jobs': ",
        ),
        (["seed=0", "launcher.address=auto"], "unknown option of launcher processes 'address'"),
        (
            ["seed=0", "--launcher", "slurm", "launcher.partitoin=cpu"],
            "unknown option of launcher slurm 'partitoin': did you mean 'partition'?",
        ),
        (["seed=0", "--jobs", "0"], "launcher.jobs: should be greater than or equal to 1, not 0"),
        (["seed=0", "-j", "2", "launcher.jobs=2"], "--jobs and launcher.jobs are the same option"),
        (["seed=0", "launcher.jobs=1,2"], "'launcher.jobs' takes one value"),
        (["seed=0", "launcher.jobs=1", "launcher.jobs=2"], "'launcher.jobs' is given twice"),
        (["seed=0", "launcher.timeout=0"], "launcher.timeout: should be greater than 0, not 0"),
        (
            ["seed=0", "launcher.timeout=soon"],
            "launcher.timeout: should be a valid number, not 'soon'",
        ),
        (
            ["seed=0", "--launcher", "slurm", "launcher.sbatch=account"],
            "launcher.sbatch: should be a valid dictionary, not 'account'",
        ),
        (["seed=0", "--job", "2"], "No such option: --job"),
        (
            ["data=synthetic", "norm=gn", "norm.num_groups=3"],
            "nothing to run: norm gn cannot train normresnet",
        ),
    ],
)
def test_bad_input_is_one_line_on_standard_error_and_exit_code_2(
    normbench: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, out, err = normbench("sweep", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["rüns", "r s", "a,b", "${x}"])
def test_a_path_may_have_any_character(normbench: Run, tmp_path: Path, folder: str) -> None:
    assert normbench("sweep", *short("norm=gn"), *INLINE, "--runs-dir", folder)[0] == 0
    assert len(list((tmp_path / folder).iterdir())) == 1


# The demo is a small sweep

DEMO = ["demo", "data.num_train=100", "data.num_test=20", "model.widths=[4,8]", "epochs=1"]


@pytest.mark.slow
def test_the_demo_compares_norms_and_what_it_says_of_a_failed_run_can_be_done(
    normbench: Run, unlucky: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sweep_module, "DEMO_ROUNDS", 2)
    code, out, _ = normbench(*DEMO, "norm=bn,gn", "-o", "${x}")  # a path may have any character
    assert code == 1
    assert out.splitlines()[-2].endswith("MemoryError: no room")
    unlucky.undo()
    retry = out.splitlines()[-1].partition("retry with: normbench ")[2]
    code, out, err = normbench(*shlex.split(retry))
    assert (code, err) == (0, "")
    plan, _, line, *_ = out.splitlines()
    assert plan == "demo: 2 runs: 1 done, 1 failed, 0 to do; 1 will run"
    assert line.startswith("[1/1] done ")
    folder = tmp_path / "${x}"
    assert f"\nreport: {Path('${x}') / 'report.html'}\n" in out
    files = {"table.md", "tables", "report.html", "loss.svg", "loss.png", "time.svg", "bench.csv"}
    assert {path.name for path in folder.iterdir()} >= STUDY | files
    assert "| relative to bn" in out, "its norms are timed in turns at the end"
    table = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("|")]
    assert sorted(table[2:]) == ["bn", "gn"]
    runs = {path.name for path in (folder / "runs").iterdir()}
    assert len(runs) == 2
    assert json.loads((folder / "env.json").read_text()).keys() == runs


def test_the_runs_of_the_demo_are_those_that_they_always_were() -> None:
    plan = make_plan(load_sweep("demo").with_overrides(["runtime.device=cpu"]))
    assert [run.config.run_id for run in plan.runs] == [
        "normresnet-bn-b64-s0-59d0b168a098",
        "normresnet-ln-b64-s0-f628b41132cb",
        "normresnet-in-b64-s0-c101ceeba9b7",
        "normresnet-gn-b64-s0-15f2b5128c67",
    ]


def test_a_sweep_does_not_write_its_report_over_run_directories(
    normbench: Run, leave_run: LeaveRun
) -> None:
    path = leave_run(compose(["data=synthetic"]))
    given = ["norm=bn", "data=synthetic", "data.num_train=640", "-o", str(path.parent)]
    code, _, err = normbench("sweep", *given)
    assert code == 2
    assert "holds run directories, which its runs.csv would hide" in err
