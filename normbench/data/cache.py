"""Keeps decoded data on disk, as arrays to map into memory and a manifest of their checksums.

Decoding 60,000 images takes seconds and is done once. A folder is named by the hash of its content,
so outdated data are never found; a folder whose manifest and files disagree is decoded again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import numpy as np
from filelock import FileLock
from pydantic import BaseModel, TypeAdapter

from normbench.atomic import disk_errors, sync_file, sync_folder, write_bytes, write_json
from normbench.checksums import digest_of, sealed
from normbench.data.files import read
from normbench.data.manifest import MANIFEST, Manifest, folder_name, intact, short_hash
from normbench.data.source import DataHome, Dataset, Source, sources
from normbench.errors import NormbenchError, RunFailure

MAX_IMPORTS_BYTES = 2**24
NO_OPTIONS: Mapping[str, int | float] = MappingProxyType({})


def load(source: Source, home: DataHome) -> Dataset:
    """Maps the decoded data set, which is decoded first where the cache has no intact copy.

    Raises RunFailure where the disk refuses, or damages what was just decoded.
    """
    folder = cache_folder(source, home)
    found = intact(folder)
    if found is None:
        _make(folder, lambda partial: _decode_into(partial, source))
        found = intact(folder)
    if found is None:
        raise RunFailure(f"'{folder}' was damaged while it was written")
    return Dataset(source.name, found.train, found.test)


def cache_folder(source: Source, home: DataHome) -> Path:
    """The folder that the decoded arrays of `source` have or would have."""
    return home.cache_dir / folder_name(source.name, source.content)


def is_intact(folder: Path) -> bool:
    """Whether the folder's manifest and arrays are as they were written."""
    return intact(folder) is not None


def pack(source: Source, home: DataHome) -> tuple[str, dict[str, bytes]]:
    """The cache folder of `source` by name, and its files by name, for another machine."""
    folder = cache_folder(source, home)
    return folder.name, {path.name: path.read_bytes() for path in folder.iterdir()}


def unpack(name: str, files: Mapping[str, bytes], home: DataHome) -> None:
    """Makes a cache folder from the name and files given by `pack`."""
    folder = home.cache_dir / name

    def write(partial: Path) -> None:
        for file, content in files.items():
            write_bytes(partial / file, content)

    _make(folder, write)


def remember(
    name: str,
    root: Path,
    source: Source,
    home: DataHome,
    options: Mapping[str, int | float] = NO_OPTIONS,
) -> None:
    """Notes that `data=NAME` without a root means `source`, decoded from `root` by `options`."""
    folder = cache_folder(source, home).name
    entry = _Import(root=str(root.absolute()), folder=folder, options=dict(options))
    path = home.cache_dir / "imported.json"
    with disk_errors(path), FileLock(f"{path}.lock"):
        imports = _imports(home) | {name: entry}
        write_json(path, {name: entry.model_dump() for name, entry in imports.items()})


def recall(
    name: str, home: DataHome, given: Mapping[str, int | float | None] = NO_OPTIONS
) -> Source:
    """The source imported last under `name`, with other options where some are `given`.

    Raises NormbenchError where nothing was imported.
    """
    entry = _imports(home).get(name)
    if entry is None:
        raise NormbenchError(
            f"data={name} needs data.root=PATH, or once `normbench data import PATH`"
        )

    changed = {key: value for key, value in given.items() if value is not None}
    options = entry.options | changed

    def build() -> Source:
        return sources.build(name, home, options={"root": entry.root, **options})

    found = intact(home.cache_dir / entry.folder) if options == entry.options else None
    # An intact cache needs no root: the imported folder may be gone.
    return found.manifest.source(lambda: build().decode()) if found else build()


def cached_source(content: str, home: DataHome) -> Source | None:
    """The source of intact decoded data known as `content`, or None; needs no original file."""

    def decode() -> NoReturn:
        raise RunFailure(
            "the decoded data were damaged a moment ago: the same command decodes them again"
        )

    # A leading dot marks a folder that another process is still filling.
    for folder in home.cache_dir.glob(f"[!.]*-{short_hash(content)}"):
        found = intact(folder)
        # The short hash selects, the manifest's full content decides.
        if found and found.manifest.content == content:
            return found.manifest.source(decode)
    return None


def cached(home: DataHome) -> list[tuple[Path, str]]:
    """The folders of decoded data, each with a description of its state."""
    folders = sorted(path.parent for path in home.cache_dir.glob(f"[!.]*/{MANIFEST}"))
    return [(folder, _state(folder)) for folder in folders]


def _state(folder: Path) -> str:
    found = intact(folder)
    if found is None:
        return "damaged: will be decoded again"
    manifest = found.manifest
    counts = f"{manifest.num_train} + {manifest.num_test} images"
    return f"intact: {manifest.name}, {counts}, {len(manifest.classes)} classes"


def _make(folder: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a folder, named `folder` once whole, unless another process did."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if is_intact(folder):
                return
            partial = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
            sync_folder(folder.parent)


def _decode_into(folder: Path, source: Source) -> None:
    train, test = source.decode()
    digests = {}
    for side, split in (("train", train), ("test", test)):
        for name, array in split.arrays.items():
            path = folder / f"{side}_{name}.npy"
            np.save(path, array, allow_pickle=False)
            # The manifest must not reach the disk before the arrays.
            sync_file(path)
            digests[path.stem] = digest_of(path)
    manifest = Manifest(
        name=source.name,
        content=source.content,
        classes=source.classes,
        image_shape=source.image_shape,
        num_train=len(train),
        num_test=len(test),
        sha256=digests,
    )
    write_json(folder / MANIFEST, sealed(manifest.model_dump(mode="json")))


class _Import(BaseModel):
    """Names the imported folder or file, the cache folder of its decoded data, and its options."""

    root: str
    folder: str
    options: dict[str, int | float] = {}


def _imports(home: DataHome) -> dict[str, _Import]:
    path = home.cache_dir / "imported.json"
    if not path.exists():
        return {}
    try:
        return TypeAdapter(dict[str, _Import]).validate_json(read(path, MAX_IMPORTS_BYTES))
    except ValueError:
        raise NormbenchError(f"'{path}' is damaged: remove it and import again") from None
