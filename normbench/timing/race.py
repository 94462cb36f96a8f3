"""Contestants timed in turns, A B C A B C ...: whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping

import torch

Work = Callable[[], object]
Timer = Callable[[Work, int], float]  # seconds that so many calls take

WARM_UP = 3  # calls: libraries choose their kernels, and memory is had, in the first ones


def race(
    works: Mapping[str, Work], timer: Timer, *, rounds: int, least_seconds: float
) -> Iterator[dict[str, float]]:
    """The seconds of one call of each contestant, round by round, after a warm-up that is not counted.

    In its turn a contestant is called as often as the quickest needs for `least_seconds`, all of them equally often.
    """
    for work in works.values():
        timer(work, WARM_UP)
    quickest = min(timer(work, 1) for work in works.values())
    calls = max(1, math.ceil(least_seconds / quickest))
    for _ in range(rounds):
        yield {name: timer(work, calls) / calls for name, work in works.items()}


def timer_for(device: torch.device) -> Timer:
    """The clock of a device: a GPU's own events, which leave out the way there; else the processor's."""
    return _seconds_by_events if device.type == "cuda" else _seconds_by_clock


def _seconds_by_clock(work: Work, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return time.perf_counter() - start


def _seconds_by_events(work: Work, calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
