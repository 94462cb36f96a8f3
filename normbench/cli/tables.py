"""normbench table, compare, plot, report: what the runs say, with intervals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normbench.cli import complete
from normbench.errors import NormbenchError
from normbench.text import say

if TYPE_CHECKING:
    from normbench.analysis.study import Study
    from normbench.analysis.tables.table import Table

Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Run directories, folders of them, or a study's runs.csv.  [default: results/runs]"
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(help="A condition, as norm=bn,gn or 'batch_size<=4'; with several, all hold."),
]
Bench = Annotated[
    Path | None,
    typer.Option(help="Where their times are: a bench.csv.  [default: the one beside the runs]"),
]
Norm = Annotated[str, typer.Argument(autocompletion=complete.choices("norm"))]
DEFAULT_RUNS = (Path("results/runs"),)


def table(
    runs: Runs = None,
    where: Where = None,
    by: Annotated[
        str | None, typer.Option(help="Settings, as norm,batch_size: rows, then columns.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="With --by: a column of metrics.csv.  [default: the task's metric on the test set]"
        ),
    ] = None,
    source: Annotated[
        bool,
        typer.Option("--source", help="Accuracies claimed, published, and measured here."),
    ] = False,
    kind: Annotated[
        str | None,
        typer.Option(
            help="A table of the report: comparison, leaderboard, pairs, target, batch-size, "
            "learning-rate, evaluations or source.  [default: comparison]",
            autocompletion=complete.words(complete.TABLES),
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="With --kind target: the metric to be reached, 60 for 60 %.  [default: the worst "
            "final mean of a norm at each batch size]"
        ),
    ] = None,
    bench: Bench = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Markdown; so it is in a pipe.")
    ] = False,
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX with booktabs.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with every figure unrounded.")] = False,
) -> None:
    """Show what each norm reached: mean, interval over seeds, what the test set leaves open, time.

    \b
    normbench table results/first-sweep
    normbench table results/first-sweep --by norm,batch_size
    normbench table results/first-sweep --source
    normbench table results/first-sweep --kind leaderboard
    normbench table --where batch_size=64 --latex
    """
    from normbench.analysis.outputs import output_named
    from normbench.analysis.tables.crosstab import cross_table

    forms = {"markdown": markdown, "latex": latex, "csv": csv}
    asked = [form for form, is_wanted in forms.items() if is_wanted]
    if len(asked) > 1:
        raise NormbenchError(f"choose one of --{' and --'.join(asked)}")
    given = {"--by": by is not None, "--source": source, "--kind": kind is not None}
    chosen = [option for option, is_given in given.items() if is_given]
    if len(chosen) > 1:
        raise NormbenchError(f"choose one of {' and '.join(chosen)}")
    if by is None and metric is not None:
        raise NormbenchError("--metric needs --by: say by which settings, as --by norm,batch_size")
    if target is not None and kind != "target":
        raise NormbenchError("--target needs --kind target")
    output = output_named("table", "source" if source else kind or "comparison")
    options = {} if target is None else {"target": target}
    settings = [] if by is None else [name.strip() for name in by.split(",")]
    study = _load(runs, where, bench, apart=settings)
    made = cross_table(study, settings, metric) if settings else output.make(study, **options)
    show(made, *asked)


def show(table: Table, form: str | None = None) -> None:
    """Prints the table in this form; without a form as Markdown, or a grid on a terminal."""
    from normbench.analysis.tables.rendering import FORMS, to_terminal

    if form is None and sys.stdout.isatty():
        to_terminal(table)
    else:
        say(FORMS[form or "markdown"](table).rstrip("\n"), lines=True)


def compare(
    first: Norm,
    second: Norm,
    runs: Runs = None,
    where: Where = None,
) -> None:
    """Compare two norms over equal seeds: the paired difference, its interval, and the verdict.

    P-values are Holm's over the comparisons that the study has decided beforehand, or else over
    all pairs of norms in RUNS under --where, as in the report.

    \b
    normbench compare gn bn --where batch_size=64
    """
    from normbench.analysis.family import compare as compare_norms

    for paired in compare_norms(_load(runs, where), first, second):
        say(paired.sentence())


def plot(
    figure: Annotated[
        str,
        typer.Argument(
            help="norms, loss, pictures, epochs, batch-size, learning-rate, pareto or time",
            autocompletion=complete.words(complete.FIGURES),
        ),
    ],
    runs: Runs = None,
    where: Where = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="FILE.svg, .png or .pdf.  [default: FIGURE.svg]"),
    ] = None,
    size: Annotated[
        str,
        typer.Option(help="column, page or slide", autocompletion=complete.words(complete.SIZES)),
    ] = "page",
    smooth: Annotated[
        int | None,
        typer.Option(
            help="loss: logged steps in a running mean, odd; 1 for none.  [default: up to 9]"
        ),
    ] = None,
    bench: Bench = None,
) -> None:
    """Draw one figure of the runs.

    \b
    normbench plot loss results/first-light --smooth 5
    normbench plot batch-size results/first-sweep --size slide -o batch-size.png
    """
    from normbench.analysis.figures.saving import save
    from normbench.analysis.figures.style import size_called
    from normbench.analysis.outputs import output_named

    draw = output_named("figure", figure).make
    if smooth is not None and figure != "loss":
        raise NormbenchError(f"--smooth is for the figure loss, not for {figure}")
    chosen, path = size_called(size), output or Path(f"{figure}.svg")
    options = {"smooth": smooth} if figure == "loss" else {}
    save(draw(_load(runs, where, bench), chosen, **options), path, chosen)
    say(path)


def report(
    runs: Runs = None,
    where: Where = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for it.")] = Path(
        "results/report"
    ),
    bench: Bench = None,
) -> None:
    """Write everything the runs say to a folder: an HTML page, tables, figures, the runs as CSV.

    \b
    normbench report -o results/table
    normbench report results/first-sweep --where 'norm=bn,gn' -o /tmp/two-norms
    """
    write(runs, output, where=where, bench=bench)


def write(
    runs: list[Path] | None,
    output: Path,
    *,
    where: list[str] | None = None,
    bench: Path | None = None,
    in_order: bool = False,
) -> None:
    """Writes the report of the runs to a folder; `in_order` of norm, batch size, rate and seed."""
    from normbench.analysis.study_files import check_folder, ordered
    from normbench.analysis.study_reader import check_keeps
    from normbench.audit.whole_report import write_whole_report
    from normbench.environment import command

    check_folder(output)
    study = _load(runs, where, bench)
    check_keeps(output, study.runs["run"])
    if in_order:
        study = ordered(study)
    say(write_whole_report(study, output, command()))


def _load(
    paths: list[Path] | None,
    where: list[str] | None,
    bench: Path | None = None,
    apart: Sequence[str] = (),
) -> Study:
    """The runs, comparable but for the settings that are shown apart.

    Notes on runs that were left out go to standard error.
    """
    from normbench.analysis.loading import check_comparable, load_study

    places = [path.expanduser() for path in paths or DEFAULT_RUNS]
    study = load_study(places, where or (), bench)
    for note in study.notes:
        say(note, to=sys.stderr)
    check_comparable(study, apart)
    return study
