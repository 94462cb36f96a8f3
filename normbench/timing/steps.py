"""Whole training steps of several configurations, timed in turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from normbench import environment
from normbench.config.schema import RunConfig, cost_settings, flatten
from normbench.data import Source
from normbench.timing.footprint import peak_bytes, saved_bytes, state_bytes
from normbench.timing.race import race, timer_for
from normbench.timing.trial import Trial, trial
from normbench.train.build import runtime_of
from normbench.train.engine import Trainer
from normbench.train.resolve import Resolver

LEAST_SECONDS = 0.1  # of a turn: long beside the clock's resolution and a switch of tasks


@dataclass(frozen=True)
class Contestant:
    """A configuration ready to take steps, and what stands in each of its rows whatever the round."""

    ready: Trial
    facts: dict[str, Any]


def bench_steps(
    configs: Sequence[RunConfig], rounds: int, done: Callable[[], object]
) -> Iterator[dict[str, Any]]:
    """A row for each configuration and round: its settings, the seconds of a step, and what it needs in memory.

    Those of one batch size are timed in turns; the images are random ones, of the size that the data have. Compilation
    and warm-up are not in the seconds. What costs the same, as two seeds do, is timed once. `done` is called after each
    round. Raises what training raises.
    """
    resolver = Resolver()
    configs = [*{_cost(config, resolver.source(config)): config for config in configs}.values()]
    started = datetime.now(UTC).isoformat(timespec="seconds")
    for batch_size in dict.fromkeys(config.batch_size for config in configs):
        chosen = [config for config in configs if config.batch_size == batch_size]
        with ExitStack() as stack:
            ready = [_contestant(config, resolver.source(config), stack) for config in chosen]
            contestants = {str(number): one for number, one in enumerate(ready)}
            works = {name: one.ready.take_step for name, one in contestants.items()}
            timer = timer_for(next(iter(contestants.values())).ready.trainer.runtime.device)
            for number, seconds in enumerate(
                race(works, timer, rounds=rounds, least_seconds=LEAST_SECONDS)
            ):
                for name, one in contestants.items():
                    place = {
                        "race": f"{started} batch {batch_size}",
                        "round": number,
                        "seconds": seconds[name],
                    }
                    yield one.facts | place
                done()


def _cost(config: RunConfig, source: Source) -> tuple[object, ...]:
    """What a step's cost depends on."""
    return str(cost_settings(flatten(config.identity()))), source.image_shape, len(source.classes)


def _contestant(config: RunConfig, source: Source, stack: ExitStack) -> Contestant:
    runtime = stack.enter_context(runtime_of(config))
    ready = trial(config, source, runtime)
    facts = cost_settings(flatten(config.identity())) | {
        "image": "x".join(map(str, source.image_shape)),
        "classes": len(source.classes),
        **machine(config.runtime.device),
        "compile_seconds": ready.seconds_compiling,
        "peak_bytes": peak_bytes(ready.take_step, runtime.device),
        "saved_bytes": _saved_bytes(ready.trainer),
        "state_bytes": state_bytes(ready.trainer.model, ready.trainer.optimizer),
    }
    return Contestant(ready, facts)


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


def _saved_bytes(trainer: Trainer) -> int:
    indices = trainer.loader.shuffled(0, trainer.seed)[: trainer.batch_size]
    images = trainer.loader.gather(indices)["images"]
    with trainer.runtime.kernels(), trainer.runtime.autocast():
        return saved_bytes(trainer.model, images, list(trainer.model.parameters()))
