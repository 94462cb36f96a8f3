"""Files of the user: regular, bounded, and named where they are not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from kit.hostile import STAND_INS, sparse

from normbench.data import files
from normbench.data.source import DataHome, sources
from normbench.errors import NormbenchError


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    assert files.read(path, most=4) == b"1234"
    message = re.escape(f"{str(path)!r} has 4 bytes; at most 3 are read")
    with pytest.raises(NormbenchError, match=message):
        files.read(path, most=3)


def test_a_sparse_file_is_refused_by_its_size(tmp_path: Path) -> None:
    sparse(tmp_path / "file")
    with pytest.raises(NormbenchError, match="has 1,099,511,627,776 bytes; at most 10 are read"):
        files.read(tmp_path / "file", most=10)


@pytest.mark.parametrize(("kind", "make"), STAND_INS.items())
def test_what_is_no_file_is_named_and_not_opened(
    tmp_path: Path, kind: str, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    make(path)
    with pytest.raises(NormbenchError, match=f"^'{path}' is {kind}; it must be a file$"):
        files.read(path, most=10)


def test_what_cannot_be_looked_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    for target, reason in ((path, "Too many levels of symbolic links"), ("none", "No such file")):
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        with pytest.raises(NormbenchError, match=f"^'{path}' cannot be read: {reason}"):
            files.read(path, most=10)

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(NormbenchError, match=f"^'{tmp_path}' cannot be read: Permission denied$"):
        files.entries(tmp_path)


def test_words_of_strangers_are_escaped_and_cut() -> None:
    assert files.printable("a\x1b\n\udcff" + "x" * 500, most=6) == r"a\x1b\n\udcffxx"


PATHS = {"/a\0b": r"'/a\\x00b' is no path: a path holds no NUL byte", "~nobody-here/x": "'~nobody"}


@pytest.mark.parametrize(("given", "message"), PATHS.items())
@pytest.mark.parametrize("source", ["cifar10", "cifar10_parquet", "image_folder"])
def test_a_setting_that_is_no_path_is_refused(given: str, message: str, source: str) -> None:
    with pytest.raises(NormbenchError, match=f"^data.root: {message}"):
        sources.build(source, DataHome(Path("nowhere")), options={"root": given})


@pytest.mark.parametrize(("given", "message"), PATHS.items())
@pytest.mark.parametrize("key", ["system.cache_dir", "system.runs_dir"])
def test_a_folder_for_runs_or_data_that_is_no_path_is_refused_in_a_dry_run(
    normbench: Run, key: str, given: str, message: str
) -> None:
    setting = f'{key}="{given}"'
    code, _, complaint = normbench("train", "--dry-run", "data=synthetic", setting)
    assert code == 2
    assert re.match(f"normbench: {key}: {message}", complaint)


def test_a_cache_in_the_environment_that_is_no_path_is_refused(
    normbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMBENCH_CACHE", "~nobody-here")
    code, _, complaint = normbench("data", "check")
    assert code == 2
    assert complaint.startswith("normbench: $NORMBENCH_CACHE: '~nobody-here' is no path: ")
