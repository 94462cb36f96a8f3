"""The run directory: rows, checkpoints, the lock, and what a kill or a full disk leaves."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kit.runs import write_run

from normbench.checksums import sealed_bytes
from normbench.errors import RunFailure
from normbench.runs import rundir
from normbench.runs.checkpoint import ROWS
from normbench.runs.rows import START
from normbench.runs.rundir import RunDir, open_run, remove_run
from normbench.runs.standing import standing
from normbench.runs.state import is_held, read_status

ENVIRONMENT = {
    "started": "now",
    "command": "normbench",
    "concurrent_runs": 1,
    "versions": {},
    "hardware": {},
    "git": {},
}


def row(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "loss": epoch / 3}


def test_a_new_directory_has_no_status_and_is_not_over(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        assert run.status == {}
        assert not run.is_over
        assert not run.has_checkpoint


@pytest.mark.parametrize(
    ("state", "is_over"),
    [("done", True), ("diverged", True), ("failed", False), ("interrupted", False)],
)
def test_only_a_result_ends_a_run(tmp_path: Path, state: str, is_over: bool) -> None:
    with open_run(tmp_path) as run:
        run.begin("a: 1\n", ENVIRONMENT)
        assert read_status(tmp_path)["state"] == "running"
        run.finish(state, "because")
        assert run.is_over is is_over
        assert run.status["reason"] == "because"


def test_a_second_process_is_refused_and_told_why(tmp_path: Path) -> None:
    with (
        open_run(tmp_path),
        pytest.raises(RunFailure, match="another process is training"),
        open_run(tmp_path),
    ):
        pass
    with open_run(tmp_path):  # and let in once the first has left
        pass


def test_rows_without_a_checkpoint_that_covers_them_are_dropped(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        for epoch in (1, 2):
            run.append_step({"step": 10 * epoch - 10, "loss": 0.5})
            run.append_metrics(row(epoch))
            run.save_checkpoint({"epoch": epoch, "step": 10 * epoch})
        covered = {name: (tmp_path / name).read_bytes() for name in ("metrics.csv", "steps.csv")}
        run.append_step({"step": 20, "loss": 0.5})
        run.append_metrics(row(3))
        state, remark = run.load_checkpoint()
    assert (state["epoch"], state["step"], remark) == (2, 20, None)
    assert {name: (tmp_path / name).read_bytes() for name in covered} == covered


def test_a_row_that_a_power_cut_left_unfinished_is_dropped(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.append_metrics(row(1))
        run.save_checkpoint({"epoch": 1, "step": 10})
        whole = (tmp_path / "metrics.csv").read_bytes()
        with (tmp_path / "metrics.csv").open("ab") as file:
            file.write(b"2,0.6")
        assert run.last_metrics() == {"epoch": 1.0, "loss": 1 / 3}
        run.load_checkpoint()
    assert (tmp_path / "metrics.csv").read_bytes() == whole


def test_a_checkpoint_loads_without_pickle(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.save_checkpoint({"epoch": 1, "step": 2, "model": {"weight": torch.arange(3.0)}})
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["model"]["weight"].tolist() == [0, 1, 2]


def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.save_checkpoint({"epoch": 1, "step": 2})
        for content in (b"", b"not a checkpoint", (tmp_path / "checkpoint.pt").read_bytes()[:-100]):
            (tmp_path / "checkpoint.pt").write_bytes(content)
            with pytest.raises(
                RunFailure, match=r"checkpoint\.pt' is damaged: begin the run anew with --restart"
            ):
                run.load_checkpoint()


def test_a_checkpoint_of_another_schema_is_refused(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        buffer = io.BytesIO()
        torch.save({"schema_version": 0, "rows": dict.fromkeys(ROWS, START)}, buffer)
        (tmp_path / "checkpoint.pt").write_bytes(sealed_bytes(buffer.getvalue()))
        with pytest.raises(RunFailure, match="is of schema 0, this normbench writes 2"):
            run.load_checkpoint()


@pytest.mark.parametrize("content", [b"", b"junk", b"[]", b"\xff\xfe\x00"])
def test_a_damaged_status_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status.json").write_bytes(content)
    with pytest.raises(
        RunFailure, match=r"status\.json' is damaged: begin the run anew with --restart"
    ):
        read_status(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"junk\n1\n", b"\xff\xfe\x00\n"])
def test_rows_that_a_checkpoint_covers_and_that_are_gone_are_missed(
    tmp_path: Path, content: bytes | None
) -> None:
    with open_run(tmp_path) as run:
        run.append_metrics(row(1))
        run.save_checkpoint({"epoch": 1, "step": 10})
        (tmp_path / "metrics.csv").unlink()
        if content is not None:
            (tmp_path / "metrics.csv").write_bytes(content)
        with pytest.raises(RunFailure, match=r"metrics\.csv' is damaged"):
            run.load_checkpoint()
        with pytest.raises(RunFailure, match=r"metrics\.csv' was changed while the run was train"):
            run.finish("done")


def test_a_full_disk_leaves_the_old_checkpoint_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_run(tmp_path) as run:
        run.append_metrics(row(1))
        run.save_checkpoint({"epoch": 1, "step": 10})
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(RunFailure, match="the disk is full"):
                run.save_checkpoint({"epoch": 2, "step": 20})
        assert run.load_checkpoint()[0]["epoch"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "checkpoint.pt", "metrics.csv"}


def test_restart_forgets_the_run_before(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.begin("a: 1\n", ENVIRONMENT)
        run.append_metrics(row(1))
        run.save_checkpoint({"epoch": 1, "step": 10})
        run.finish("done")
    with open_run(tmp_path, restart=True):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_resumed_run_keeps_its_first_environment_and_lists_the_later_ones(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.begin("a: 1\n", ENVIRONMENT)
        started = run.status["started"]
        run.append_metrics(row(1))
        run.save_checkpoint({"epoch": 1, "step": 10})
        run.begin("a: 1\n", ENVIRONMENT | {"started": "later"})
        assert run.status["started"] == started
    environment = json.loads((tmp_path / "env.json").read_text())
    assert environment["started"] == "now"
    assert [resumed["started"] for resumed in environment["resumed"]] == ["later"]


def test_a_run_whose_environment_was_removed_is_not_over(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.begin("a: 1\n", ENVIRONMENT)
        (tmp_path / "env.json").unlink()
        with pytest.raises(RunFailure, match=r"env\.json' was changed while the run was training"):
            run.finish("diverged")
        assert read_status(tmp_path)["state"] == "running"


def test_a_run_that_goes_on_without_its_environment_is_damaged(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.begin("a: 1\n", ENVIRONMENT)
        run.save_checkpoint({"epoch": 1, "step": 10})
        (tmp_path / "env.json").unlink()
        with pytest.raises(RunFailure, match=r"env\.json' is damaged: begin the run anew"):
            run.begin("a: 1\n", ENVIRONMENT)


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoint.pt", "status.json"])
def test_restart_removes_a_folder_in_a_files_place(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "inside").mkdir(parents=True)
    with open_run(tmp_path, restart=True):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailure, match="cannot be written"), open_run(tmp_path / "file" / "run"):
        pass


def test_reading_a_status_takes_no_lock(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.begin("a: 1\n", ENVIRONMENT)
        assert RunDir(tmp_path).status["state"] == "running"


def test_a_run_is_held_while_it_is_open_and_never_by_having_been_asked(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with open_run(tmp_path / "run"):
        assert is_held(tmp_path / "run")
        assert is_held(tmp_path / "run")
    assert not is_held(tmp_path / "run")


@pytest.mark.parametrize(
    ("state", "while_held", "after"),
    [
        (None, "running", "new"),
        ("running", "running", "killed"),
        ("failed", "running", "failed"),
        ("interrupted", "running", "interrupted"),
        ("done", "done", "done"),
        ("diverged", "diverged", "diverged"),
    ],
)
def test_a_run_is_running_where_a_process_holds_it_whatever_was_written(
    tmp_path: Path, state: str | None, while_held: str, after: str
) -> None:
    path = tmp_path / "new" if state is None else write_run(tmp_path, state=state)
    with open_run(path):
        assert standing(path).state == while_held
    assert standing(path).state == after


def test_a_run_whose_process_was_killed_is_known_as_killed(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, time\n"
        "from normbench.runs.rundir import open_run\n"
        "with open_run(pathlib.Path(sys.argv[1])) as run:\n"
        "    run.finish('running')\n"
        "    print('holding', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        assert standing(tmp_path).state == "running"
        with pytest.raises(RunFailure, match="another process"):
            remove_run(tmp_path)
        process.kill()
    assert standing(tmp_path).state == "killed"


def failed_run(path: Path) -> Path:
    with open_run(path) as run:
        run.begin("a: 1\n", ENVIRONMENT)
        run.append_metrics(row(1))
        run.finish("failed", "because")
    return path


def test_a_removed_run_is_gone_and_its_neighbours_are_not(tmp_path: Path) -> None:
    failed, other = failed_run(tmp_path / "failed"), failed_run(tmp_path / "other")
    (failed / "notes.txt").write_text("of the user's own")
    with pytest.raises(RunFailure, match="holds files of another kind; leaving it alone"):
        remove_run(failed)
    (failed / "notes.txt").unlink()
    remove_run(failed)
    assert list(tmp_path.iterdir()) == [other]
    with open_run(failed) as run:  # and its place is free
        assert run.status == {}


def test_a_run_that_a_process_holds_is_not_removed(tmp_path: Path) -> None:
    path = failed_run(tmp_path / "run")
    with open_run(path), pytest.raises(RunFailure, match="another process is training"):
        remove_run(path)
    assert read_status(path)["state"] == "failed"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["rename", "sync", "rmtree"])
def test_a_removal_killed_anywhere_leaves_the_whole_run_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = failed_run(tmp_path / "run")
    whole = {file.name: file.read_bytes() for file in path.iterdir()}

    def kill(*_: object, **__: object) -> None:
        if call == "rmtree":
            (tmp_path / ".removed-run" / "status.json").unlink()
        raise KeyboardInterrupt

    places = {
        "rename": (Path, "rename"),
        "sync": (rundir, "sync_folder"),
        "rmtree": (shutil, "rmtree"),
    }
    with monkeypatch.context() as patched:
        patched.setattr(*places[call], kill)
        with pytest.raises(KeyboardInterrupt):
            remove_run(path)
    if call == "rename":
        assert {file.name: file.read_bytes() for file in path.iterdir()} == whole
    else:
        assert [left.name for left in tmp_path.iterdir()] == [".removed-run"]
    remove_run(failed_run(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == [], "the next removal clears the leftover too"


def test_what_is_no_run_is_not_removed(tmp_path: Path) -> None:
    failed_run(tmp_path / "run")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunFailure, match="is not a run, or holds files of another kind"):
            remove_run(path)
    assert [left.name for left in tmp_path.iterdir()] == ["run"]
