"""Whole training steps of several configurations, timed in turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from normbench import environment
from normbench.config.schema import RunConfig
from normbench.data import Source
from normbench.timing.footprint import peak_bytes, saved_bytes, state_bytes
from normbench.timing.race import race, race_now, timer_for
from normbench.timing.trial import Trial, trial
from normbench.training.build import runtime_of, task_of
from normbench.training.engine import Trainer
from normbench.training.resolve import Resolver

# Of a turn: long beside the clock's resolution and a switch of tasks.
LEAST_SECONDS = 0.1


def bench_steps(
    configs: Sequence[RunConfig], rounds: int, done: Callable[[], object], process: int = 1
) -> Iterator[dict[str, Any]]:
    """A row of bench.csv for each configuration and round: settings, seconds of a step, memory.

    Configurations of one batch size are timed in turns, on random images of the data's size; the
    seconds contain neither compilation nor warm-up. Configurations of equal cost (two seeds) are
    timed once. `done` is called after each round. process: the number of this process among those
    that repeat the bench. Raises what training raises.
    """
    resolver = Resolver()
    # Equal cost, one contestant: the last of them, in the place of the first.
    distinct = {cost_id_of(config, resolver.source(config)): config for config in configs}
    batch_sizes = dict.fromkeys(config.batch_size for config in distinct.values())
    for batch_size in batch_sizes:
        chosen = [config for config in distinct.values() if config.batch_size == batch_size]
        with ExitStack() as stack:
            works, facts = {}, {}
            for config in chosen:
                runtime = stack.enter_context(runtime_of(config))
                source = resolver.source(config)
                ready = trial(config, source, runtime)
                cost_id = cost_id_of(config, source)
                works[cost_id] = ready.take_step
                facts[cost_id] = _facts(config, source, ready)
            timer = timer_for(runtime.device)
            timed = race(works, timer, rounds=rounds, least_seconds=LEAST_SECONDS)
            name = race_now(process, batch_size)
            for number, seconds in enumerate(timed):
                place = {"race": name, "round": number}
                for cost_id, columns in facts.items():
                    yield columns | place | {"seconds": seconds[cost_id]}
                done()


def machine(device: str) -> dict[str, Any]:
    """The columns of a row that say where it was timed."""
    hardware, git = environment.hardware(device), environment.git()
    versions = environment.versions()
    return {
        "device": hardware["device_name"],
        "threads": hardware["threads"],
        "torch": versions["torch"],
        "python": versions["python"],
        "commit": git["commit"],
        "dirty": git["dirty"],
    }


def cost_id_of(config: RunConfig, source: Source) -> str:
    """The `cost_id` of a configuration on these data."""
    return config.cost_id(source.image_shape, task_of(config, source).output_shape[0])


def _facts(config: RunConfig, source: Source, ready: Trial) -> dict[str, Any]:
    trainer = ready.trainer
    return config.cost_settings() | {
        "cost_id": cost_id_of(config, source),
        "image": "x".join(str(size) for size in source.image_shape),
        "outputs": trainer.task.output_shape[0],
        **machine(config.runtime.device),
        "compile_seconds": ready.seconds_compiling,
        "peak_bytes": peak_bytes(ready.take_step, trainer.runtime.device),
        "saved_bytes": _saved_bytes(trainer),
        "state_bytes": state_bytes(trainer.model, trainer.optimizer),
    }


def _saved_bytes(trainer: Trainer) -> int:
    first = trainer.loader.shuffled(0, trainer.seed)[: trainer.batch_size]
    batch = trainer.loader.gather(first)
    with trainer.runtime.autocast():
        return saved_bytes(trainer.model, batch["images"], list(trainer.model.parameters()))
