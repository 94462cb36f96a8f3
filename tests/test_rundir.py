"""The run directory: rows, checkpoints, the lock, and what a kill or a full disk leaves."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from normbench.errors import RunFailure
from normbench.rundir import RunDir, open_run, read_status

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
    ("state", "is_over"), [("done", True), ("diverged", True), ("failed", False), ("interrupted", False)]
)
def test_only_a_result_ends_a_run(tmp_path: Path, state: str, is_over: bool) -> None:
    with open_run(tmp_path) as run:
        run.begin("a: 1\n", ENVIRONMENT)
        assert read_status(tmp_path)["state"] == "running"
        run.finish(state, "because")
        assert run.is_over is is_over
        assert run.status["reason"] == "because"


def test_a_second_process_is_refused_and_told_why(tmp_path: Path) -> None:
    with open_run(tmp_path), pytest.raises(RunFailure, match="another process is training"), open_run(tmp_path):
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
        state = run.load_checkpoint()
    assert (state["epoch"], state["step"]) == (2, 20)
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
            with pytest.raises(RunFailure, match=r"checkpoint\.pt' is damaged: begin the run anew with --restart"):
                run.load_checkpoint()


def test_a_checkpoint_of_another_schema_is_refused(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        torch.save({"schema_version": 0, "epoch": 1, "step": 1}, tmp_path / "checkpoint.pt")
        with pytest.raises(RunFailure, match="is of schema 0, this normbench writes 1"):
            run.load_checkpoint()


@pytest.mark.parametrize("content", [b"", b"junk", b"[]", b"\xff\xfe\x00"])
def test_a_damaged_status_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status.json").write_bytes(content)
    with pytest.raises(RunFailure, match=r"status\.json' is damaged: begin the run anew with --restart"):
        read_status(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"junk\n1\n", b"\xff\xfe\x00\n"])
def test_rows_that_a_checkpoint_covers_and_that_are_gone_are_missed(tmp_path: Path, content: bytes | None) -> None:
    with open_run(tmp_path) as run:
        run.append_metrics(row(1))
        run.save_checkpoint({"epoch": 1, "step": 10})
        (tmp_path / "metrics.csv").unlink()
        if content is not None:
            (tmp_path / "metrics.csv").write_bytes(content)
        with pytest.raises(RunFailure, match=r"metrics\.csv' is damaged"):
            run.load_checkpoint()
        run.finish("done")
        with pytest.raises(RunFailure, match=r"metrics\.csv' is damaged"):
            run.last_metrics()


def test_a_full_disk_leaves_the_old_checkpoint_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_run(tmp_path) as run:
        run.append_metrics(row(1))
        run.save_checkpoint({"epoch": 1, "step": 10})
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(RunFailure, match="the disk is full"):
                run.save_checkpoint({"epoch": 2, "step": 20})
        assert run.load_checkpoint()["epoch"] == 1
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


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailure, match="cannot be written"), open_run(tmp_path / "file" / "run"):
        pass


def test_reading_a_status_takes_no_lock(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.begin("a: 1\n", ENVIRONMENT)
        assert RunDir(tmp_path).status["state"] == "running"
