"""What `auto` stands for in layout, oneDNN and compilation: what makes steps quicker here, for this norm and batch.

It is measured once on a machine and then known from the cache (`speed/` in it; without that folder all is measured
anew), so that the same command means the same run again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter

from normbench import environment
from normbench.atomic import disk_errors, write_json
from normbench.config.schema import RunConfig, cost_settings, flatten
from normbench.data import Source
from normbench.errors import RunFailure
from normbench.timing.race import Timer, Work, race, timer_for
from normbench.timing.trial import trial
from normbench.train.build import runtime_of

ROUNDS = 7
LEAST_SECONDS = 0.05  # of a turn
HOPELESS = (
    2.0  # times the quickest's seconds, in the best of three single steps: such a one is not raced
)
WORTH_A_TRIAL = 300.0  # seconds of steps: in a shorter run compiling is not tried, as it takes a good part of a minute
SHAPES = 3  # that a run compiles and a trial does one of: the full batch, the last short one, those of evaluations
PLAIN = {
    "channels_last": False,
    "onednn": True,
    "compile": False,
}  # what is taken unless another way is quicker


@dataclass(frozen=True)
class Timing:
    """Configurations timed in turns: seconds of a step of each, by rounds; how long each compiled; when it was.

    Of those too slow to be raced, but never of the first, there is one step.
    """

    seconds: list[
        Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)]
    ]
    seconds_compiling: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    measured_at: str

    @property
    def steps(self) -> list[float]:
        """Seconds of a step of each: medians."""
        return [median(rounds) for rounds in self.seconds]

    @property
    def winner(self) -> int:
        """The quickest, if it beat the first in all rounds but one at most; or 0.

        By chance that comes in one case of sixteen where two are raced, and in one of eight where four are.
        """
        raced = [
            place
            for place, rounds in enumerate(self.seconds)
            if len(rounds) == len(self.seconds[0])
        ]
        quickest = min(raced, key=self.steps.__getitem__)
        won = sum(a < b for a, b in zip(self.seconds[quickest], self.seconds[0], strict=True))
        return quickest if won >= len(self.seconds[0]) - 1 else 0

    def saved(self, num_steps: int) -> float:
        """The seconds that so many steps take less in the second than in the first, compilation of a run included."""
        return num_steps * (self.steps[0] - self.steps[1]) - SHAPES * self.seconds_compiling[1]


def choose(config: RunConfig, source: Source, num_steps: int, cache_dir: Path) -> RunConfig:
    """The configuration without auto in its runtime, for a run of so many steps.

    Layout and oneDNN first, all ways in one race; then compilation, which is chosen if it saves more over the run than
    it takes. What was measured is said on standard error.
    """
    asked = [
        name for name in ("channels_last", "onednn") if getattr(config.runtime, name) == "auto"
    ]
    ways = [
        dict(zip(asked, values, strict=True))
        for values in itertools.product(*((PLAIN[n], not PLAIN[n]) for n in asked))
    ]
    variants = [_with(plain(config), **way) for way in ways]
    timing = _timed(variants, source, cache_dir)
    chosen = timing.winner
    if asked:
        _say(variants, timing, chosen)
    if config.runtime.compile != "auto":
        return variants[chosen]
    seconds = num_steps * timing.steps[chosen]
    if seconds < WORTH_A_TRIAL:
        print(
            f"compilation is not tried: the run's steps take {seconds:.0f} s without it",
            file=sys.stderr,
        )
        return variants[chosen]
    return _compiled_or_not(variants[chosen], source, num_steps, cache_dir)


def _compiled_or_not(
    config: RunConfig, source: Source, num_steps: int, cache_dir: Path
) -> RunConfig:
    pair = [config, _with(config, compile=True)]
    timing = _timed(pair, source, cache_dir)
    chosen = int(timing.winner == 1 and timing.saved(num_steps) > 0)
    _say(
        pair,
        timing,
        chosen,
        f"; compiled in {timing.seconds_compiling[1]:.0f} s, for {num_steps} steps",
    )
    return pair[chosen]


def plain(config: RunConfig) -> RunConfig:
    """With what is taken for auto where nothing is measured."""
    return _with(
        config,
        **{name: value for name, value in PLAIN.items() if getattr(config.runtime, name) == "auto"},
    )


def _timed(configs: Sequence[RunConfig], source: Source, cache_dir: Path) -> Timing:
    """From the cache, or timed now and put there."""
    file = cache_dir / "speed" / f"{_fingerprint(configs, source)}.json"
    if (known := _known(file, len(configs))) is not None:
        return known
    first = configs[0]
    print(
        f"measuring what is quicker for {first.norm.label} at batch {first.batch_size}, once",
        file=sys.stderr,
    )
    with ExitStack() as stack:
        trials = [trial(one, source, stack.enter_context(runtime_of(one))) for one in configs]
        seconds = _raced(
            [one.take_step for one in trials], timer_for(trials[0].trainer.runtime.device)
        )
    now = datetime.now(UTC).isoformat(timespec="minutes")
    timing = Timing(seconds, [one.seconds_compiling for one in trials], now)
    try:
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(timing))
    except RunFailure as failure:  # the run itself needs nothing of it
        print(f"{failure}: it will be measured again", file=sys.stderr)
    return timing


def _known(file: Path, number: int) -> Timing | None:
    """What was timed of so many configurations, if it was; a damaged file is named, and timed again."""
    try:
        timing = TypeAdapter(Timing).validate_json(file.read_bytes())
        if not number == len(timing.seconds) == len(timing.seconds_compiling):
            raise ValueError("of other configurations")
    except OSError:
        return None
    except ValueError:
        print(f"'{file}' is damaged", file=sys.stderr)
        return None
    return timing


def _raced(works: Sequence[Work], timer: Timer) -> list[list[float]]:
    """The seconds of each, by rounds; of a hopeless one those of its quickest single call."""
    once = [min(timer(work, 1) for _ in range(3)) for work in works]
    contenders = {
        str(i): work for i, work in enumerate(works) if i == 0 or once[i] < HOPELESS * min(once)
    }
    rounds = [*race(contenders, timer, rounds=ROUNDS, least_seconds=LEAST_SECONDS)]
    return [
        [one[str(i)] for one in rounds] if str(i) in contenders else [once[i]]
        for i in range(len(works))
    ]


def _fingerprint(configs: Sequence[RunConfig], source: Source) -> str:
    """Of all that the outcome depends on: settings, images, threads, machine, versions."""
    settings = [cost_settings(flatten(one.identity())) for one in configs]
    machine = environment.hardware(configs[0].runtime.device) | {
        "threads_set": configs[0].system.threads
    }
    content = [settings, source.image_shape, machine, environment.versions()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _with(config: RunConfig, **runtime: bool) -> RunConfig:
    return config.model_copy(update={"runtime": config.runtime.model_copy(update=runtime)})


def _say(variants: Sequence[RunConfig], timing: Timing, chosen: int, more: str = "") -> None:
    """What each took, in the spelling of the configuration, and which it is to be."""
    names = [_difference(one, variants[0]) for one in variants]
    times = [
        f"{name} {1000 * step:.1f} ms{'' if len(rounds) > 1 else ' (not raced)'}"
        for name, step, rounds in zip(names, timing.steps, timing.seconds, strict=True)
    ]
    config, threads = variants[0], variants[0].system.threads or torch.get_num_threads()
    unsure = (
        ""
        if chosen or min(timing.steps) == timing.steps[0]
        else ", nothing else was quicker in all rounds but one"
    )
    print(
        f"{config.norm.label} at batch {config.batch_size}, threads: {threads}, a step: {', '.join(times)}{more}; "
        f"chosen: {names[chosen]}{unsure} (measured {timing.measured_at})",
        file=sys.stderr,
    )


def _difference(config: RunConfig, first: RunConfig) -> str:
    ours, theirs = config.runtime, first.runtime
    differing = [name for name in PLAIN if getattr(ours, name) != getattr(theirs, name)]
    return (
        " ".join(f"{name}={str(getattr(ours, name)).lower()}" for name in differing) or "as it is"
    )
