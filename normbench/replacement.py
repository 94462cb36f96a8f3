"""Replaces several files of a folder together: a kill leaves all of the old or all of the new.

New files are written into a hidden folder beside the old ones, which is then renamed to WRITTEN.
The rename decides: from there on the new files count, and whoever opens the folder next moves
those that a kill has left in WRITTEN.
"""

from __future__ import annotations

import errno
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
OLD_SECONDS = 3600.0  # of a folder that a killed process has left unfinished


@contextmanager
def replacement(folder: Path, removed: Iterable[str] = ()) -> Iterator[Path]:
    """Yields an empty folder for the new files, which replace those of `folder` at the end.

    Other files stay, but for those named by `removed`. Nothing changes where the block raises.
    Raises RunFailure where the disk refuses.
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
            for file in staged.rglob("*"):
                if file.is_file():
                    sync_file(file)
            _rename(staged, folder)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    finish_replacement(folder)


def finish_replacement(folder: Path) -> None:
    """Moves the new files of a replacement that a kill has left between its rename and its end.

    Raises RunFailure where the disk refuses.
    """
    written = folder / WRITTEN
    while written.is_dir():
        # Another process may be moving the same files.
        with disk_errors(folder), suppress(FileNotFoundError):
            _move(written, folder)


def _move(written: Path, folder: Path) -> None:
    removed = written / REMOVED
    names = removed.read_text().splitlines() if removed.exists() else []
    for file in sorted(written.rglob("*")):
        if file.is_file() and not file.is_symlink() and file != removed:
            place = folder / file.relative_to(written)
            place.parent.mkdir(exist_ok=True)
            file.replace(place)
    for name in names:
        place = folder / name
        # A folder from elsewhere may name what is not its own.
        if place.resolve().is_relative_to(folder.resolve()):
            place.unlink(missing_ok=True)
    sync_folder(folder)
    shutil.rmtree(written)


def _rename(staged: Path, folder: Path) -> None:
    while True:
        finish_replacement(folder)
        try:
            staged.rename(folder / WRITTEN)
        except OSError as error:
            # Another process has just renamed its files: those first, then ours.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            sync_folder(folder)
            return


def _clear(folder: Path) -> None:
    for leftover in folder.glob(f"{WRITING}*"):
        if time.time() - leftover.stat().st_mtime > OLD_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
