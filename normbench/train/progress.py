"""What a person sees of a run: a bar per epoch on a terminal, and one plain line per epoch everywhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from tqdm import tqdm

from normbench.train.engine import StepLog, Trainer

REFRESH_SECONDS = 0.5
BAR = "{desc} {bar:8} {n_fmt}/{total_fmt} {remaining} left{postfix}"  # fits in 80 columns


class Progress:
    """Shows a run as `mode` says: auto (bar where standard error is a terminal, lines), bar, lines, none."""

    def __init__(self, mode: str) -> None:
        tqdm.set_lock(
            threading.RLock()
        )  # its own, between processes, outlives a killed one as a warning
        self.no_bar = {"auto": None, "bar": False, "lines": True, "none": True}[mode]
        self.silent = mode == "none"

    def say(self, line: str) -> None:
        """One plain line on standard output; training goes on when nobody reads it any more."""
        if self.silent:
            return
        try:
            tqdm.write(line)
            sys.stdout.flush()
        except OSError:
            self.silent = True
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # what is buffered has somewhere to go

    @contextmanager
    def epoch(self, trainer: Trainer) -> Iterator[Callable[[StepLog | None], None]]:
        """Yields what to call after every step: it moves the bar.

        Running figures are read at logged steps; on a CPU, where reading costs nothing, twice a second.
        """
        title = f"epoch {trainer.epoch + 1}/{trainer.epochs}"
        total = trainer.steps_in_epoch
        images_per_step = trainer.batch_size * trainer.accumulate
        read_often = trainer.runtime.device.type == "cpu"
        options: dict[str, Any] = {
            "disable": self.no_bar,
            "leave": False,
            "dynamic_ncols": True,
            "bar_format": BAR,
        }
        with tqdm(desc=title, total=total, initial=trainer.steps_into_epoch, **options) as bar:
            last_read = 0.0

            def on_step(log: StepLog | None) -> None:
                nonlocal last_read
                bar.update()
                if log is not None:
                    _show(bar, log.mean_loss, log.accuracy, images_per_step)
                elif (
                    read_often
                    and not bar.disable
                    and time.monotonic() - last_read > REFRESH_SECONDS
                ):
                    last_read = time.monotonic()
                    mean_loss, accuracy = trainer.metrics.read()
                    _show(bar, mean_loss, accuracy, images_per_step)

            yield on_step

    def epoch_done(self, row: Mapping[str, Any], epochs: int) -> None:
        """The epoch's line."""
        self.say(
            f"epoch {row['epoch']}/{epochs}  "
            f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.4f}  "
            f"test loss {row['test_loss']:.4f} accuracy {row['test_accuracy']:.4f}  "
            f"{row['train_seconds']:.1f} s  {row['images_per_second']:.0f} images/s"
        )


def _show(bar: tqdm[NoReturn], loss: float, accuracy: float, images_per_step: int) -> None:
    rate = (bar.format_dict["rate"] or 0.0) * images_per_step
    bar.set_postfix_str(f"loss {loss:.3f}, acc {accuracy:.3f}, {rate:.0f} images/s", refresh=False)
