"""The report as files and as HTML: it is always written, self-contained, well-formed, and true."""

from __future__ import annotations

import itertools
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from kit.runs import (
    COMMAND,
    REGRESSION,
    in_study,
    one_run,
    some_seconds,
    timed,
    write_runs,
)

from normbench.analysis.captions import caption
from normbench.analysis.loading import load_study, read_runs
from normbench.analysis.outputs import outputs
from normbench.analysis.report import write_report
from normbench.analysis.report.page import page
from normbench.analysis.report.page_tables import page_tables
from normbench.analysis.report.run_curves import HEIGHT, MOST_POINTS, WIDTH, path
from normbench.analysis.study import Study
from normbench.analysis.study_files import check_folder, write_study
from normbench.analysis.study_reader import check_keeps
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.rendering import LONGEST_LINE
from normbench.analysis.tables.source import source_table
from normbench.checksums import SUMS
from normbench.errors import NormbenchError
from normbench.runs.files import refused_run

NASTY = "<script>alert(1)</script>&\"'"
REFUSED = "normresnet-in-b1-s0-ffffffffffff"


@dataclass
class Element:
    """An element with its attributes and the text directly in it and in what it holds."""

    tag: str
    attributes: dict[str, str | None]
    ancestors: tuple[str, ...]
    text: str = ""
    held: list[Element] = field(default_factory=list)


class Page(HTMLParser):
    """All elements of a page; raises where tags are not closed in order."""

    VOID = ("meta", "link", "br", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open[-1].tag

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = self._element(tag, attrs)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._element(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        last = self.open.pop()
        assert last.tag == tag, f"<{last.tag}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def _element(self, tag: str, attrs: list[tuple[str, str | None]]) -> Element:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        element = Element(tag, dict(attrs), tuple(one.tag for one in self.open))
        for one in self.open:
            one.held.append(element)
        self.elements.append(element)
        return element

    def named(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]


@dataclass(frozen=True)
class Report:
    """A study and the folder with its report."""

    study: Study
    folder: Path

    @cached_property
    def text(self) -> str:
        return (self.folder / "report.html").read_text()

    @cached_property
    def page(self) -> Page:
        return Page(self.text)

    @cached_property
    def files(self) -> dict[str, bytes]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    @property
    def tables(self) -> set[str]:
        return {Path(name).stem for name in self.files if name.startswith("tables/")}


def sweep(folder: Path) -> Study:
    """bn diverged at batch size 1, for a reason to be escaped; in was refused; gn was not timed."""
    ended = {("bn", 1): ("diverged", NASTY)}
    runs = write_runs(folder, ("bn", "gn", "ln"), (1, 8, 64), (0, 1), ended=ended, shared=["ln"])
    config = {"norm": {"name": "in"}, "model": {"name": "normresnet"}, "batch_size": 1, "seed": 0}
    config["optim"] = {"lr": 0.001}
    refused = refused_run(REFUSED, config, "one value per channel & image")
    return timed(read_runs(sorted(runs.iterdir()), [refused]), some_seconds("bn", "ln"))


def rates(folder: Path) -> Study:
    return load_study([write_runs(folder, seeds=(0, 1), rates=(0.001, 0.01), held_out=True)])


def single(folder: Path) -> Study:
    return timed(load_study([write_runs(folder, ("gn",), epochs=1)]), some_seconds("gn"))


def diverged(folder: Path) -> Study:
    ended = dict.fromkeys((("bn", 64), ("gn", 64)), ("diverged", "the loss is nan"))
    return load_study([write_runs(folder, ended=ended)])


def failed(folder: Path) -> Study:
    """Runs without any rows, and without a reason."""
    ended = dict.fromkeys((("bn", 64), ("gn", 64)), ("failed", None))
    return load_study([write_runs(folder, ended=ended)])


def options(folder: Path) -> Study:
    """Settings of the study that are counts, fractions, and not there for one norm."""
    of_bn = [{"epochs": 2}, {"epochs": 10, "optim": {"weight_decay": 0.0005}}]
    of_gn = [{"norm": {"num_groups": n}, "epochs": epochs} for n, epochs in ((2, 2), (16, 10))]
    return load_study([write_runs(folder, settings={"bn": of_bn, "gn": of_gn})])


def regression(folder: Path) -> Study:
    """A second task, whose metric is smaller when better and has no unit."""
    return load_study([write_runs(folder, batch_sizes=(8, 64), seeds=(0, 1), task=REGRESSION)])


MAKERS = (sweep, rates, single, diverged, failed, options, regression)
STUDIES: dict[str, Callable[[Path], Study]] = {make.__name__: make for make in MAKERS}
Reports = Callable[[str], Report]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """The report of a study, written once."""
    made: dict[str, Report] = {}

    def report(name: str) -> Report:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            study = STUDIES[name](folder / "runs")
            assert write_report(study, folder / "report") == folder / "report" / "report.html"
            made[name] = Report(study, folder / "report")
        return made[name]

    return report


@pytest.fixture(params=STUDIES)
def written(request: pytest.FixtureRequest, reports: Reports) -> Report:
    return reports(request.param)


@pytest.fixture
def of_sweep(reports: Reports) -> Report:
    return reports("sweep")


# Files


def test_a_report_has_its_page_its_tables_in_three_forms_and_its_runs_as_csv(
    written: Report,
) -> None:
    names = {*written.files}
    of_study = {"runs.csv", "metrics.csv", "steps.csv", "env.json", "configs.json", SUMS}
    assert {"report.html", "table.md"} | of_study <= names
    assert ("bench.csv" in names) == bool(written.study.clocks)
    assert "comparison" in written.tables
    for table, end in itertools.product(written.tables, (".md", ".tex", ".csv")):
        assert f"tables/{table}{end}" in names
    assert written.files["table.md"] == written.files["tables/comparison.md"]


@pytest.mark.parametrize(
    ("study", "tables", "figures"),
    [
        (
            "sweep",
            "source comparison batch-size leaderboard pairs target",
            "norms loss epochs batch-size pareto time",
        ),
        (
            "rates",
            "source comparison leaderboard learning-rate pairs target",
            "norms loss epochs learning-rate",
        ),
        ("single", "source comparison", "loss epochs time"),
        ("diverged", "source comparison", ""),
        (
            "regression",
            "comparison batch-size leaderboard pairs target",
            "norms loss epochs batch-size",
        ),
    ],
)
def test_a_report_holds_what_its_runs_have_something_for(
    reports: Reports, study: str, tables: str, figures: str
) -> None:
    report = reports(study)
    assert report.tables == {*tables.split()}
    for output in outputs("figure"):
        for suffix in (".svg", ".png"):
            is_there = f"{output.name}{suffix}" in report.files
            assert is_there == (output.name in figures.split()), output.name
    headings = {element.attributes.get("id") for element in report.page.named("h3")}
    # The sources' table is on no page: none of these runs was made as a source made its own.
    expected = {f"table-{name}" for name in tables.split() if name != "source"}
    assert "table-source" not in headings
    assert expected | {f"figure-{name}" for name in figures.split()} <= headings


def test_what_cannot_be_made_is_named_with_the_reason(reports: Reports) -> None:
    text = reports("diverged").text
    assert "Training loss by step: no figure: none of 2 runs finished." in text
    no_pair = "no two norms have a finished run of the same seed and settings"
    assert f"Table Norm against norm: {no_pair}." in text


@pytest.mark.parametrize(
    "name",
    [
        "sweep",
        "options",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("rates", "single", "regression")),
    ],
)
def test_the_report_of_a_report_written_over_it_is_the_same(
    reports: Reports, name: str, tmp_path: Path
) -> None:
    report = reports(name)
    folder = shutil.copytree(report.folder, tmp_path / "report")
    write_report(load_study([folder]), folder)
    again = Report(report.study, folder).files
    assert again.keys() == report.files.keys()
    assert [file for file, content in report.files.items() if again[file] != content] == []


def test_a_report_leaves_no_table_or_figure_of_an_earlier_one(
    of_sweep: Report, reports: Reports, tmp_path: Path
) -> None:
    folder = shutil.copytree(of_sweep.folder, tmp_path / "out")
    (folder / "tables" / "mine.md").write_text("kept")
    write_report(reports("failed").study, folder)
    assert [*folder.glob("*.svg"), *folder.glob("*.png")] == []
    left = {path.stem for path in (folder / "tables").iterdir()}
    assert left == {"comparison", "source", "mine"}


def test_a_report_does_not_hide_runs_nor_drop_those_of_a_study(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", seeds=(0, 1))
    study = load_study([runs])
    with pytest.raises(NormbenchError, match=r"--output: '.*runs' holds run directories"):
        check_folder(runs)
    write_study(study, tmp_path / "study")
    check_folder(tmp_path / "study")
    check_keeps(tmp_path / "study", study.runs["run"])
    refusal = r"--output: '.*study' holds runs that are not in this report"
    with pytest.raises(NormbenchError, match=refusal):
        check_keeps(tmp_path / "study", study.at(norm="bn").runs["run"])
    (tmp_path / "file").touch()
    with pytest.raises(NormbenchError, match=r"--output: '.*file' is not a folder"):
        check_folder(tmp_path / "file")


@pytest.mark.slow
def test_200_runs_of_20_epochs_make_a_page_below_3_megabytes(tmp_path: Path) -> None:
    norms = ("bn", "gn", "in", "ln")
    runs = write_runs(tmp_path / "runs", norms, seeds=range(50), epochs=20, logged=200)
    study = load_study([runs])
    assert len(study.runs) == 200
    assert write_report(study, tmp_path / "report").stat().st_size < 3e6


# The page


def test_a_page_is_well_formed_and_no_id_is_there_twice(written: Report) -> None:
    ids = Counter(element.attributes.get("id") for element in written.page.elements)
    del ids[None]
    assert len(ids) > 10
    assert [name for name, count in ids.items() if count > 1] == []


def test_every_link_and_label_by_reference_has_its_target_on_the_page(written: Report) -> None:
    ids = {element.attributes.get("id") for element in written.page.elements}
    links, labels = [], set()
    for element in written.page.elements:
        link = element.attributes.get("href") or element.attributes.get("xlink:href")
        labels.add(element.attributes.get("aria-labelledby"))
        if link:
            links.append(link)
    within = [link[1:] for link in links if link.startswith("#")]
    within += re.findall(r"url\(#([^)]+)\)", written.text)
    assert len(within) >= 7
    assert [link for link in within if link not in ids] == []
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert labels - {None} <= ids


def test_nothing_comes_from_elsewhere(written: Report) -> None:
    rest = written.text
    for namespace in (
        'xmlns="http://www.w3.org/2000/svg"',
        'xmlns:xlink="http://www.w3.org/1999/xlink"',
    ):
        rest = rest.replace(namespace, "")
    assert re.findall(r"https?://\S+", rest) == []
    (icon,) = written.page.named("link")
    assert icon.attributes == {"rel": "icon", "href": "data:,"}
    for element in written.page.elements:
        assert not {"src", "srcset"} & {*element.attributes}, element.tag
    assert not re.search(r"@import|@font-face", written.text)


def test_headings_skip_no_level_and_begin_with_one_of_the_first(written: Report) -> None:
    headings = written.page.named("h1", "h2", "h3", "h4", "h5", "h6")
    levels = [int(element.tag[1]) for element in headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(b - a for a, b in itertools.pairwise(levels)) <= 1


def test_drawings_tables_and_fields_have_names(written: Report) -> None:
    found = written.page
    for svg in found.named("svg"):
        assert {"role", "aria-label"} <= {*svg.attributes}
        assert svg.attributes["aria-label"]
    selects = found.named("select")
    assert len(selects) == 3 + written.study.tries_rates
    assert {select.ancestors[-1] for select in selects} == {"label"}
    for th in found.named("th"):
        assert th.attributes["scope"] == ("col" if "thead" in th.ancestors else "row")
    assert found.named("html")[0].attributes == {"lang": "en"}


def test_rows_are_as_long_as_their_headers(written: Report) -> None:
    for table in written.page.named("table"):
        lengths = set()
        for row in (element for element in table.held if element.tag == "tr"):
            lengths.add(sum(cell.tag in ("th", "td") for cell in row.held))
        assert len(lengths) == 1


def test_every_run_is_a_row_with_its_settings_and_state(written: Report) -> None:
    study = written.study
    rows = {row.attributes["id"]: row for row in written.page.named("tr") if "id" in row.attributes}
    assert list(rows) == [f"run-{run}" for run in study.runs["run"]]
    for run in study.runs.to_dict("records"):
        row = rows[f"run-{run['run']}"]
        settings = {name: str(run[name]) for name in ("norm", "batch_size", "status")}
        assert {name: row.attributes[f"data-{name}"] for name in settings} == settings
        cells = [cell.text.strip() for cell in row.held if cell.tag == "td"]
        assert {*settings.values(), str(run["seed"])} <= {*cells}
        if run["status"] == "done":
            assert study.primary.show(run[study.test_column]) in cells


def test_numbers_are_sorted_as_they_were_measured_and_words_are_not_sorted_as_numbers(
    of_sweep: Report,
) -> None:
    """Unrounded, in the comparison, in a grid over settings, and in the table of runs."""
    cells = {}
    for cell in of_sweep.page.named("td"):
        cells.setdefault(cell.text.strip(), set()).add(cell.attributes.get("data-sort"))
    study = of_sweep.study
    data = comparison_table(study).data
    for mean, half_width, n in zip(
        data["test_accuracy"], data["half_width"], data["n"], strict=True
    ):
        if n:
            assert str(mean) in cells[study.primary.show(mean, half_width)]
    for value in study.done.runs["test_accuracy"]:
        assert str(value) in cells[study.primary.show(value)]
    assert cells["64"] == {"64", "64.0"}
    for words in ("2 diverged", "none finished", "not measured", "undecided"):
        assert cells[words] == {None}


def test_long_cells_are_marked_to_be_broken_into_lines(of_sweep: Report) -> None:
    (table,) = page_tables({"source": source_table(of_sweep.study)}, ())
    cells = [cell for row in table.rows for cell in row.values()]
    assert any("JPEG copy; also optimizer" in cell.text and cell.is_long for cell in cells)
    assert all(cell.is_long == (len(cell.text) > LONGEST_LINE) for cell in cells)


def test_another_task_is_reported_by_its_own_metric(reports: Reports) -> None:
    report = reports("regression")
    assert "accuracy" not in report.text
    assert " reached the lowest test squared error, " in report.text
    headings = [element.text for element in report.page.named("h3")]
    assert "Test squared error against batch size" in headings
    assert "Loss and squared error by epoch" in headings
    assert ">test squared error</text>" in report.text


def test_what_runs_say_is_text_and_no_markup(of_sweep: Report) -> None:
    found = of_sweep.page
    assert len(found.named("script")) == 1
    assert "alert(1)" not in found.named("script")[0].text
    row = next(row for row in found.named("tr") if row.attributes.get("data-status") == "diverged")
    assert NASTY in row.text
    assert NASTY in [cell.attributes.get("title") for cell in row.held]
    assert any(NASTY in item.text for item in found.named("li"))
    assert "one value per channel & image" in next(
        row.text for row in found.named("tr") if row.attributes.get("id") == f"run-{REFUSED}"
    )


def test_a_norm_and_a_command_are_escaped_too(reports: Reports) -> None:
    study = reports("single").study
    environments = {}
    for run, environment in study.environments.items():
        environments[run] = {**environment, "command": f"echo {NASTY}"}
    runs = study.runs.assign(norm=NASTY, device=NASTY)
    nasty = replace(study, runs=runs, environments=environments)
    found = Page(page(nasty, {"comparison": comparison_table(nasty)}, {}, [NASTY]))
    assert len(found.named("script")) == 1
    assert NASTY in found.named("h1")[0].text
    assert [pre.text for pre in found.named("pre")] == [f"echo {NASTY}"] * 2


def test_a_figure_on_the_page_is_in_the_colour_of_its_text_with_points_that_lead_to_runs(
    of_sweep: Report,
) -> None:
    found = of_sweep.page
    assert "#1b1b1f" not in "".join(str(element.attributes) for element in found.elements)
    expected = {}
    for run in of_sweep.study.done.runs.to_dict("records"):
        norm, size = run["norm"], str(run["batch_size"])
        target = (f"#run-{run['run']}", norm, size)
        expected.setdefault(f"Runs of {norm} at batch size {size}", target)
    links = {}
    for element in found.named("a"):
        link = element.attributes
        if "data-norm" in link:
            target = (link["href"], link["data-norm"], link["data-batch_size"])
            links[link["aria-label"]] = target
    assert links == expected


def test_the_caption_of_a_figure_is_text_of_the_page_and_not_of_the_drawing(
    of_sweep: Report,
) -> None:
    captions = [element.text for element in of_sweep.page.named("figcaption")]
    assert len(captions) == 6
    assert not any("torch 2.1" in caption for caption in captions[:4]), "the page says it once"
    (shared,) = [p.text for p in of_sweep.page.named("p") if p.text.startswith("All of this page")]
    assert caption(of_sweep.study) in shared
    for element in of_sweep.page.named("text"):
        assert "torch" not in element.text
    assert "torch" in (of_sweep.folder / "loss.svg").read_text()


def test_a_page_says_how_it_was_made_and_how_to_make_it_again(of_sweep: Report) -> None:
    found = of_sweep.page
    values = {element.text for element in found.named("dd")}
    assert {"a processor", "2.15.0", "0123456789abcdef", "cifar10-jpeg"} <= values
    commands = [pre.text for pre in found.named("pre") if "table" not in pre.ancestors]
    assert commands == [COMMAND]
    text = page(of_sweep.study, {}, {}, [], "normbench report a<b -o c")
    assert "normbench report a&lt;b -o c" in text


def test_a_page_says_over_how_many_comparisons_its_p_values_are_holm_s(reports: Reports) -> None:
    def explained(name: str) -> str:
        *_, last = [one.text for one in reports(name).page.named("p") if "t test" in one.text]
        return " ".join(last.split())

    # Two batch sizes of three pairs; at batch size 1 bn diverged.
    holm = "Holm over 7 comparisons: all pairs of these runs"
    assert f"with the paired t test, {holm}; “undecided”" in explained("sweep")
    assert "with the paired t test; “undecided”" in explained("single")


def test_a_heading_names_the_norms_while_it_can_hold_them() -> None:
    norms = [f"norm{index}" for index in range(9)]
    for number, said in ((8, ", ".join(norms[:8])), (9, "9 norms")):
        study = in_study(*(one_run(norm) for norm in norms[:number]))
        assert f"<h1>{said} on cifar10-jpeg</h1>" in page(study, {}, {}, [])


def test_runs_that_cannot_be_read_are_named_on_the_page_and_in_a_report_of_it(
    tmp_path: Path,
) -> None:
    runs = write_runs(tmp_path / "runs", seeds=(0, 1))
    broken = sorted(runs.iterdir())[1]
    (broken / "metrics.csv").write_text("epoch,steps\n1,2,3\n")
    study = load_study([runs])
    text = page(study, {}, {}, [])
    damage = f"{broken}: metrics.csv is damaged"
    assert damage in [item.text for item in Page(text).named("li")]
    assert f"run-{broken.name}" not in text
    write_study(study, tmp_path / "out")
    assert load_study([tmp_path / "out"]).notes == (f"left out: {damage}",)


def test_the_curve_of_a_run_spans_the_drawing_and_keeps_to_its_scale() -> None:
    pairs = path(np.linspace(0, 1, 1000), 0, 1).removeprefix("M").split(" ")
    points = [tuple(map(float, pair.split(","))) for pair in pairs]
    assert len(points) == MOST_POINTS
    assert points[0] == (0, HEIGHT)
    assert points[-1] == (WIDTH, 0)
    assert all(y == pytest.approx(HEIGHT * (1 - x / WIDTH), abs=1) for x, y in points)


def test_a_curve_leaves_out_what_is_no_number_and_a_single_value_can_be_seen() -> None:
    assert path(np.array([np.nan, 0.5, np.inf]), 0, 1).count(",") == 2
    assert path(np.array([]), 0, 1) == ""
    assert path(np.array([np.nan]), 0, 1) == ""
