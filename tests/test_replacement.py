"""Files replaced together: after a kill at any request to the disk, all are old or all are new."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kit.disk import Disk, asked, die, refuse
from kit.runs import in_study, one_run

from normbench.analysis.study_files import write_study
from normbench.analysis.study_reader import read_study
from normbench.atomic import disk_errors, write_text
from normbench.errors import RunFailure
from normbench.replacement import finish_replacement, replacement

OLD = {"a.csv": "old a", "tables/b.md": "old b", "mine.md": "kept", "stale.svg": "old"}
NEW = {"a.csv": "new a", "tables/b.md": "new b", "mine.md": "kept", "c.csv": "new c"}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def content(folder: Path) -> dict[str, str]:
    """The files that people see, by their path in the folder."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    visible = [name for name in names if not name.parts[0].startswith(".")]
    return {str(name): (folder / name).read_text() for name in visible}


def replace(folder: Path) -> None:
    with replacement(folder, ["stale.svg", "never.there"]) as new:
        with disk_errors(new):
            (new / "tables").mkdir()
        for name in ("a.csv", "tables/b.md", "c.csv"):
            write_text(new / name, NEW[name])


def requests(folder: Path) -> int:
    """The number of requests to the disk of a replacement."""
    write(folder, OLD)
    with asked(Disk(die)) as disk:
        replace(folder)
    return disk.number


def in_a_process(folder: Path, disk: Disk) -> bool:
    """Whether a process of its own came to the end of the replacement."""
    child = os.fork()
    if child == 0:
        with asked(disk):
            replace(folder)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def test_new_files_replace_old_ones_and_the_folder_s_others_stay(tmp_path: Path) -> None:
    replace(write(tmp_path, OLD))
    assert content(tmp_path) == NEW
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_after_a_kill_at_any_request_all_files_are_old_or_all_are_new(tmp_path: Path) -> None:
    seen = set()
    for number in range(1, requests(tmp_path / "counted") + 1):
        folder = write(tmp_path / str(number), OLD)
        assert not in_a_process(folder, Disk(die, number)), number
        finish_replacement(folder)
        found = content(folder)
        assert found in (OLD, NEW), number
        seen.add(found == NEW)
        replace(folder)
        assert content(folder) == NEW, number
    assert seen == {True, False}


def test_where_the_disk_refuses_the_old_files_stand_or_the_next_reader_sees_the_new(
    tmp_path: Path,
) -> None:
    for number in range(1, requests(tmp_path / "counted") + 1):
        folder = write(tmp_path / str(number), OLD)
        # The last requests only wait for the disk to have the names.
        allowed = [NEW]
        with asked(Disk(refuse(28), number, lasting=True)):
            try:
                replace(folder)
            except RunFailure:
                allowed.append(OLD)
        finish_replacement(folder)
        assert content(folder) in allowed, number


def test_a_study_s_folder_killed_while_it_is_written_holds_the_old_or_the_new_study(
    tmp_path: Path,
) -> None:
    old, new = in_study(one_run("bn")), in_study(one_run("bn"), one_run("gn"))
    with asked(Disk(die)) as disk:
        write_study(new, tmp_path / "counted")
    seen = set()
    for number in range(1, disk.number + 1):
        folder = tmp_path / str(number)
        write_study(old, folder)
        child = os.fork()
        if child == 0:
            with asked(Disk(die, number)):
                write_study(new, folder)
            os._exit(0)
        os.waitpid(child, 0)
        norms = read_study(folder / "runs.csv").runs["norm"].tolist()
        assert norms in (["bn"], ["bn", "gn"]), number
        seen.add(len(norms))
    assert seen == {1, 2}


def test_a_folder_from_elsewhere_names_nothing_outside_of_it_for_removal(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    folder = write(tmp_path / "folder", OLD)
    write(folder / ".written", {".removed": "../mine.txt\nstale.svg\n", "a.csv": "new a"})
    finish_replacement(folder)
    assert (tmp_path / "mine.txt").exists()
    assert not (folder / "stale.svg").exists()
    assert (folder / "a.csv").read_text() == "new a"


def test_names_for_removal_that_are_empty_new_or_folders_remove_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", OLD)
    with replacement(folder, ["", "tables", "a.csv"]) as new:
        write_text(new / "a.csv", "new a")
    assert content(folder) == OLD | {"a.csv": "new a"}


def test_two_processes_at_a_folder_leave_the_files_of_one_of_them(tmp_path: Path) -> None:
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(25):
                with replacement(tmp_path) as new:
                    for name in ("a.csv", "deep/er/b.csv"):
                        (new / name).parent.mkdir(parents=True, exist_ok=True)
                        write_text(new / name, f"{number}")
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert sorted(content(tmp_path)) == ["a.csv", "deep/er/b.csv"]
    assert len(set(content(tmp_path).values())) == 1


def test_an_error_while_the_new_files_are_made_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    with pytest.raises(ZeroDivisionError), replacement(tmp_path) as new:
        (new / "a.csv").write_text(str(1 / 0))
    assert content(tmp_path) == OLD
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
