"""The time of kinds of runs of which none has finished: by a few steps, measured once and kept.

Steps are timed in a process of its own, one kind after the other, for MOST_SECONDS in all, and kept
in the cache by `cost_id` and machine. A kind that was not timed has the time of the kind that
differs least, image by image, which is rough.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock
from pydantic import TypeAdapter

from normbench import environment
from normbench.atomic import disk_errors, read_file, write_json
from normbench.config.schema import RunConfig
from normbench.data import Source
from normbench.errors import RunFailure
from normbench.timing.few_steps import StepTime, time_steps
from normbench.timing.steps import cost_id_of
from normbench.training.appearance import CHANGES
from normbench.training.engine import count_steps
from normbench.training.resolve import Resolver, count_train, data_home
from normbench.training.signals import withheld_ctrl_c, without_the_program

MOST_SECONDS = 20.0  # of all measurements for a plan, the start of their process included
MOST_KINDS = 60  # that are timed for a plan
FILE = "step_times.json"
# Settings on which the time of a step depends less than on model and batch size.
MINOR = ("norm.", "runtime.channels_last", "optim.")


@dataclass(frozen=True)
class Kind:
    """Runs of equal cost: their cost_id, one of them, and its data."""

    cost_id: str
    config: RunConfig
    source: Source

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the time of a step depends on, by dotted key, and the images' shape."""
        return self.config.cost_settings() | {"image": self.source.image_shape}


class StepTimes:
    """The seconds of runs by the steps of their kind: kept, measured now, or of the nearest kind.

    threads: those that a run of one process will have; None for torch's default.
    """

    def __init__(self, resolver: Resolver, threads: int | None) -> None:
        self.resolver = resolver
        self.threads = threads
        self._kinds: dict[str, Kind] = {}
        self._of_runs: dict[int, tuple[RunConfig, Kind]] = {}
        self._times: dict[str, StepTime] = {}
        self._nearest_kinds: dict[tuple[str, int], Kind] = {}
        self._kept: dict[Path, dict[str, StepTime]] = {}

    def seconds(self, config: RunConfig) -> float | None:
        """The seconds of a whole run; None where no kind at all was timed."""
        if config.runtime.processes > 1:
            return None  # one process says little of several that share the cores
        kind = self._kind(config)
        known = self._times.get(kind.cost_id) or self._nearest(kind)
        return None if known is None else whole_run(config, kind.source, known)

    def is_timed(self, config: RunConfig) -> bool:
        """Whether the time is that of the run's own kind."""
        return self._kind(config).cost_id in self._times

    def missing(self, configs: Sequence[RunConfig]) -> list[Kind]:
        """The kinds of these runs that have no time and can be timed, in the order to time them."""
        kinds = {kind.cost_id: kind for kind in map(self._kind, configs)}
        found = []
        for kind in kinds.values():
            if kind.cost_id not in self._times and _can_be_timed(kind.config):
                found.append(kind)
        return in_spread_order(found, MOST_KINDS)

    def measure(self, kinds: Sequence[Kind]) -> None:
        """Times as many of the kinds as MOST_SECONDS allow, and keeps the times."""
        by_id = {kind.cost_id: kind for kind in kinds}
        for cost_id, found in _measured(kinds, self.threads):
            self._times[cost_id] = found
            self._keep(by_id[cost_id])

    def _kind(self, config: RunConfig) -> Kind:
        # A display asks for all runs twice a second. A run that stays here keeps its id.
        known = self._of_runs.get(id(config))
        if known is None:
            known = self._of_runs[id(config)] = (config, self._found(config))
        return known[1]

    def _found(self, config: RunConfig) -> Kind:
        source = self.resolver.source(config)
        cost_id = cost_id_of(config, source)
        if cost_id not in self._kinds:
            self._kinds[cost_id] = Kind(cost_id, config, source)
            kept = self._read(_file_of(config)).get(self._key(self._kinds[cost_id]))
            if kept is not None:
                self._times[cost_id] = kept
        # Equal cost does not mean equally many images.
        return replace(self._kinds[cost_id], source=source)

    def _nearest(self, kind: Kind) -> StepTime | None:
        """The time of the kind that differs least among those timed, image by image."""
        if not self._times:
            return None
        # Looked for once a kind, and anew when there is a further time.
        key = kind.cost_id, len(self._times)
        if key not in self._nearest_kinds:
            timed = [self._kinds[cost_id] for cost_id in self._times]
            self._nearest_kinds[key] = min(timed, key=lambda other: distance(kind, other))
        nearest = self._nearest_kinds[key]
        found = self._times[nearest.cost_id]
        ratio = kind.config.images_per_step / nearest.config.images_per_step
        return found.model_copy(update={"step": found.step * ratio})

    def _key(self, kind: Kind) -> str:
        where = _machine(kind.config.runtime.device)
        threads = kind.config.system.threads or self.threads or environment.num_cores()
        return f"{kind.cost_id} on {where}, threads: {threads}"

    def _read(self, path: Path) -> dict[str, StepTime]:
        if path not in self._kept:
            self._kept[path] = _read_times(path)
        return self._kept[path]

    def _keep(self, kind: Kind) -> None:
        """Adds the kind's time to the file; where the disk refuses, the next plan measures anew."""
        path = _file_of(kind.config)
        with suppress(RunFailure), disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                times = _read_times(path) | {self._key(kind): self._times[kind.cost_id]}
                write_json(path, {key: found.model_dump() for key, found in times.items()})


def distance(first: Kind, second: Kind) -> int:
    """How much two kinds differ: by the settings of a step's cost, of which MINOR count less."""
    one, other = first.settings, second.settings
    differing = [key for key in {*one, *other} if one.get(key) != other.get(key)]
    return sum(1 if key.startswith(MINOR) else 100 for key in differing)


def in_spread_order(kinds: Sequence[Kind], number: int) -> list[Kind]:
    """So many kinds: the first, and then always the one that differs most from those before it."""
    left, order = [*kinds], list[Kind]()
    apart = [0] * len(left)
    while left and len(order) < number:
        place = apart.index(max(apart))
        order.append(left.pop(place))
        apart.pop(place)
        for index, kind in enumerate(left):
            to_last = distance(kind, order[-1])
            apart[index] = min(apart[index], to_last) if len(order) > 1 else to_last
    return order


def whole_run(config: RunConfig, source: Source, known: StepTime) -> float:
    """The seconds of a run by those of a step and of an evaluated image."""
    num_train, num_test = count_train(config, source), config.data.limit_test or source.num_test
    held_out = (config.data.limit_train or source.num_train) - num_train
    steps = count_steps(num_train, config.images_per_step, config.epochs, config.train.max_steps)
    of_epoch = num_test + held_out
    if config.train.bn_evaluations and known.tracking:
        of_epoch += 2 * num_test + known.tracking * num_train
    # max_steps may end the training in an early epoch.
    per_epoch = count_steps(num_train, config.images_per_step, 1, None)
    evaluated = of_epoch * math.ceil(steps / per_epoch)
    if config.train.appearance:
        evaluated += len(CHANGES) * num_test
    return steps * known.step + evaluated * known.image


def _can_be_timed(config: RunConfig) -> bool:
    # Compilation alone takes longer than all measurements may.
    return config.runtime.processes == 1 and not config.runtime.compile


def _file_of(config: RunConfig) -> Path:
    return data_home(config).cache_dir / FILE


@lru_cache
def _machine(device: str) -> str:
    name = environment.hardware(device)["device_name"]
    return f"{name}, torch {environment.versions()['torch']}"


def _read_times(path: Path) -> dict[str, StepTime]:
    # A damaged file is written anew.
    with suppress(OSError, ValueError, RunFailure):
        return TypeAdapter(dict[str, StepTime]).validate_json(read_file(path))
    return {}


def _measured(kinds: Sequence[Kind], threads: int | None) -> Iterator[tuple[str, StepTime]]:
    """The times of the kinds from a new process, which ends after MOST_SECONDS."""
    if not kinds:
        return
    end = time.monotonic() + MOST_SECONDS
    context = multiprocessing.get_context("spawn")
    pipe, far_end = context.Pipe(duplex=False)
    # Functions within others, such as a source's `decode`, go to no other process.
    sent = [replace(kind, source=replace(kind.source, decode=_no_images)) for kind in kinds]
    child = context.Process(target=_serve, args=(far_end, sent, threads), daemon=True)
    with withheld_ctrl_c(), without_the_program():
        child.start()
    far_end.close()
    try:
        with suppress(EOFError):
            while pipe.poll(max(0.0, end - time.monotonic())):
                yield pipe.recv()
    finally:
        child.kill()
        child.join()
        pipe.close()


def _serve(pipe: Connection, kinds: Sequence[Kind], threads: int | None) -> None:
    """Sends the time of each kind; one that fails has none, and its run will say why."""
    for kind in kinds:
        with suppress(Exception):
            pipe.send((kind.cost_id, time_steps(kind.config, kind.source, threads)))


def _no_images() -> NoReturn:
    raise AssertionError("steps are timed on random images")
