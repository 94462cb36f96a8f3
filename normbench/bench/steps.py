"""Whole training steps of several configurations, timed in turns in one process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from normbench import environment
from normbench.config import RunConfig, cost_settings, flatten
from normbench.data import Source, Split
from normbench.train.build import build_trainer, runtime_of
from normbench.train.engine import Trainer, compile_seconds
from normbench.train.footprint import peak_bytes, saved_bytes, state_bytes
from normbench.train.race import WARM_UP, Work, race, timer_for
from normbench.train.resolve import Resolver

LEAST_SECONDS = 0.1  # of a turn: long beside the clock's resolution and a switch of tasks
NUM_BATCHES = 4  # of different random images, in turn


@dataclass(frozen=True)
class Contestant:
    """A configuration ready to take steps, and what stands in each of its rows whatever the round."""

    trainer: Trainer
    take_step: Work
    facts: dict[str, Any]


def bench_steps(configs: Sequence[RunConfig], rounds: int, done: Callable[[], object]) -> Iterator[dict[str, Any]]:
    """A row for each configuration and round: its settings, the seconds of a step, and what it needs in memory.

    Those of one batch size are timed in turns; the images are random ones, of the size that the data have. Compilation
    and warm-up are not in the seconds. `done` is called after each round. Raises what training raises.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    for batch_size in dict.fromkeys(config.batch_size for config in configs):
        chosen = [config for config in configs if config.batch_size == batch_size]
        with ExitStack() as stack:
            contestants = {str(number): _contestant(config, stack) for number, config in enumerate(chosen)}
            works = {name: one.take_step for name, one in contestants.items()}
            timer = timer_for(next(iter(contestants.values())).trainer.runtime.device)
            for number, seconds in enumerate(race(works, timer, rounds=rounds, least_seconds=LEAST_SECONDS)):
                for name, one in contestants.items():
                    place = {"race": f"{started} batch {batch_size}", "round": number, "seconds": seconds[name]}
                    yield one.facts | place
                done()


def _contestant(config: RunConfig, stack: ExitStack) -> Contestant:
    source = Resolver().source(config)
    runtime = stack.enter_context(runtime_of(config))
    images = random_images(source, NUM_BATCHES * config.batch_size * config.train.accumulate)
    trainer = build_trainer(config, images, len(source.classes), runtime)
    seconds_compiling = compile_seconds(trainer, ())
    take_step = _steps(trainer)
    for _ in range(WARM_UP):
        take_step()
    facts = cost_settings(flatten(config.identity())) | {
        "image": "x".join(map(str, source.image_shape)),
        **machine(config.runtime.device),
        "compile_seconds": seconds_compiling,
        "peak_bytes": peak_bytes(take_step, runtime.device),
        "saved_bytes": _saved_bytes(trainer),
        "state_bytes": state_bytes(trainer.model, trainer.optimizer),
    }
    return Contestant(trainer, take_step, facts)


def machine(device: str) -> dict[str, Any]:
    """What the seconds depend on besides the settings."""
    hardware, git = environment.hardware(device), environment.git()
    return {
        "device": hardware["device_name"],
        "threads": hardware["threads"],
        "torch": environment.versions()["torch"],
        "python": environment.versions()["python"],
        "commit": git["commit"],
        "dirty": git["dirty"],
    }


def _steps(trainer: Trainer) -> Work:
    """Steps on the same few batches, over and over."""
    images_per_step = trainer.batch_size * trainer.accumulate
    groups = itertools.cycle(trainer.loader.shuffled(0, trainer.seed).split(images_per_step))
    lr = trainer.lr_at(0)
    return lambda: trainer.take_step(next(groups), lr)


def _saved_bytes(trainer: Trainer) -> int:
    images, _ = trainer.loader.gather(trainer.loader.shuffled(0, trainer.seed)[: trainer.batch_size])
    with trainer.runtime.autocast():
        return saved_bytes(trainer.model, images, list(trainer.model.parameters()))


def random_images(source: Source, number: int) -> Split:
    """So many images of the size that the source has, with labels of its classes."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (number, *source.image_shape), dtype=np.uint8)
    return Split(images, generator.integers(0, len(source.classes), number))
