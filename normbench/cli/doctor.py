"""normbench doctor: versions, device, cores, precision, available data. For bug reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normbench.errors import NormbenchError
from normbench.text import say

if TYPE_CHECKING:
    from normbench.data import DataHome


def doctor() -> None:
    """Show versions, device, cores, precision, and available data."""
    from normbench import environment
    from normbench.config.compose import compose
    from normbench.data import sources
    from normbench.training.resolve import data_home
    from normbench.training.runtime import has_native_bf16, resolve_device

    device = resolve_device("auto")
    hardware = environment.hardware(device)
    precision = "fp32, bf16"
    if not has_native_bf16(device):
        precision = f"fp32 (this {device} has no native bf16)"
    if device == "cuda":
        precision += ", fp16"
    config = compose()
    home = data_home(config)
    findings = environment.versions() | {
        "torchvision works": _torchvision(),
        "device": f"{device} ({hardware['device_name']})",
        "cores": f"{hardware['cores']}, torch uses {hardware['threads']} threads",
        "precision": precision,
        "commit": _commit(),
        "runs": config.system.runs_dir,
        "cache": str(home.cache_dir),
    }
    for entry in sources:
        findings[f"data={entry.name}"] = _data(entry.name, home)
    for name, finding in findings.items():
        say(f"{name:22} {finding}")


def _data(name: str, home: DataHome) -> str:
    from normbench.data import sources
    from normbench.data.cache import cache_folder, is_intact

    try:
        source = sources.build(name, home)
    except NormbenchError as error:
        return f"not found: {error}"
    folder = cache_folder(source, home)
    if is_intact(folder):
        return f"decoded in {folder}"
    return "built in" if name == "synthetic" else "not here; fetched on first use"


def _commit() -> str:
    from normbench import environment

    state = environment.git()
    if not state["commit"]:
        return "none: a package"
    return f"{state['commit']} (changed since)" if state["dirty"] else str(state["commit"])


def _torchvision() -> str:
    """Whether torchvision can be imported: a build for another torch fails, at great length."""
    # A mismatch raises RuntimeError, ImportError or OSError, depending on the versions.
    try:
        import torchvision  # noqa: F401
    except Exception as error:
        reason = str(error).splitlines()[0]
        return f"no: {reason}; install torch and torchvision from the same index"
    return "yes"
