"""Independent random streams by name.

Every random choice draws from a stream of its own name, so a choice never shifts another choice.
The norm's name is in no stream: runs of equal seed share initial conv weights and data order
whatever their norm, and are paired.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, *name: str | int) -> int:
    """The 63-bit seed of the stream `name`, such as ("init", 3), under the run's `seed`."""
    digest = hashlib.sha256("/".join(str(part) for part in (seed, *name)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, *name: str | int) -> torch.Generator:
    """A generator for the stream, on the CPU: the same draws for every device."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, *name))
