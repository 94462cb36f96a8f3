"""normbench bench: the cost of a training step under each norm."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normbench.cli import complete
from normbench.cli.tables import show
from normbench.errors import NormbenchError
from normbench.text import say

if TYPE_CHECKING:
    from normbench.config.schema import RunConfig

DEFAULTS = ("norm=bn,ln,in,gn", "batch_size=64", "data=synthetic")


def bench(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value or key=a,b, as for sweep.  [default: norm=bn,ln,in,gn batch_size=64]",
            autocompletion=complete.settings,
        ),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time each norm layer alone, forward and backward.")
    ] = False,
    eager: Annotated[
        bool, typer.Option("--eager", help="With --layers: without compiled layers.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(help="Turns that everyone takes, in all processes together.", min=1)
    ] = 25,
    processes: Annotated[
        int,
        typer.Option(help="Fresh processes that share the rounds; an interval takes 5.", min=1),
    ] = 5,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder for CSV, table and figure.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace rounds that lie in that folder.")
    ] = False,
) -> None:
    """Time training steps in turns, in several processes: time relative to bn with its interval.

    Processes take their shares of the rounds one after another, and fewer than 5 give no interval.
    Memory stands beside the times. The images are random. A report takes the times of runs with
    the same settings from the bench.csv in the report's folder. Ctrl-C shows the finished rounds
    of steps, and writes the rounds where the folder holds none.

    \b
    normbench bench
    normbench bench norm=bn,gn batch_size=1,64 runtime.channels_last=false,true -o results/speed
    normbench bench --layers
    """
    from normbench.analysis.bench import prepare_folder
    from normbench.timing.repeats import shares

    if eager and not layers:
        raise NormbenchError("--eager needs --layers: whole steps are compiled by runtime.compile")
    of_process = shares(rounds, processes)
    if output is not None:
        prepare_folder(output, layers=layers, overwrite=overwrite)
    configs = _planned(overrides or [])
    rows: list[dict[str, Any]] = []
    try:
        # Row by row: an interruption keeps the rows timed so far.
        for row in _rows(configs, of_process, layers=layers, eager=eager):
            rows.append(row)
    except BaseException:
        # Figures of layers are sums over the network's sites: with a site missing, wrong sums.
        if not layers:
            _conclude(rows, output, layers=False, may_replace=False)
        raise
    _conclude(rows, output, layers=layers, may_replace=True)


def _planned(overrides: list[str]) -> list[RunConfig]:
    """The configurations to time; refused ones are named on standard error."""
    from normbench.sweeps.plan import make_plan
    from normbench.sweeps.sweep import Sweep

    given = {override.partition("=")[0] for override in overrides}
    defaults = [setting for setting in DEFAULTS if setting.partition("=")[0] not in given]
    plan = make_plan(Sweep("bench", ()).with_overrides([*defaults, *overrides]))
    configs = []
    for run in plan.runs:
        if run.state == "refused":
            say(f"refused: {run.reason}", to=sys.stderr)
        elif run.config.runtime.processes > 1:
            raise NormbenchError(
                f"runtime.processes={run.config.runtime.processes}: bench times steps of one "
                "process; allowed: 1"
            )
        else:
            configs.append(run.config)
    return configs


def _rows(
    configs: list[RunConfig], rounds: Sequence[int], *, layers: bool, eager: bool
) -> Iterator[dict[str, Any]]:
    from tqdm import tqdm

    from normbench.timing.norm_layers import MODES, bench_layers, check_layers, sites_of
    from normbench.timing.repeats import Bench, repeated
    from normbench.timing.steps import bench_steps

    # A round of all norms at a batch size is a turn of the bar; of layers, at each site.
    by_batch_size = {config.batch_size: config for config in configs}
    turns = sum(rounds) * len(by_batch_size)
    if layers:
        check_layers(configs)  # before a process starts
        turns = sum(rounds) * sum(len(sites_of(config)) for config in by_batch_size.values())
    work: Bench = bench_steps
    if layers:
        work = partial(bench_layers, modes=("eager",) if eager else MODES)
    with tqdm(desc="rounds", total=turns, disable=None, leave=False) as bar:
        yield from repeated(work, configs, rounds, bar.update)


def _conclude(
    rows: list[dict[str, Any]], output: Path | None, *, layers: bool, may_replace: bool
) -> None:
    """Shows and writes the finished rounds; `may_replace` an earlier bench's."""
    from normbench.analysis.bench import of_layers, of_steps

    if not rows:
        return
    report = of_layers(rows) if layers else of_steps(rows)
    if output is not None and (may_replace or not (output / report.file).exists()):
        report.write(output)
    show(report.table)
