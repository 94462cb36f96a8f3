"""Benches of nothing, for processes that start without torch: rows that say who wrote them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

from normbench.errors import NormbenchError
from normbench.timing.repeats import Done


def telling(
    contestants: Sequence[Any], rounds: int, done: Done, process: int
) -> Iterator[dict[str, Any]]:
    """Rows with process, number and contestant; Ctrl-C comes in every round."""
    for number in range(rounds):
        if process > 1:
            os.kill(os.getpid(), signal.SIGINT)
        for contestant in contestants:
            yield {"pid": os.getpid(), "process": process, "round": number, "norm": contestant}
        done()


def failing(
    contestants: Sequence[Any], rounds: int, done: Done, process: int
) -> Iterator[dict[str, Any]]:
    """Ends in the second round of process 2, by the fault that is the only contestant."""
    yield from telling(contestants, 1, done, 1)
    if process == 2:
        faults = {"input": NormbenchError("the norm is wrong"), "memory": MemoryError("none left")}
        if contestants[0] in faults:
            raise faults[contestants[0]]
        os.kill(os.getpid(), signal.SIGKILL)


def endless(
    contestants: Sequence[Any], rounds: int, done: Done, process: int
) -> Iterator[dict[str, Any]]:
    """Sleeps after the first round."""
    yield from telling(contestants, 1, done, 1)
    time.sleep(600)
