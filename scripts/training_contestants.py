"""The processes that bench_training.py lets train in turn, and the race that finds the fastest variant of a loop."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

LOOPS = Path(__file__).with_name("training_loops.py")
ROUND_SECONDS = 1.5
MIN_STEPS = 3
RACE_ROUNDS = 3


class WorkerDied(Exception):
    """A process has ended by itself; it has said why on standard error."""


@dataclass(frozen=True)
class Variant:
    """A loop of training_loops.py at a number of threads with these settings; copies: how many step at a time."""

    loop: str
    threads: int
    settings: tuple[str, ...] = ()
    copies: int = 1

    @property
    def what(self) -> str:
        """Its settings, shortened to what tells them apart."""
        return ", ".join(
            key.removeprefix("runtime.").removesuffix("=true") for key in self.settings
        )

    def __str__(self) -> str:
        return (
            f"{self.what or 'default settings'} at {self.threads} thread{'s' * (self.threads > 1)}"
        )


class Worker:
    """One process with one loop in it. It ends when it is closed, and by itself when this process is gone."""

    def __init__(self, variant: Variant, norm: str, batch_size: int) -> None:
        command = [
            sys.executable,
            LOOPS,
            variant.loop,
            norm,
            str(batch_size),
            str(variant.threads),
            *variant.settings,
        ]
        # The compiler otherwise keeps a pool of processes of its own beside every worker.
        environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        self.name = f"the worker of '{variant.loop}' ({variant}) on {norm} at batch {batch_size}"
        self.peak_mib = 0.0

    def send(self, order: int | str) -> None:
        """Tells it a number of steps, or to evaluate."""
        assert self.process.stdin is not None
        try:
            print(order, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise self._died() from None

    def receive(self) -> float:
        """Waits for its answer: the seconds that the order took. Raises WorkerDied if none comes."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            raise self._died()
        answer = json.loads(line)
        self.peak_mib = answer["peak_mib"]
        return float(answer["seconds"])

    def close(self) -> None:
        """Ends the process and waits for its end; a second time it does nothing."""
        self.process.kill()
        with suppress(BrokenPipeError), self.process:
            pass

    def _died(self) -> WorkerDied:
        return WorkerDied(f"{self.name} ended with exit code {self.process.wait()}")


class Contestant:
    """A variant under its name, in as many workers as it has copies."""

    def __init__(self, name: str, variant: Variant, norm: str, batch_size: int) -> None:
        self.name, self.variant = name, variant
        self.workers = [Worker(variant, norm, batch_size) for _ in range(variant.copies)]
        self.steps = 1

    def close(self) -> None:
        """Ends its workers."""
        for worker in self.workers:
            worker.close()

    @property
    def peak_mib(self) -> float:
        """Peak resident memory of its workers together."""
        return sum(worker.peak_mib for worker in self.workers)

    def wait_until_ready(self) -> None:
        """Waits for the first step."""
        for worker in self.workers:
            worker.receive()

    def calibrate(self) -> None:
        """Finds how many steps make a round."""
        milliseconds = min(self.take(2) for _ in range(3)) * len(self.workers)
        self.steps = max(MIN_STEPS, round(1000 * ROUND_SECONDS / milliseconds))

    def take(self, order: int | str | None = None) -> float:
        """Milliseconds per step over a round, or over `order` steps or evaluations; of copies, per step of any."""
        order = order or self.steps
        for worker in self.workers:
            worker.send(order)
        seconds = max([worker.receive() for worker in self.workers])
        steps = order if isinstance(order, int) else 1
        return 1000 * seconds / (steps * len(self.workers))


def fastest(
    name: str, variants: Sequence[Variant], norm: str, batch_size: int, stack: ExitStack
) -> tuple[Contestant, str]:
    """The fastest of these variants, warm and calibrated, and a line that says how fast each was.

    The workers of the others are closed; whatever is left is closed with the stack.
    """
    runners = []
    for variant in variants:
        runners.append(Contestant(name, variant, norm, batch_size))
        stack.callback(runners[-1].close)
    for act in (
        Contestant.wait_until_ready,
        Contestant.calibrate,
    ):  # all wait before any takes a time
        for runner in runners:
            act(runner)
    if len(runners) == 1:
        return runners[0], ""
    rounds = [
        [runner.take(max(1, runner.steps // 3)) for runner in runners] for _ in range(RACE_ROUNDS)
    ]
    milliseconds = [statistics.median(times) for times in zip(*rounds, strict=True)]
    ranking = sorted(zip(milliseconds, runners, strict=True), key=lambda pair: pair[0])
    for _, loser in ranking[1:]:
        loser.close()
    return ranking[0][1], f"{name}: " + ", ".join(
        f"{runner.variant} {time:.3g} ms" for time, runner in ranking
    )
