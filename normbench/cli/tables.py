"""normbench table and normbench compare: what the runs say, with intervals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from normbench.cli.options import Debug
from normbench.errors import NormbenchError

Runs = Annotated[
    list[Path] | None,
    typer.Argument(help="Run directories, folders of them, or a study's runs.csv.  [default: results/runs]"),
]
Where = Annotated[str | None, typer.Option(help="Conditions, as 'norm=bn,gn and batch_size<=4'.")]
DEFAULT_RUNS = (Path("results/runs"),)


def table(
    runs: Runs = None,
    where: Where = None,
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX with booktabs.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with every figure unrounded.")] = False,
    debug: Debug = False,
) -> None:
    """Show what each norm reached: mean, interval over seeds, what the test set leaves open, time.

    \b
    normbench table results/first-sweep
    normbench table --where 'batch_size=64' --latex
    """
    from normbench.analysis.tables import to_csv, to_latex, to_markdown

    if latex and csv:
        raise NormbenchError("choose one of --latex and --csv")
    form = to_latex if latex else to_csv if csv else to_markdown
    print(form(_load(runs, where)), end="")


def compare(
    first: str,
    second: str,
    runs: Runs = None,
    where: Where = None,
    debug: Debug = False,
) -> None:
    """Compare two norms over equal seeds: the paired difference with its interval, and what follows from it.

    \b
    normbench compare gn bn --where batch_size=64
    """
    from normbench.analysis.pairs import compare as compare_norms

    for paired in compare_norms(_load(runs, where), first, second):
        print(paired.sentence())


def _load(paths: list[Path] | None, where: str | None) -> Any:
    """The comparable runs; notes on those left out go to standard error."""
    from normbench.analysis.loading import check_comparable, load_frames

    frames, notes = load_frames([path.expanduser() for path in paths or DEFAULT_RUNS], where)
    for note in notes:
        print(note, file=sys.stderr)
    check_comparable(frames.runs)
    return frames.runs
