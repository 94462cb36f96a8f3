"""What `auto` stands for in layout and compilation: what made steps quicker here, for this norm, model and batch size.

It is measured once on a machine and then known from the cache (`speed/` in it; without that folder all is measured
anew), so that the same command means the same run again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from normbench import environment
from normbench.atomic import disk_errors, write_json
from normbench.config import RunConfig, cost_settings, flatten
from normbench.data import Source
from normbench.train.build import runtime_of
from normbench.train.race import race, timer_for
from normbench.train.trial import trial

ROUNDS = 7
LEAST_SECONDS = 0.05  # of a turn
WORTH_A_TRIAL = 300.0  # seconds of steps: in a shorter run compiling is not tried, as it takes a good part of a minute


@dataclass(frozen=True)
class Duel:
    """Two configurations timed in turns: seconds of a step of each, by rounds; how long the second compiled; when."""

    first: list[float]
    second: list[float]
    seconds_compiling: float
    measured_at: str

    @property
    def is_won_by_second(self) -> bool:
        """Whether the second was quicker in all rounds but one at most: by chance in one case of sixteen."""
        return sum(b < a for a, b in zip(self.first, self.second, strict=True)) >= len(self.first) - 1

    def saved_by_second(self, num_steps: int) -> float:
        """The seconds that so many steps take less in the second, its compilation included."""
        return num_steps * (median(self.first) - median(self.second)) - self.seconds_compiling


def choose(config: RunConfig, source: Source, num_steps: int, cache_dir: Path) -> RunConfig:
    """The configuration without auto in its runtime, for a run of so many steps.

    Layout first; then compilation, which is chosen if it saves more over the run than it takes. What was measured is
    said on standard error.
    """
    is_compiled = config.runtime.compile is True
    pair = [_with(config, channels_last=layout, compile=is_compiled) for layout in (False, True)]
    layouts = _duel(pair[0], pair[1], source, cache_dir)
    if config.runtime.channels_last == "auto":
        _say(config, "channels_last", layouts, chosen=layouts.is_won_by_second)
        config = _with(config, channels_last=layouts.is_won_by_second)
    if config.runtime.compile == "auto":
        eager_seconds = num_steps * median(layouts.second if config.runtime.channels_last else layouts.first)
        compiling = eager_seconds >= WORTH_A_TRIAL and _is_compiling_worth_it(config, source, num_steps, cache_dir)
        config = _with(config, compile=compiling)
    return config


def _is_compiling_worth_it(config: RunConfig, source: Source, num_steps: int, cache_dir: Path) -> bool:
    duel = _duel(_with(config, compile=False), _with(config, compile=True), source, cache_dir)
    is_worth_it = duel.is_won_by_second and duel.saved_by_second(num_steps) > 0
    _say(config, f"compiled (in {duel.seconds_compiling:.0f} s, for {num_steps} steps)", duel, chosen=is_worth_it)
    return is_worth_it


def _duel(first: RunConfig, second: RunConfig, source: Source, cache_dir: Path) -> Duel:
    """From the cache, or timed now and put there."""
    file = cache_dir / "speed" / f"{_fingerprint(first, second, source)}.json"
    with suppress(OSError, ValueError, TypeError):  # no such file, or a damaged one: it is timed again
        return Duel(**json.loads(file.read_text()))
    with ExitStack() as stack:
        trials = [trial(one, source, stack.enter_context(runtime_of(one))) for one in (first, second)]
        works = {str(number): one.take_step for number, one in enumerate(trials)}
        timer = timer_for(trials[0].trainer.runtime.device)
        rounds = [*race(works, timer, rounds=ROUNDS, least_seconds=LEAST_SECONDS)]
    first_seconds, second_seconds = ([one[name] for one in rounds] for name in works)
    now = datetime.now(UTC).isoformat(timespec="minutes")
    duel = Duel(first_seconds, second_seconds, trials[1].seconds_compiling, now)
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, asdict(duel))
    return duel


def _fingerprint(first: RunConfig, second: RunConfig, source: Source) -> str:
    """Of all that the outcome depends on: settings, images, threads, machine, versions."""
    settings = [cost_settings(flatten(one.identity())) for one in (first, second)]
    machine = environment.hardware(first.runtime.device) | {"threads_set": first.system.threads}
    content = [settings, source.image_shape, machine, environment.versions()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _with(config: RunConfig, **runtime: bool) -> RunConfig:
    return config.model_copy(update={"runtime": config.runtime.model_copy(update=runtime)})


def _say(config: RunConfig, what: str, duel: Duel, *, chosen: bool) -> None:
    first, second = (f"{1000 * median(seconds):.1f}" for seconds in (duel.first, duel.second))
    print(
        f"{config.norm.label} at batch {config.batch_size}: {first} ms a step, {what} {second} ms: "
        f"{'chosen' if chosen else 'not chosen, as it was not quicker in all rounds but one, or not by enough'} "
        f"(measured {duel.measured_at})",
        file=sys.stderr,
    )
