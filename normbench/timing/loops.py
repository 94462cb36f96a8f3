"""normbench's training loop and others, timed in turns, each in a process of its own.

`scripts/bench_training.py` prints the comparison.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from multiprocessing.connection import Connection
from statistics import fmean
from typing import Any

from normbench.config.compose import compose
from normbench.data import Split
from normbench.errors import RunFailure
from normbench.timing import other_loops
from normbench.timing.other_loops import OnStep, random_images
from normbench.timing.race import race
from normbench.timing.repeats import in_order_of
from normbench.training.build import build_trainer, runtime_of, task_of
from normbench.training.resolve import resolve

# Loops of other packages, which the extra `bench` installs.
PACKAGES = ("lightning", "keras")
# Of a turn: long beside a message to a process, short beside changes in the machine's load.
LEAST_SECONDS = 1.5

# Trains a norm at a batch size for ever, and calls OnStep after every step.
Loop = Callable[[str, int, OnStep], None]


def compare(
    names: Sequence[str], norm: str, batch_size: int, rounds: int, repeat: int = 1
) -> Iterator[dict[str, float]]:
    """Seconds of a step in each of these loops, round by round, after an uncounted warm-up.

    A step of either of two runs at the same time counts as one. Each loop has a new process.
    repeat: the number of this comparison among those that repeat it, which decides the order of the
    loops. Raises RunFailure where the process of a loop ends early.
    """
    with ExitStack() as stack:
        contestants: dict[str, list[LoopProcess]] = {}
        for name in in_order_of(repeat, names):
            contestants[name] = []
            for loop in loops()[name]:
                process = LoopProcess(name, loop, norm, batch_size)
                contestants[name].append(stack.enter_context(closing(process)))
        yield from race(contestants, take, rounds=rounds, least_seconds=LEAST_SECONDS)


def loops() -> dict[str, list[Loop]]:
    """The loops by name, those that run at the same time; of a package where it is installed."""
    found: dict[str, list[Loop]] = {
        "tutorial": [other_loops.tutorial],
        "in memory": [other_loops.in_memory],
    }
    for package in PACKAGES:
        if importlib.util.find_spec(package) is not None:
            found[package] = [getattr(other_loops, package)]
    found["by hand"] = [other_loops.by_hand]
    alone = partial(normbench, settings=("system.threads=1",))
    bf16 = ("runtime.precision=auto", "runtime.channels_last=true")
    alone_in_bf16 = partial(normbench, settings=("system.threads=1", *bf16))
    fast = partial(normbench, settings=("runtime=fast",))
    compiled = partial(normbench, settings=("runtime=fast", "runtime.compile=true"))
    return found | {
        "normbench": [normbench],
        "normbench, 2 runs, 1 thread": [alone, alone],
        "normbench bf16, 2 runs, 1 thread": [alone_in_bf16, alone_in_bf16],
        "normbench runtime=fast": [fast],
        "normbench runtime=fast, compiled": [compiled],
    }


def take(processes: list[LoopProcess], steps: int) -> float:
    """Takes steps in all processes at the same time; seconds of one loop, over their number.

    The clock is read in the processes that work.
    """
    for process in processes:
        process.begin(steps)
    return fmean([process.end() for process in processes]) / len(processes)


class LoopProcess:
    """A training loop in a separate process, taking steps on request."""

    def __init__(self, name: str, *arguments: Any) -> None:
        # normbench tunes the allocator of its process (`keep_freed_memory`): in a shared process,
        # or a forked one, every loop would gain a sixth at batch 64.
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=serve, args=(far_end, *arguments), daemon=True)
        self.process.start()
        # Without a second holder of the far end, the end of the process closes the pipe.
        far_end.close()

    def begin(self, steps: int) -> None:
        """Begins to take steps; `end` tells where the process has ended."""
        with suppress(OSError):
            self.pipe.send(steps)

    def end(self) -> float:
        """The seconds of the steps, after the last. Raises RunFailure for an ended process."""
        try:
            return float(self.pipe.recv())
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            raise RunFailure(f"the loop '{self.name}' ended with exit code {code}") from None

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def serve(pipe: Connection[Any, Any], loop: Loop, norm: str, batch_size: int) -> None:
    """Runs a loop step by step: receives numbers of steps, sends their seconds, ends with the pipe.

    The first answer includes the construction of network and data.
    """

    def before_each_step() -> Iterator[None]:
        while True:
            steps = pipe.recv()
            start = time.perf_counter()
            for _ in range(steps):
                yield
            pipe.send(time.perf_counter() - start)

    turns = before_each_step()
    with suppress(EOFError):
        next(turns)
        loop(norm, batch_size, lambda: next(turns))


def normbench(norm: str, batch_size: int, on_step: OnStep, settings: Sequence[str] = ()) -> None:
    """The epochs of `normbench train` under these settings, without evaluations and files."""
    # More epochs than anybody waits for: the loop ends with its process.
    study = [f"norm={norm}", f"batch_size={batch_size}", "epochs=1000000", "data=synthetic"]
    config, source = resolve(compose([*study, "runtime.device=cpu", *settings]))
    images, labels = random_images()
    split = Split.of(images=images, labels=labels)
    with runtime_of(config) as runtime:
        trainer = build_trainer(config, task_of(config, source), split, runtime)
        while True:
            trainer.train_epoch(lambda log: on_step(), lambda: False)
