"""What a plan holds, for a dry run: axes, fixed settings, data, and the cells with their times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from normbench.config.schema import RunConfig
from normbench.runs.where import text_of
from normbench.sweeps.estimate import Estimator, duration
from normbench.sweeps.plan import WORDS, Plan, PlannedRun, word
from normbench.sweeps.sweep import LR, Axis, Sweep
from normbench.text import counted
from normbench.training.resolve import Resolver, count_train

MOST_CELLS = 20
MOST_VALUES = 12  # of an axis
# Settings that the beginning of a run's id tells, and the one over which a cell goes.
IN_ID = ("norm", "model", "batch_size", "runtime.processes", "seed")


def preview(
    sweep: Sweep,
    plan: Plan,
    open_runs: Sequence[RunConfig],
    estimator: Estimator,
    resolver: Resolver,
) -> Iterator[str]:
    """Yields the lines on what the plan holds; the times are of the runs in `open_runs`."""
    yield from _settings(sweep)
    for line in dict.fromkeys(_data(run.config, resolver) for run in plan.runs):
        yield f"  data  {line}"
    yield from _cells(plan, open_runs, estimator)


def _settings(sweep: Sweep) -> Iterator[str]:
    varied = [axis for axis in sweep.axes if len(axis.points) > 1]
    for axis in varied:
        yield f"  axis  {', '.join(axis.keys)}: {_values(axis)}"
    if sweep.design.tuned_by is not None:
        yield f"  axis  {LR}: by norm and batch size, as {sweep.design.tuned_by} has chosen"
    fixed = dict(sweep.fixed)
    for axis in sweep.axes:
        if axis not in varied:
            fixed |= zip(axis.keys, axis.points[0], strict=True)
    told = [f"{key}={text_of(value)}" for key, value in fixed.items()]
    rest = "all else as in configs/train.yaml"
    yield f"  fixed {', '.join(told)}; {rest}" if told else f"  fixed {rest}"


def _values(axis: Axis) -> str:
    told = [" ".join(map(text_of, point)) for point in axis.points]
    if len(told) > MOST_VALUES:
        told[MOST_VALUES:] = [f"and {len(told) - MOST_VALUES} more"]
    return ", ".join(told)


def _data(config: RunConfig, resolver: Resolver) -> str:
    """The images of a run: `cifar10-jpeg: 4,500 of 50,000 training images, 10,000 test images`."""
    source, data = resolver.source(config), config.data
    num_train = count_train(config, source)
    held_out = (data.limit_train or source.num_train) - num_train
    train = f"{num_train:,}"
    if num_train != source.num_train:
        train += f" of {source.num_train:,}"
    rest = f", {held_out:,} held out" if held_out else ""
    test = data.limit_test or source.num_test
    return f"{source.name}: {train} training images{rest}, {test:,} test images"


def _cells(plan: Plan, open_runs: Sequence[RunConfig], estimator: Estimator) -> Iterator[str]:
    cells: dict[str, list[PlannedRun]] = {}
    keys = _keys_of_cells(plan)
    for run in plan.runs:
        cells.setdefault(_cell(run, keys), []).append(run)
    opened = {config.run_id for config in open_runs}
    width = max(map(len, list(cells)[:MOST_CELLS]))
    for name, runs in list(cells.items())[:MOST_CELLS]:
        states = Counter(map(word, runs))
        told = ", ".join(f"{states[state]} {state}" for state in WORDS if states[state])
        first = next((run.config for run in runs if run.config.run_id in opened), None)
        yield f"  cell  {name:{width}}  {told}{_time_each(first, estimator)}"
    if len(cells) > MOST_CELLS:
        yield f"  and {counted(len(cells) - MOST_CELLS, 'cell')} more"


def _time_each(config: RunConfig | None, estimator: Estimator) -> str:
    seconds = None if config is None else estimator.seconds(config)
    if config is None or seconds is None:
        return ""
    how = "roughly" if estimator.is_rough(config) else "about"
    return f", {how} {duration(seconds)} each"


def _keys_of_cells(plan: Plan) -> list[str]:
    """The settings that vary, without those in IN_ID."""
    keys = dict.fromkeys(key for run in plan.runs for key in run.settings)
    varying = []
    for key in keys:
        values = {text_of(run.settings.get(key)) for run in plan.runs}
        if len(values) > 1 and key not in IN_ID:
            varying.append(key)
    return varying


def _cell(run: PlannedRun, keys: Sequence[str]) -> str:
    settings = [f"{key}={text_of(run.settings[key])}" for key in keys if key in run.settings]
    return " ".join([run.config.run_id.rpartition("-s")[0], *settings])
