"""Reads versions, hardware and commit, on which numbers depend besides the configuration.

Written to env.json by a run and shown by `normbench doctor`.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import normbench

# The files of the checkout that can change a number.
CODE = ("normbench", "configs", "pyproject.toml")
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "hydra-core", "pydantic")


def versions() -> dict[str, str]:
    """The versions of Python, normbench and the installed packages of PACKAGES."""
    found = {"python": platform.python_version(), "normbench": normbench.__version__}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def hardware(device: str) -> dict[str, Any]:
    """The device and the processor by name, the number of cores and of torch's threads."""
    import torch

    return {
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "cpu": cpu_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def git() -> dict[str, Any]:
    """The commit of normbench's checkout, and whether CODE differs from the commit.

    Both are None for an installed wheel and without git.
    """
    root = Path(normbench.__file__).parents[1]
    # The installed package of a user may lie inside a repository of the user's.
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    changes = _git(root, "status", "--porcelain", "--", *CODE)
    dirty = None if changes is None else changes != ""
    return {"commit": _git(root, "rev-parse", "HEAD"), "dirty": dirty}


def command() -> str:
    """The command line of the process, quoted for a shell."""
    program = Path(sys.argv[0]).name.replace("__main__.py", "normbench")
    return shlex.join([program, *sys.argv[1:]])


def num_cores() -> int:
    """The number of cores the process may use."""
    # A container or `taskset` allows fewer cores than the machine has; macOS has no affinity.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_gib() -> float:
    """Memory available to new processes, in GiB; infinite on a system without /proc/meminfo."""
    kib = _proc_field("meminfo", "MemAvailable")
    return float(kib.split()[0]) / 2**20 if kib else math.inf


def cpu_name() -> str:
    """The processor's name, such as "AMD EPYC 7B13"."""
    return cpu_info("model name") or platform.processor() or platform.machine()


@lru_cache
def cpu_info(field: str) -> str:
    """The value of `field` in /proc/cpuinfo for the first core; empty where missing."""
    return _proc_field("cpuinfo", field)


def _proc_field(file: str, field: str) -> str:
    path = Path("/proc", file)
    # Only Linux has the file.
    if path.exists():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
