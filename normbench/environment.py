"""What a number depends on besides its configuration: versions, hardware, commit. For env.json and the doctor."""

from __future__ import annotations

import math
import os
import platform
import shlex
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import normbench

CODE = ("normbench", "configs", "pyproject.toml")  # what can change a number
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "hydra-core", "pydantic")


def versions() -> dict[str, str]:
    """The versions of Python, normbench and what it computes with."""
    return {"python": platform.python_version(), "normbench": normbench.__version__} | {
        name: found for name in PACKAGES if (found := _version(name))
    }


def hardware(device: str) -> dict[str, Any]:
    """The device by its name, the processor, its cores and torch's threads."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else cpu_name()
    return {
        "device": device,
        "device_name": name,
        "cpu": cpu_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def git() -> dict[str, Any]:
    """The commit of the checkout that normbench runs from, and whether its code differs from it; nulls for a wheel."""
    root = Path(normbench.__file__).parents[1]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    commit, changes = (
        _git(root, "rev-parse", "HEAD"),
        _git(root, "status", "--porcelain", "--", *CODE),
    )
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def command() -> str:
    """The command line of this process, as one would type it."""
    program = Path(sys.argv[0]).name
    return shlex.join(["normbench" if program == "__main__.py" else program, *sys.argv[1:]])


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory_gib() -> float:
    """The memory that new processes can have; infinite where the system does not say."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    kib = next(
        (float(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf
    )
    return kib / 2**20


def cpu_name() -> str:
    """The processor's own name for itself, as far as the system tells."""
    return cpu_info("model name") or platform.processor() or platform.machine()


@lru_cache
def cpu_info(field: str) -> str:
    """What /proc/cpuinfo says of the first core under `field`; empty where it says nothing or there is no such file."""
    info = Path("/proc/cpuinfo")
    lines = (
        line.partition(":") for line in (info.read_text().splitlines() if info.exists() else [])
    )
    return next((value.strip() for name, _, value in lines if name.strip() == field), "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
