"""Decoded images on disk: uint8 arrays that are mapped into memory, with a manifest that vouches for them.

Decoding 60,000 images takes seconds and is done once. A folder of the cache is named by what it holds, so an outdated
one is never found; one that its manifest does not vouch for is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from filelock import FileLock

from normbench.atomic import disk_errors, sync_folder, write_bytes, write_json
from normbench.data.source import DataHome, Dataset, Source, Split, sources
from normbench.errors import NormbenchError, RunFailure

FORMAT = 2


def default_cache_dir() -> Path:
    """`$NORMBENCH_CACHE`, else `normbench` under `$XDG_CACHE_HOME` or `~/.cache`."""
    if named := os.environ.get("NORMBENCH_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "normbench"


def load(source: Source, home: DataHome) -> Dataset:
    """The decoded data set, from the cache where that holds it undamaged, else decoded now and kept."""
    folder = cache_folder(source, home)
    if not is_intact(folder):
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not is_intact(folder):  # another process may have decoded it meanwhile
                    _store(source, folder)
    return Dataset(
        source.name,
        source.content,
        source.classes,
        train=_mapped(folder, "train"),
        test=_mapped(folder, "test"),
    )


def _mapped(folder: Path, side: str) -> Split:
    """The arrays of one side, mapped into memory: writing changes no file."""
    arrays = {}
    for path in _array_files(folder):
        owner, _, name = path.stem.partition("_")
        if owner == side:
            arrays[name] = np.load(path, mmap_mode="c")
    return Split(arrays)


def _array_files(folder: Path) -> list[Path]:
    """The files of arrays that the manifest lists, {train,test}_{name}.npy."""
    return [folder / f"{name}.npy" for name in read_manifest(folder)["sha256"]]


def cache_folder(source: Source, home: DataHome) -> Path:
    """Where the decoded arrays of `source` are or would be."""
    return home.cache_dir / f"{source.name}-{_short_hash(source.content)}"


def is_intact(folder: Path) -> bool:
    """Whether every array in `folder` has the size and sha256 that the manifest states (0.1 s for CIFAR-10)."""
    try:
        manifest = read_manifest(folder)
        return manifest["format"] == FORMAT and all(
            _digest(folder / f"{name}.npy") == digest for name, digest in manifest["sha256"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the cache folder says of itself. Raises ValueError where its own checksum does not bear it out."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    if manifest.pop("checksum", None) != _checksum(manifest):
        raise ValueError(f"{folder / 'manifest.json'} is damaged")
    return manifest


def pack(source: Source, home: DataHome) -> tuple[str, dict[str, bytes]]:
    """The cache folder of `source` as its name and its files, for a machine that cannot see it."""
    folder = cache_folder(source, home)
    paths = [folder / "manifest.json", *_array_files(folder)]
    return folder.name, {path.name: path.read_bytes() for path in paths}


def unpack(name: str, files: Mapping[str, bytes], home: DataHome) -> None:
    """Makes what `pack` gave a folder of this cache."""
    folder = home.cache_dir / name
    with disk_errors(folder):
        home.cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_intact(folder):
                partial = _empty_partial(folder)
                for file, content in files.items():
                    write_bytes(partial / file, content)
                _give_final_name(partial, folder)


def remember(name: str, root: Path, source: Source, home: DataHome) -> None:
    """Makes `data=name` without a root mean this data: what `normbench data import` does after decoding."""
    imported = _imported(home)
    imported[name] = {"root": str(root.absolute()), "folder": cache_folder(source, home).name}
    write_json(home.cache_dir / "imported.json", imported)


def recall(name: str, home: DataHome) -> Source:
    """The source imported last under `name`. Raises NormbenchError where there is none."""
    entry = _imported(home).get(name)
    if entry is None:
        raise NormbenchError(
            f"data={name} needs data.root=PATH, or once `normbench data import PATH`"
        )
    folder = home.cache_dir / entry["folder"]
    build = partial(sources.build, name, home, options={"root": entry["root"]})
    return _from_manifest(folder, lambda: build().decode()) if is_intact(folder) else build()


def cached_source(content: str, home: DataHome) -> Source | None:
    """The source of the decoded data known as `content`, if the cache holds them undamaged.

    So a run that knows its data by content needs none of the files that they were decoded from.
    """

    def decode() -> NoReturn:
        raise RunFailure(
            "the decoded data were damaged a moment ago: the same command decodes them again"
        )

    folders = (
        folder
        for folder in home.cache_dir.glob(f"[!.]*-{_short_hash(content)}")
        if is_intact(folder)
    )
    found = (_from_manifest(folder, decode) for folder in folders)
    return next((source for source in found if source.content == content), None)


def _from_manifest(folder: Path, decode: Callable[[], tuple[Split, Split]]) -> Source:
    manifest = read_manifest(folder)
    channels, height, width = manifest["image_shape"]
    return Source(
        manifest["name"],
        manifest["content"],
        tuple(manifest["classes"]),
        (channels, height, width),
        manifest["num_train"],
        manifest["num_test"],
        decode,
    )


def _imported(home: DataHome) -> dict[str, dict[str, str]]:
    path = home.cache_dir / "imported.json"
    try:
        entries: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
        return {
            name: {"root": entry["root"], "folder": entry["folder"]}
            for name, entry in entries.items()
        }
    except (ValueError, AttributeError, TypeError, KeyError):
        raise NormbenchError(f"'{path}' is damaged: remove it and import again") from None


def _store(source: Source, folder: Path) -> None:
    """Decodes into a folder beside, which takes the final name only when it is whole."""
    train, test = source.decode()
    arrays = {f"train_{name}": array for name, array in train.arrays.items()}
    arrays |= {f"test_{name}": array for name, array in test.arrays.items()}
    with disk_errors(folder):
        partial = _empty_partial(folder)
        for name, array in arrays.items():
            with (partial / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
    manifest = {
        "format": FORMAT,
        "name": source.name,
        "content": source.content,
        "classes": list(source.classes),
        "image_shape": list(source.image_shape),
        "num_train": len(train),
        "num_test": len(test),
        "sha256": {name: _digest(partial / f"{name}.npy") for name in arrays},
    }
    write_json(partial / "manifest.json", manifest | {"checksum": _checksum(manifest)})
    _give_final_name(partial, folder)


def _empty_partial(folder: Path) -> Path:
    """A folder beside, to be filled first."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _give_final_name(partial: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    sync_folder(folder.parent)


def _short_hash(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(home: DataHome) -> list[tuple[Path, str]]:
    """Every decoded data set in the cache: its folder, and what is in it or that it is damaged."""
    return [
        (
            path.parent,
            _describe(path.parent) if is_intact(path.parent) else "damaged: will be decoded again",
        )
        for path in sorted(home.cache_dir.glob("*/manifest.json"))
    ]


def _describe(folder: Path) -> str:
    manifest = read_manifest(folder)
    counts = f"{manifest['num_train']} + {manifest['num_test']} images"
    return f"intact: {manifest['name']}, {counts}, {len(manifest['classes'])} classes"
