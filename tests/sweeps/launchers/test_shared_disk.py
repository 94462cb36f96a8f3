"""Ray with a shared disk, known by a file in the runs folder, and without: files come back."""

from __future__ import annotations

from pathlib import Path

from kit.launchers import planned

from normbench.sweeps.launchers.ray import _marker, _write


def test_the_file_of_a_killed_sweep_is_removed_by_the_next_and_that_of_a_living_sweep_is_not(
    folder: Path,
) -> None:
    configs = planned(folder, "seed=0")
    with _marker(configs) as living:
        (folder / ".shared-killed").touch()
        with _marker(configs) as next_one:
            assert {*map(str, folder.glob(".shared-*"))} == {living, next_one}
        assert [*map(str, folder.glob(".shared-*"))] == [living]
    assert list(folder.glob(".shared-*")) == []


def test_files_that_a_run_has_removed_on_its_node_are_removed_here_and_no_others(
    folder: Path,
) -> None:
    (run,) = planned(folder, "seed=0")
    before = {"checkpoint.pt": b"2", "checkpoint.previous.pt": b"1", "status.json": b"{}"}
    _write(run.run_path, before)
    _write(run.run_path, {"output.log": b"stopped before it began"})
    kept = {path.name: path.read_bytes() for path in run.run_path.glob("[!.]*")}
    assert kept == before | {"output.log": b"stopped before it began"}

    over = {"checkpoint.pt": b"3", "status.json": b'{"state": "done"}'}
    _write(run.run_path, over)
    left = {path.name: path.read_bytes() for path in run.run_path.glob("[!.]*")}
    assert left == over | {"output.log": b"stopped before it began"}
