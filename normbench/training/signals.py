"""Ctrl-C and SIGTERM as a question between two steps; what processes started here do not share."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType, ModuleType


@contextmanager
def stop_signals(then: Callable[[], None] | None = None) -> Iterator[Callable[[], bool]]:
    """Yields a function: whether a signal to stop has come.

    then: called at the first signal of a kind. A second signal of a kind acts as before. Outside
    the main thread the answer is always no: Python delivers signals to the main thread alone.
    """
    heard: list[int] = []
    before: dict[int, object] = {}

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        signal.signal(number, before[number])  # type: ignore[arg-type]
        if then is not None:
            then()

    if threading.current_thread() is threading.main_thread():
        for stopping in (signal.SIGINT, signal.SIGTERM):
            before[stopping] = signal.signal(stopping, hear)
    try:
        yield lambda: bool(heard)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


@contextmanager
def withheld_ctrl_c() -> Iterator[None]:
    """Processes started within inherit a blocked SIGINT: Ctrl-C is for this process alone."""
    # Started first: multiprocessing unblocks the signal when it starts the tracker.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def without_the_program() -> Iterator[None]:
    """Processes started within do not import the program that starts them.

    A script that calls `normbench.sweep` would otherwise run anew in each of its runs.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program
