"""Contestants timed in turns, A B C A B C: whatever else the machine does falls on all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import torch

Work = Callable[[], object]
# Seconds that a number of calls take.
Timer = Callable[[Work, int], float]
Contestant = TypeVar("Contestant")

# Libraries choose kernels and allocate memory in their first calls.
WARM_UP_CALLS = 3


def race(
    works: Mapping[str, Contestant],
    timer: Callable[[Contestant, int], float],
    *,
    rounds: int,
    least_seconds: float,
) -> Iterator[dict[str, float]]:
    """The seconds of one call of each contestant, round by round, after an uncounted warm-up.

    A turn has as many calls as the quickest contestant needs for `least_seconds`: the same number
    for all.
    """
    for work in works.values():
        timer(work, WARM_UP_CALLS)
    quickest = min(timer(work, 1) for work in works.values())
    calls = max(1, math.ceil(least_seconds / quickest))
    for _ in range(rounds):
        yield {name: timer(work, calls) / calls for name, work in works.items()}


def race_now(process: int, batch_size: int) -> str:
    """The name of a race that begins now: its rounds are of one process."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return f"{now} process {process} batch {batch_size}"


def timer_for(device: torch.device) -> Timer:
    """The clock of a device: a GPU's own events, without the launching; else the processor's."""
    return _seconds_by_events if device.type == "cuda" else _seconds_by_clock


def _seconds_by_clock(work: Work, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return time.perf_counter() - start


def _seconds_by_events(work: Work, calls: int) -> float:
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
