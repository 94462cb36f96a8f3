"""What a person sees of a run: a bar per epoch on a terminal, and one plain line per epoch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from normbench.runs.columns import SKIPPED
from normbench.tasks.metric import Metric
from normbench.text import bars, hides_bars, in_notebook, visible
from normbench.training.engine import StepLog, Trainer

REFRESH_SECONDS = 0.5
# Fits in 80 columns; a notebook's own bar has its width from the page.
BAR = "{desc} {bar:8} {n_fmt}/{total_fmt} {remaining} left{postfix}"
NOTEBOOK_BAR = BAR.replace("{bar:8}", "{bar}")


class Progress:
    """Shows a run by `mode`: auto (a bar on a terminal and in a notebook), bar, lines, none."""

    def __init__(self, mode: str) -> None:
        self.no_bar = {"auto": hides_bars(), "bar": False, "lines": True, "none": True}[mode]
        self.silent = mode == "none"

    def say(self, line: str) -> None:
        """Prints a line on standard output; training goes on when nobody reads any more."""
        if self.silent:
            return
        try:
            bars().write(visible(line))
            sys.stdout.flush()
        except OSError:
            self.silent = True
            # The buffered rest is written at exit, and needs somewhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def resumed(self, trainer: Trainer) -> None:
        """Prints from where a run goes on."""
        epoch = min(trainer.epoch + 1, trainer.epochs)
        self.say(
            f"going on after step {trainer.step} of {trainer.num_steps}, "
            f"in epoch {epoch} of {trainer.epochs}"
        )

    @contextmanager
    def epoch(self, trainer: Trainer) -> Iterator[Callable[[StepLog | None], None]]:
        """Yields a function to call after every step, which moves the bar.

        Running means are shown at logged steps; on a CPU, where reading them costs nothing, twice a
        second, unless several processes would have to read them together.
        """
        read_often = trainer.runtime.device.type == "cpu" and trainer.processes.number == 1
        options: dict[str, Any] = {
            "desc": f"epoch {trainer.epoch + 1}/{trainer.epochs}",
            "total": trainer.steps_in_epoch,
            "initial": trainer.steps_into_epoch,
            "disable": self.no_bar,
            "leave": False,
            "dynamic_ncols": True,
            "bar_format": NOTEBOOK_BAR if in_notebook() else BAR,
        }
        with bars()(**options) as bar:
            last_read = 0.0

            def on_step(log: StepLog | None) -> None:
                nonlocal last_read
                bar.update()
                if bar.disable:
                    return
                if log is not None:
                    _show(bar, log.means, trainer)
                elif read_often and time.monotonic() - last_read > REFRESH_SECONDS:
                    last_read = time.monotonic()
                    _show(bar, trainer.sums.means(), trainer)

            yield on_step

    def epoch_done(self, row: Mapping[str, Any], epochs: int, metrics: Sequence[Metric]) -> None:
        """Prints the epoch's line."""
        parts = [f"epoch {row['epoch']}/{epochs}"]
        for split in ("train", "test"):
            told = []
            for metric in metrics:
                value = row[f"{split}_{metric.name}"]
                told.append(f"{metric.title} {metric.finer().show(value)}")
            parts.append(f"{split} {', '.join(told)}")
        parts.append(f"{row['train_seconds']:.1f} s")
        parts.append(f"{row['images_per_second']:.0f} images/s")
        if row.get(SKIPPED):
            parts.append(f"{row[SKIPPED]} steps skipped, whose gradients overflowed")
        self.say("  ".join(parts))


def _show(bar: Any, means: Mapping[str, float], trainer: Trainer) -> None:
    rate = (bar.format_dict["rate"] or 0.0) * trainer.images_per_step
    metrics = trainer.task.metrics
    values = [f"{metric.title} {metric.show(means[metric.name])}" for metric in metrics]
    bar.set_postfix_str(", ".join([*values, f"{rate:.0f} images/s"]), refresh=False)
