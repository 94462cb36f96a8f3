"""normbench runs: the list, the comparison of two, and the removal of what failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from normbench.config.compose import compose
from normbench.config.schema import RunConfig

LeaveRun = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


def config(norm: str, batch_size: int = 8) -> RunConfig:
    return compose([], {"norm": norm, "batch_size": batch_size, "data": "synthetic", "epochs": 2})


@pytest.fixture
def paths(normbench: Run, leave_run: LeaveRun) -> dict[str, Path]:
    """Under results/runs: bn and gn done, ln failed in its second epoch, in diverged in its
    first."""
    return {
        "bn": leave_run(config("bn"), reached=0.5),
        "gn": leave_run(config("gn", 4), reached=0.75),
        "ln": leave_run(config("ln"), "failed", "killed by SIGKILL", epochs=1, reached=0.25),
        "in": leave_run(config("in"), "diverged", "the loss of step 3 is nan", epochs=0),
    }


def listed(out: str) -> list[str]:
    """The norms of the runs in a list, in its order."""
    return [line.split("-")[1] for line in out.splitlines() if line.startswith("normresnet-")]


def test_the_list_has_a_line_for_every_run_and_how_many_ended_how(
    normbench: Run, paths: dict[str, Path]
) -> None:
    code, out, err = normbench("runs")
    assert (code, err) == (0, "")
    assert sorted(listed(out)) == ["bn", "gn", "in", "ln"]
    assert out.splitlines()[-1] == "4 runs: 2 done, 1 diverged, 1 failed"
    assert "killed by SIGKILL" in out
    assert all(len(line) <= 100 for line in out.splitlines())


@pytest.mark.parametrize(
    ("where", "norms"),
    [
        ("norm=bn,gn", {"bn", "gn"}),
        ("norm=bn batch_size<=4", set()),
        ("test_accuracy>=50%", {"bn", "gn"}),
        ("optim.lr=0.001 status!=done", {"ln", "in"}),
    ],
)
def test_where_chooses_runs(
    normbench: Run, paths: dict[str, Path], where: str, norms: set[str]
) -> None:
    conditions = [part for text in where.split() for part in ("--where", text)]
    code, out, _ = normbench("runs", *conditions)
    assert code == 0
    assert set(listed(out)) == norms
    assert norms or out == f"no runs match {where}\n"


def test_sort_puts_runs_in_order_and_those_without_a_value_last(
    normbench: Run, paths: dict[str, Path]
) -> None:
    assert listed(normbench("runs", "--sort", "test_accuracy")[1]) == ["ln", "bn", "gn", "in"]
    assert listed(normbench("runs", "--sort", "-test_accuracy")[1]) == ["gn", "bn", "ln", "in"]
    assert listed(normbench("runs", "--sort=-batch_size", "--where", "status=done")[1]) == [
        "bn",
        "gn",
    ]


def test_json_has_every_column_and_setting(normbench: Run, paths: dict[str, Path]) -> None:
    code, out, _ = normbench("runs", "--json", "--sort", "test_accuracy", "--where", "norm!=bn")
    assert code == 0
    records = json.loads(out)
    assert [record["run"] for record in records] == [
        paths[norm].name for norm in ("ln", "gn", "in")
    ]
    assert [record["test_accuracy"] for record in records] == [0.25, 0.75, None]
    assert records[1]["norm.num_groups"] == 4
    assert records[0]["norm.num_groups"] is None


def test_no_runs_are_no_error(normbench: Run) -> None:
    assert normbench("runs") == (0, "no runs in results/runs\n", "")
    assert normbench("runs", "--json") == (0, "[]\n", "")
    assert normbench("runs", "rm", "--failed") == (0, "no failed runs in results/runs\n", "")


def test_runs_elsewhere_are_listed_from_there(normbench: Run, leave_run: LeaveRun) -> None:
    leave_run(config("bn").with_system(runs_dir="else where"))
    assert listed(normbench("runs", "--runs-dir", "else where")[1]) == ["bn"]


def test_diff_shows_what_two_runs_differ_in(normbench: Run, paths: dict[str, Path]) -> None:
    code, out, err = normbench("runs", "diff", paths["bn"].name, str(paths["gn"]))
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("  ")}
    assert rows["batch_size"] == ["8", "4"]
    assert rows["norm.name"] == ["bn", "gn"]
    assert rows["status"] == ["done", "done"]
    assert rows["test_accuracy"] == ["50.00", "%", "75.00", "%", "+25.00", "points"]
    assert "seed" not in rows
    assert (
        normbench("runs", "diff", "normresnet-bn", paths["gn"].name[-12:])[1].split("\n\n")[1:]
        == (out.split("\n\n")[1:])
    )


def test_rm_removes_what_is_named_and_nothing_else(normbench: Run, paths: dict[str, Path]) -> None:
    code, out, _ = normbench("runs", "rm", paths["bn"].name, paths["in"].name[-12:])
    assert code == 0
    assert out.splitlines() == [
        f"removed {Path('results/runs') / paths[norm].name}" for norm in ("bn", "in")
    ]
    assert [norm for norm, path in paths.items() if path.exists()] == ["gn", "ln"]


@pytest.mark.parametrize("length", [12, 13, 20])
def test_rm_takes_the_beginning_that_only_one_run_has(
    normbench: Run, paths: dict[str, Path], length: int
) -> None:
    assert normbench("runs", "rm", paths["gn"].name[:length], paths["bn"].name[-12:-4])[0] == 0
    assert [norm for norm, path in paths.items() if path.exists()] == ["ln", "in"]


def test_rm_failed_removes_failed_and_damaged_runs_only(
    normbench: Run, paths: dict[str, Path]
) -> None:
    (paths["gn"] / "status.json").write_text("{")
    assert normbench("runs", "rm", "--failed")[0] == 0
    assert [norm for norm, path in paths.items() if path.exists()] == ["bn", "in"]
    assert normbench("runs", "rm", "--failed")[1] == "no failed runs in results/runs\n"


def test_rm_leaves_a_run_alone_that_is_being_trained(
    normbench: Run, paths: dict[str, Path]
) -> None:
    with FileLock(paths["bn"] / ".lock"):
        code, out, err = normbench("runs", "rm", paths["bn"].name, paths["gn"].name)
    assert code == 1
    assert out == f"removed {paths['gn']}\n"
    assert "another process is training" in err
    assert (paths["bn"] / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rm"], "say which runs to remove: by name, or all that failed with --failed"),
        (
            ["rm", "--failed", "normresnet-bn"],
            "say which runs to remove: by name, or all that failed with --failed",
        ),
        (["rm", "normresnet"], "'normresnet' is ambiguous, it means 4 runs: "),
        (["rm", "normresnet-bn", "normresnet-i", "normres"], "'normres' is ambiguous, it means "),
        (["rm", "normresnt-bn"], "unknown run 'normresnt-bn': did you mean 'normresnet-bn"),
        (["diff", "normresnet", "normresnet"], "'normresnet' is ambiguous, it means 4 runs: "),
        (["rm", ""], "unknown run ''"),
        (["diff", "normresnet-bn"], "Missing argument 'second'"),
        (["diff", "normresnet-bn", "xn"], "unknown run 'xn': "),
        (["--where", "norm"], "cannot read 'norm': a condition is key op value"),
        (["--where", "nrom=bn"], "unknown key 'nrom': did you mean 'norm'?"),
        (["--sort", "accuracy"], "unknown key 'accuracy': did you mean "),
        (
            ["--where", "norm=bn", "rm", "--failed"],
            "--where, --sort and --json belong to normbench runs, not to rm",
        ),
        (
            ["--json", "diff", "a", "b"],
            "--where, --sort and --json belong to normbench runs, not to diff",
        ),
        (["rn", "--failed"], "No such command 'rn'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_removes_nothing(
    normbench: Run, paths: dict[str, Path], arguments: list[str], message: str
) -> None:
    code, out, err = normbench("runs", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert all(path.exists() for path in paths.values())
