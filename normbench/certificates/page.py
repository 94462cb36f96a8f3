"""The catalogue page: of every norm the cube, formula, certificate, results and cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from normbench.analysis.figures.cubes import Cube, caption, cube_figure
from normbench.analysis.figures.saving import save
from normbench.analysis.figures.style import SIZES
from normbench.analysis.loading import load_study
from normbench.analysis.settings import describe
from normbench.analysis.tables.comparison import comparison
from normbench.analysis.tables.step_costs import costs, costs_table
from normbench.analysis.tables.table import show_ratios, show_result
from normbench.atomic import disk_errors, write_text
from normbench.certificates.alike import alike
from normbench.certificates.catalogue import Facts, listed
from normbench.certificates.certificate import certify
from normbench.certificates.cube import cube_of
from normbench.certificates.sentences import sentences
from normbench.norms import norms
from normbench.text import markdown_cell, visible
from normbench.timing.rounds import read_bench

NAME = "catalogue"
STUDIES = ("batch-size", "table", "zoo")
BENCH = Path("speed") / "bench.csv"
SIGN_OR_CODE = re.compile(r"(`[^`]*`)|[\\*_<>\[\]|]")
HEAD = """\
# The catalogue of norms

```bash
normbench norms --page docs                                     # writes this page and its figures
normbench norms gn --figure gn.svg                              # one figure; of your own norm, too
```

{norms}

{cubes} Certificates are computed as in [results/norms.md](../results/norms.md), with all options at
their defaults. "bn is in_affine" says that a convolution followed by either gives the same output
from the same parameters. Results are on the test set, at the final epoch, ± the 95 % Student-t
interval over n runs; they are comparable within a study. {costs}
"""
COSTS = "Costs are of a training step, from [results/speed](../results/speed/README.md). {caption}"


def write_page(docs: Path, results: Path) -> Path:
    """Writes catalogue.md and the cubes in catalogue/ to a folder; returns the page's path.

    results: the folder of the studies and the bench that the page shows; it may be empty.
    """
    specs = {entry.name: norms.build(entry.name) for entry in norms}
    same, reached, timed = alike(specs), _reached(results), _timed(results)
    cubes, sections = [], []
    for name, spec in specs.items():
        facts, _ = listed(name, {})
        cubes.append(cube_of(name, spec))
        told = sentences(certify(spec), same[name], name)
        sections.append(_section(facts, cubes[-1], told, reached.get(name), timed.get(name)))
    with disk_errors(docs):
        (docs / NAME).mkdir(parents=True, exist_ok=True)
    for cube in cubes:
        size = SIZES["column"]
        save(cube_figure(cube, size, has_caption=False), docs / NAME / f"{cube.title}.svg", size)
    head = HEAD.format(
        norms=" · ".join(f"[{name}](#{name})" for name in specs),
        cubes=caption(cubes),
        costs=_basis_of_costs(results),
    )
    page = docs / f"{NAME}.md"
    write_text(page, "\n".join([head, *sections]))
    return page


def _section(
    facts: Facts,
    cube: Cube,
    told: Sequence[str],
    reached: list[list[str]] | None,
    timed: list[list[str]] | None,
) -> str:
    name = facts["name"]
    parts = [
        f"## {name}",
        f"**{_text(facts['title'])}.** {_text(facts['summary'])}",
        f"![{visible(cube.in_words())}]({NAME}/{name}.svg)",
        _text(facts["formula"]),
        "\n".join(f"- {_text(sentence)}" for sentence in told),
        _table(["study", "settings", "reached"], reached) or "No result in these studies.",
        _table(["batch size", "time of a step", "relative to bn"], timed) or "Not timed.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _reached(results: Path) -> dict[str, list[list[str]]]:
    """By norm, a row for each study and choice of settings."""
    rows: dict[str, list[list[str]]] = {}
    for name in STUDIES:
        folder = results / name
        if not (folder / "runs.csv").is_file():
            continue
        study = load_study([folder])
        shown = [*dict.fromkeys(["batch_size", "lr", *study.varying(study.settings)])]
        for row in comparison(study).to_dict("records"):
            settings = describe({setting: row[setting] for setting in shown})
            value = show_result(study.primary, row, study.test_column, with_n=True)
            link = f"[{name}](../results/{name}/table.md)"
            rows.setdefault(row["norm"], []).append([link, settings, value])
    return rows


def _timed(results: Path) -> dict[str, list[list[str]]]:
    """By norm, a row for each batch size of the bench."""
    rows: dict[str, list[list[str]]] = {}
    if (results / BENCH).is_file():
        found = costs(read_bench(results / BENCH))
        ratios = show_ratios(found)
        for row, ratio in zip(found.to_dict("records"), ratios, strict=True):
            cells = [str(row["batch_size"]), f"{1000 * row['seconds']:.1f} ms", ratio]
            rows.setdefault(row["norm"], []).append(cells)
    return rows


def _basis_of_costs(results: Path) -> str:
    if not (results / BENCH).is_file():
        return ""
    return COSTS.format(caption=costs_table(read_bench(results / BENCH)).caption)


def _table(headings: list[str], rows: list[list[str]] | None) -> str:
    if not rows:
        return ""
    cells = [[markdown_cell(cell) for cell in row] for row in rows]
    return tabulate(cells, headings, tablefmt="github", disable_numparse=True)


def _text(text: str) -> str:
    """Text whose signs are not Markdown's, but for `code`."""
    return SIGN_OR_CODE.sub(lambda found: found[1] or f"\\{found[0]}", visible(text))
