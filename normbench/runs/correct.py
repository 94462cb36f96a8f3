"""Which test images a run gets right after its last epoch: correct.bits, a bit for each image.

The bits stand in the order of the test set, 8 to a byte, the first image highest:
`numpy.unpackbits(numpy.fromfile("correct.bits", numpy.uint8), count=number)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FILE = "correct.bits"


def pack(correct: NDArray[np.bool_]) -> bytes:
    """The bits of images (n,), filled up with zeros to whole bytes."""
    return np.packbits(correct).tobytes()


def unpack(bits: bytes, number: int) -> NDArray[np.bool_]:
    """The images (number,) whose bits `pack` has given. Raises ValueError for another number."""
    if len(bits) != -(-number // 8):
        raise ValueError(f"has {len(bits)} bytes for {number} images")
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=number).astype(bool)


def check(bits: bytes, number: int, share: float) -> None:
    """Raises ValueError unless so large a share of so many images is right."""
    if round(share * number) != int(unpack(bits, number).sum()):
        raise ValueError("does not agree with the last row of metrics.csv")
