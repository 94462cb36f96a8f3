"""The files of `normbench bench`: the rounds as CSV, a table, a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis.figures.costs import costs_figure, layers_figure
from normbench.analysis.figures.saving import save
from normbench.analysis.study_files import check_folder
from normbench.analysis.tables.layer_costs import layers_table
from normbench.analysis.tables.rendering import to_markdown
from normbench.analysis.tables.step_costs import costs_table
from normbench.analysis.tables.table import Table
from normbench.atomic import disk_errors, write_text
from normbench.errors import NormbenchError
from normbench.timing.rounds import FILE, as_rounds, write_rounds

LAYERS_FILE = "layers.csv"


@dataclass(frozen=True)
class BenchReport:
    """The rounds of a bench, their file name, table and figure."""

    file: str
    rounds: pd.DataFrame
    table: Table
    figure: Figure

    def write(self, folder: Path) -> None:
        """Writes rounds, table and figure to a folder, as bench.csv, bench.md, .svg and .png."""
        path = folder / self.file
        write_rounds(self.rounds, path)
        write_text(path.with_suffix(".md"), to_markdown(self.table))
        for suffix in (".svg", ".png"):
            save(self.figure, path.with_suffix(suffix))


def prepare_folder(folder: Path, *, layers: bool, overwrite: bool) -> None:
    """Makes the folder of a bench before the first round, lest rounds be measured in vain.

    Raises NormbenchError where the folder holds rounds and `overwrite` is not set, RunFailure
    where no file can be written.
    """
    check_folder(folder)
    file = folder / (LAYERS_FILE if layers else FILE)
    if file.exists() and not overwrite:
        raise NormbenchError(f"--output: '{file}' holds rounds already; --overwrite replaces them")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()


def of_steps(rows: Sequence[Mapping[str, Any]]) -> BenchReport:
    """The report of the rows of `bench_steps`."""
    rounds = as_rounds(rows)
    return BenchReport(FILE, rounds, costs_table(rounds), costs_figure(rounds))


def of_layers(rows: Sequence[Mapping[str, Any]]) -> BenchReport:
    """The report of the rows of `bench_layers`."""
    rounds = pd.DataFrame(rows)
    return BenchReport(LAYERS_FILE, rounds, layers_table(rounds), layers_figure(rounds))
