"""Ctrl-C and SIGTERM as a question the training loop asks between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether somebody asked to stop; a second signal acts as it did before.

    Only the main thread can listen to signals: in another one nobody is heard, and the answer is always no.
    """
    heard: list[int] = []
    before: dict[signal.Signals, object] = {}

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        signal.signal(number, before[signal.Signals(number)])  # type: ignore[arg-type]

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, hear)
    try:
        yield lambda: bool(heard)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
