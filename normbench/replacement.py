"""Replaces several files of a folder together: a kill leaves all of the old or all of the new.

New files are written into a hidden folder beside the old ones, which is then renamed to WRITTEN.
The rename decides: from there on the new files count, and whoever opens the folder next moves
those that a kill has left in WRITTEN.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from normbench.atomic import disk_errors, sync_file, sync_folder, write_text

WRITING = ".writing-"
WRITTEN = ".written"
REMOVED = ".removed"  # in WRITTEN: names of old files that the new ones leave out, a line each
OLD_SECONDS = 24 * 3600.0  # a folder of new files that no process can still be writing


@contextmanager
def replacement(folder: Path, removed: Iterable[str] = ()) -> Iterator[Path]:
    """Yields an empty folder for new files, which replace those of `folder` at the end.

    removed: names of files to be deleted with that. Other files stay. Nothing changes where the
    block raises. Raises RunFailure where the disk refuses.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        staged = Path(mkdtemp(prefix=WRITING, dir=folder))
    try:
        yield staged
        write_text(staged / REMOVED, "".join(f"{name}\n" for name in removed))
        with disk_errors(folder):
            # A folder is made for its owner alone, and so would be what is in it.
            staged.chmod(folder.stat().st_mode)
            for path in staged.rglob("*"):
                sync_folder(path) if path.is_dir() else sync_file(path)
        with _alone(folder):
            # A process that was killed may have left its new files: those first, then ours.
            _finish(folder)
            with disk_errors(folder):
                staged.rename(folder / WRITTEN)
            sync_folder(folder)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    finish_replacement(folder)


def finish_replacement(folder: Path) -> None:
    """Moves the new files of a replacement that a kill has left between its rename and its end.

    Raises RunFailure where the disk refuses; the next call goes on.
    """
    if (folder / WRITTEN).is_dir():
        with _alone(folder):
            _finish(folder)


def _finish(folder: Path) -> None:
    """Moves the files in WRITTEN, if there are any; no other process may do so meanwhile."""
    written = folder / WRITTEN
    if not written.is_dir():
        return
    with disk_errors(folder, "completed"):
        removed = written / REMOVED
        names = removed.read_text(encoding="utf-8").splitlines() if removed.exists() else []
        moved = set()
        for file in sorted(written.rglob("*")):
            if file.is_file() and not file.is_symlink() and file != removed:
                place = folder / file.relative_to(written)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)
                moved.add(place)
        for name in names:
            place = folder / name
            # A folder from elsewhere may name what is not its own, is new, or is no file.
            is_own = place.resolve().is_relative_to(folder.resolve()) and place not in moved
            if is_own and place.is_file():
                place.unlink()
        for path in {folder, *(place.parent for place in moved)}:
            sync_folder(path)
        shutil.rmtree(written)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits for other processes at the same folder, on systems able to lock a folder."""
    if os.name != "posix":
        yield
        return
    import fcntl

    with disk_errors(folder, "locked"):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Without locks, as on some network disks, only the renames keep two writers apart.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    for leftover in folder.glob(f"{WRITING}*"):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > OLD_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
