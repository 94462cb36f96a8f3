"""normbench bench: what a training step costs under each norm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normbench.cli.options import Debug
from normbench.cli.tables import show

if TYPE_CHECKING:
    from normbench.config.schema import RunConfig

DEFAULTS = {"norm": "norm=bn,ln,in,gn", "batch_size": "batch_size=64", "data": "data=synthetic"}


def bench(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value or key=a,b, as for sweep.  [default: norm=bn,ln,in,gn batch_size=64]"
        ),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time each norm layer alone, forward and backward.")
    ] = False,
    rounds: Annotated[int, typer.Option(help="Turns that everyone takes.", min=1)] = 25,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder for CSV, table and figure.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace rounds that lie in that folder.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Time training steps in turns, in one process: time relative to bn with its interval, and memory.

    The images are random. A report of runs with the same settings takes its times from the bench.csv in its folder.
    Interrupted, it shows the rounds of steps that are done, and keeps them where no others are.

    \b
    normbench bench
    normbench bench norm=bn,gn batch_size=1,64 runtime.channels_last=false,true -o results/speed
    normbench bench --layers
    """
    from normbench.analysis.bench import prepare_folder
    from normbench.sweeps.plan import make_plan
    from normbench.sweeps.sweep import Study

    if output is not None:
        prepare_folder(output, layers=layers, overwrite=overwrite)
    given = overrides or []
    chosen = [
        value
        for key, value in DEFAULTS.items()
        if not any(one.startswith(f"{key}=") for one in given)
    ]
    plan = make_plan(Study("bench", ()).with_overrides([*chosen, *given]))
    for run in plan.runs:
        if run.state == "refused":
            print(f"refused: {run.reason}", file=sys.stderr)
    configs = [run.config for run in plan.runs if run.state != "refused"]
    rows: list[dict[str, Any]] = []
    try:
        rows.extend(_rows(configs, rounds, layers=layers))
    except BaseException:
        if not layers:  # whose figures are sums over the network's sites, of which some are missing
            _conclude(rows, output, layers=False, may_replace=False)
        raise
    _conclude(rows, output, layers=layers, may_replace=True)


def _conclude(
    rows: list[dict[str, Any]], output: Path | None, *, layers: bool, may_replace: bool
) -> None:
    """Shows and writes the rounds that are done; rounds of an earlier bench are replaced by complete ones only."""
    from normbench.analysis.bench import of_layers, of_steps

    if not rows:
        return
    report = of_layers(rows) if layers else of_steps(rows)
    if output is not None and (may_replace or not (output / report.file).exists()):
        report.write(output)
    show(report.table)


def _rows(configs: list[RunConfig], rounds: int, *, layers: bool) -> Iterator[dict[str, Any]]:
    """The rows of the bench, with a bar on a terminal meanwhile."""
    from tqdm import tqdm

    from normbench.timing.layers import bench_layers, sites_of
    from normbench.timing.steps import bench_steps

    batch_sizes = {config.batch_size: config for config in configs}
    turns = rounds * sum(len(sites_of(config)) if layers else 1 for config in batch_sizes.values())
    with tqdm(desc="rounds", total=turns, disable=None, leave=False) as bar:
        yield from (bench_layers if layers else bench_steps)(configs, rounds, bar.update)
