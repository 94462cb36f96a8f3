"""The environment at a glance: versions, device, cores, precision, which data are there. For bug reports."""

from __future__ import annotations

from pathlib import Path

from normbench import environment
from normbench.compose import compose
from normbench.data import DataHome, sources
from normbench.data.cache import cache_folder, is_intact, read_manifest
from normbench.errors import NormbenchError
from normbench.train.resolve import data_home
from normbench.train.runtime import has_native_bf16, resolve_device


def examine() -> list[tuple[str, str]]:
    """What there is, as (name, finding)."""
    device = resolve_device("auto")
    hardware = environment.hardware(device)
    config = compose()
    home = data_home(config)
    return [
        *environment.versions().items(),
        ("torchvision works", _torchvision()),
        ("device", f"{device} ({hardware['device_name']})"),
        ("cores", f"{hardware['cores']}, torch uses {hardware['threads']} threads"),
        ("precision", "fp32, bf16" if has_native_bf16(device) else f"fp32 (this {device} has no native bf16)"),
        ("commit", _commit()),
        ("runs", config.system.runs_dir),
        ("cache", str(home.cache_dir)),
        *((f"data={entry.name}", _data(entry.name, home)) for entry in sources),
    ]


def cached(home: DataHome) -> list[tuple[Path, str]]:
    """Every decoded data set in the cache: its folder, and what is in it or that it is damaged."""
    return [
        (path.parent, _describe(path.parent) if is_intact(path.parent) else "damaged: will be decoded again")
        for path in sorted(home.cache_dir.glob("*/manifest.json"))
    ]


def _describe(folder: Path) -> str:
    manifest = read_manifest(folder)
    counts = f"{manifest['num_train']} + {manifest['num_test']} images"
    return f"intact: {manifest['name']}, {counts}, {len(manifest['classes'])} classes"


def _data(name: str, home: DataHome) -> str:
    try:
        source = sources.build(name, home)
    except NormbenchError as error:
        return f"not found: {error}"
    folder = cache_folder(source, home)
    if is_intact(folder):
        return f"decoded in {folder}"
    return "built in" if name == "synthetic" else "not here; fetched on first use"


def _commit() -> str:
    state = environment.git()
    return f"{state['commit']}{' (changed since)' if state['dirty'] else ''}" if state["commit"] else "none: a package"


def _torchvision() -> str:
    """A torchvision built for another torch fails at import, and the reason is long."""
    try:
        import torchvision  # noqa: F401
    except Exception as error:  # it raises RuntimeError, ImportError, OSError, as the mismatch will have it
        return f"no: {str(error).splitlines()[0]}; install torch and torchvision from the same index"
    return "yes"
