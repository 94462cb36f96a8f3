"""A few steps and evaluations of one configuration, to say how long a run of it takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel

from normbench.config.schema import RunConfig
from normbench.data import Source, Split
from normbench.timing.race import Timer, timer_for
from normbench.timing.trial import trial
from normbench.training.build import build_loader, runtime_of
from normbench.training.evaluate import EVAL_BATCH_SIZE, evaluate
from normbench.training.evaluations import tracking_layers

LEAST_SECONDS = 0.2  # of the calls timed
MOST_CALLS = 100


class StepTime(BaseModel):
    """Seconds of a training step and of an evaluated image.

    tracking: the number of layers with running statistics, each evaluated once more with
    `train.bn_evaluations`.
    """

    step: float
    image: float
    tracking: int


def time_steps(config: RunConfig, source: Source, threads: int | None) -> StepTime:
    """Times a few steps and evaluations on random images of the data's size.

    threads: unless the configuration names its own; None for torch's default. Raises what training
    raises.
    """
    config = config.with_system(threads=config.system.threads or threads)
    with runtime_of(config) as runtime:
        ready = trial(config, source, runtime)
        trainer, timer = ready.trainer, timer_for(runtime.device)
        drawn = trainer.task.random_arrays(EVAL_BATCH_SIZE, np.random.default_rng(0))
        loader = build_loader(Split(drawn), config, runtime)

        def assess() -> None:
            evaluate(trainer.model, loader, trainer.task, runtime)

        step = _seconds_of_a_call(ready.take_step, timer)
        image = _seconds_of_a_call(assess, timer) / EVAL_BATCH_SIZE
        return StepTime(step=step, image=image, tracking=len(tracking_layers(trainer.model)))


def _seconds_of_a_call(work: Callable[[], object], timer: Timer) -> float:
    """The mean over as many calls as LEAST_SECONDS hold, after one that counts only if it is long.

    The first call chooses kernels and allocates memory.
    """
    first = timer(work, 1)
    if first > LEAST_SECONDS:
        return first
    calls = min(MOST_CALLS, int(LEAST_SECONDS / max(first, 1e-6)))
    return timer(work, calls) / calls
