"""The report as files and as HTML: it is always written, self-contained, well-formed, and says what the runs say."""

from __future__ import annotations

import itertools
import re
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_rounds import some_seconds, timed
from made_up_runs import COMMAND, write_runs
from normbench.analysis.choice import rate_varies
from normbench.analysis.frames import Frames, read_frames
from table_runs import in_frames, one_run

from normbench.analysis.figures import FIGURES
from normbench.analysis.loading import load_frames
from normbench.analysis.report import write_report
from normbench.analysis.report.page import page
from normbench.analysis.report.run_curves import HEIGHT, MOST_POINTS, WIDTH, path
from normbench.analysis.report.summary import MOST, summary
from normbench.analysis.study_files import check_folder, check_keeps, write_study
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.pairs import every_pair
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
    """What was written of a study."""

    frames: Frames
    folder: Path

    @property
    def text(self) -> str:
        return (self.folder / "report.html").read_text()

    @cached_property
    def page(self) -> Page:
        return Page(self.text)

    @property
    def files(self) -> dict[str, bytes]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}


def sweep(folder: Path) -> Frames:
    """bn diverged at batch size 1, with a reason to be escaped; a run of in was refused; gn was not timed."""
    ended = {("bn", 1): ("diverged", NASTY)}
    runs = write_runs(folder, ("bn", "gn", "ln"), (1, 8, 64), (0, 1), ended=ended, shared=["ln"])
    config = {"norm": {"name": "in"}, "model": {"name": "normresnet"}, "batch_size": 1, "seed": 0}
    refused = refused_run(
        REFUSED, config | {"optim": {"lr": 0.001}}, "one value per channel & image"
    )
    return timed(read_frames(sorted(runs.iterdir()), [refused]), some_seconds("bn", "ln"))


def rates(folder: Path) -> Frames:
    return load_frames([write_runs(folder, seeds=(0, 1), rates=(0.001, 0.01), held_out=True)])


def single(folder: Path) -> Frames:
    return timed(load_frames([write_runs(folder, ("gn",), epochs=1)]), some_seconds("gn"))


def diverged(folder: Path) -> Frames:
    return load_frames(
        [
            write_runs(
                folder, ended={(norm, 64): ("diverged", "the loss is nan") for norm in ("bn", "gn")}
            )
        ]
    )


def failed(folder: Path) -> Frames:
    return load_frames(
        [write_runs(folder, ended={(norm, 64): ("failed", None) for norm in ("bn", "gn")})]
    )


def options(folder: Path) -> Frames:
    """Settings of the study that are counts, fractions, and not there for one norm."""
    settings = {
        "gn": [
            {"norm": {"num_groups": groups}, "epochs": epochs}
            for groups, epochs in ((2, 2), (16, 10))
        ],
        "bn": [{"epochs": 2}, {"epochs": 10, "optim": {"weight_decay": 0.0005}}],
    }
    return load_frames([write_runs(folder, settings=settings)])


STUDIES: dict[str, Callable[[Path], Frames]] = {
    "sweep": sweep,
    "rates": rates,
    "single": single,
    "diverged": diverged,
    "failed": failed,
    "options": options,
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Report]:
    """The report of a study, written once."""
    made: dict[str, Report] = {}

    def report(name: str) -> Report:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            frames = STUDIES[name](folder / "runs")
            assert write_report(frames, folder / "report") == folder / "report" / "report.html"
            made[name] = Report(frames, folder / "report")
        return made[name]

    return report


@pytest.fixture(params=STUDIES)
def written(request: pytest.FixtureRequest, reports: Callable[[str], Report]) -> Report:
    return reports(request.param)


@pytest.fixture
def of_sweep(reports: Callable[[str], Report]) -> Report:
    return reports("sweep")


@pytest.fixture
def of_rates(reports: Callable[[str], Report]) -> Report:
    return reports("rates")


def test_a_report_has_its_page_its_tables_in_three_forms_and_its_runs_as_csv(
    written: Report,
) -> None:
    names = {*written.files}
    assert {
        "report.html",
        "table.md",
        "runs.csv",
        "metrics.csv",
        "steps.csv",
        "env.json",
        "configs.json",
    } <= names
    assert ("bench.csv" in names) == bool(written.frames.clocks)
    tables = {Path(name).stem for name in names if name.startswith("tables/")}
    assert "comparison" in tables
    assert {
        f"tables/{table}{suffix}" for table in tables for suffix in (".md", ".tex", ".csv")
    } <= names
    assert written.files["table.md"] == written.files["tables/comparison.md"]


@pytest.mark.parametrize(
    ("study", "tables", "figures"),
    [
        (
            "sweep",
            {"source", "comparison", "batch-size", "pairs"},
            {"loss", "accuracy", "batch-size", "time"},
        ),
        (
            "rates",
            {"source", "comparison", "learning-rate", "pairs"},
            {"loss", "accuracy", "learning-rate"},
        ),
        ("single", {"source", "comparison"}, {"loss", "accuracy", "time"}),
        ("diverged", {"source", "comparison"}, set()),
    ],
)
def test_a_report_holds_what_its_runs_have_something_for(
    reports: Callable[[str], Report], study: str, tables: set[str], figures: set[str]
) -> None:
    files = reports(study).files
    assert {Path(name).stem for name in files if name.startswith("tables/")} == tables
    assert {
        name for name in FIGURES if f"{name}.svg" in files and f"{name}.png" in files
    } == figures
    headings = {element.attributes.get("id") for element in reports(study).page.named("h3")}
    assert {f"table-{name}" for name in tables} | {f"figure-{name}" for name in figures} <= headings


def test_what_cannot_be_made_is_named_with_the_reason(reports: Callable[[str], Report]) -> None:
    text = reports("diverged").text
    assert "Training loss by step: no figure: none of 2 runs finished." in text
    assert "Table pairs: no two norms have a finished run of the same seed and settings." in text


def test_a_page_is_well_formed_and_no_id_is_there_twice(written: Report) -> None:
    ids = Counter(
        element.attributes["id"] for element in written.page.elements if "id" in element.attributes
    )
    assert len(ids) > 10
    assert [name for name, count in ids.items() if count > 1] == []


def test_every_link_within_the_page_has_its_target(written: Report) -> None:
    found = written.page
    ids = {element.attributes.get("id") for element in found.elements}
    links = [
        (element.attributes.get("href") or element.attributes.get("xlink:href"))
        for element in found.elements
    ]
    within = [link[1:] for link in links if link and link.startswith("#")]
    within += re.findall(r"url\(#([^)]+)\)", written.text)
    assert len(within) >= 7
    assert [link for link in within if link not in ids] == []
    assert [link for link in links if link and not link.startswith(("#", "data:"))] == []


def test_labels_by_reference_refer_to_something(written: Report) -> None:
    found = written.page
    ids = {element.attributes.get("id") for element in found.elements}
    assert {element.attributes.get("aria-labelledby") for element in found.elements} - {None} <= ids


def test_nothing_comes_from_elsewhere(written: Report) -> None:
    found = written.page
    namespaces = (
        'xmlns="http://www.w3.org/2000/svg"',
        'xmlns:xlink="http://www.w3.org/1999/xlink"',
    )
    rest = written.text
    for namespace in namespaces:
        rest = rest.replace(namespace, "")
    assert re.findall(r"https?://\S+", rest) == []
    assert [element.attributes for element in found.named("link")] == [
        {"rel": "icon", "href": "data:,"}
    ]
    assert [
        element.tag for element in found.elements if {"src", "srcset"} & {*element.attributes}
    ] == []
    assert not re.search(r"@import|@font-face", written.text)


def test_headings_skip_no_level_and_begin_with_one_of_the_first(written: Report) -> None:
    levels = [
        int(element.tag[1]) for element in written.page.named("h1", "h2", "h3", "h4", "h5", "h6")
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(b - a for a, b in itertools.pairwise(levels)) <= 1


def test_drawings_tables_and_fields_have_names(written: Report) -> None:
    found = written.page
    roles = [element for element in found.named("svg") if "role" in element.attributes]
    assert [svg.attributes for svg in roles if not svg.attributes.get("aria-label")] == []
    assert len(roles) == len(found.named("svg"))
    assert [select.ancestors[-1] for select in found.named("select")] == ["label"] * (
        3 + rate_varies(written.frames.runs)
    )
    assert {th.attributes.get("scope") for th in found.named("th")} == {"col", "row"}
    assert all(
        th.attributes["scope"] == ("col" if "thead" in th.ancestors else "row")
        for th in found.named("th")
    )
    assert found.named("html")[0].attributes == {"lang": "en"}


def test_rows_are_as_long_as_their_headers(written: Report) -> None:
    for table in written.page.named("table"):
        lengths = {
            sum(cell.tag in ("th", "td") for cell in row.held)
            for row in table.held
            if row.tag == "tr"
        }
        assert len(lengths) == 1


def test_every_run_is_a_row_with_its_settings_and_state(written: Report) -> None:
    rows = {row.attributes["id"]: row for row in written.page.named("tr") if "id" in row.attributes}
    assert list(rows) == [f"run-{run}" for run in written.frames.runs["run"]]
    for run in written.frames.runs.to_dict("records"):
        row = rows[f"run-{run['run']}"]
        kept = {key: row.attributes[f"data-{key}"] for key in ("norm", "batch_size", "status")}
        assert kept == {
            "norm": run["norm"],
            "batch_size": str(run["batch_size"]),
            "status": run["status"],
        }
        cells = [cell.text.strip() for cell in row.held if cell.tag == "td"]
        assert {run["norm"], str(run["batch_size"]), str(run["seed"]), run["status"]} <= {*cells}
        if run["status"] == "done":
            assert f"{100 * run['test_accuracy']:.1f} %" in cells


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


def test_a_norm_and_a_command_are_escaped_too(tmp_path: Path) -> None:
    frames = single(tmp_path)
    environments = {
        run: {**one, "command": f"echo {NASTY}"} for run, one in frames.environments.items()
    }
    nasty = replace(
        frames, runs=frames.runs.assign(norm=NASTY, device=NASTY), environments=environments
    )
    found = Page(page(nasty, {"comparison": comparison_table(nasty)}, {}, [NASTY]))
    assert len(found.named("script")) == 1
    assert NASTY in found.named("h1")[0].text
    assert [pre.text for pre in found.named("pre")] == [f"echo {NASTY}"] * 2


def test_a_figure_on_the_page_is_in_the_colour_of_its_text_with_points_that_lead_to_runs(
    of_sweep: Report,
) -> None:
    found = of_sweep.page
    assert "#1b1b1f" not in "".join(str(element.attributes) for element in found.elements)
    first = of_sweep.frames.runs.query("status == 'done'").drop_duplicates(["norm", "batch_size"])
    expected = {
        f"Runs of {norm} at batch size {size}": (f"#run-{run}", norm, str(size))
        for norm, size, run in zip(first["norm"], first["batch_size"], first["run"], strict=True)
    }
    links = [
        element.attributes for element in found.named("a") if "data-norm" in element.attributes
    ]
    assert {
        str(link["aria-label"]): (link["href"], link["data-norm"], link["data-batch_size"])
        for link in links
    } == expected


def test_a_page_says_how_it_was_made_and_how_to_make_it_again(of_sweep: Report) -> None:
    found = of_sweep.page
    values = {element.text for element in found.named("dd")}
    assert {"a processor", "2.15.0", "0123456789abcdef", "cifar10-jpeg"} <= values
    assert [pre.text for pre in found.named("pre") if "table" not in pre.ancestors] == [COMMAND]


def test_a_heading_names_the_norms_while_it_can_hold_them() -> None:
    frames = {
        number: in_frames(*(one_run(f"norm{index}") for index in range(number)))
        for number in (8, 9)
    }
    assert f"<h1>{', '.join(f'norm{index}' for index in range(8))} on cifar10-jpeg</h1>" in page(
        frames[8], {}, {}, []
    )
    assert "<h1>9 norms on cifar10-jpeg</h1>" in page(frames[9], {}, {}, [])


def test_runs_that_cannot_be_read_are_named_on_the_page(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", seeds=(0, 1))
    broken = sorted(runs.iterdir())[1]
    (broken / "metrics.csv").write_text("epoch,steps\n1,2,3\n")
    text = page(load_frames([runs]), {}, {}, [])
    notes = [item.text for item in Page(text).named("li")]
    assert f"{broken}: metrics.csv is damaged" in notes
    assert f"run-{broken.name}" not in text


def test_200_runs_of_20_epochs_make_a_page_below_3_megabytes(tmp_path: Path) -> None:
    frames = load_frames(
        [
            write_runs(
                tmp_path / "runs", ("bn", "gn", "in", "ln"), seeds=range(50), epochs=20, logged=200
            )
        ]
    )
    size = write_report(frames, tmp_path / "report").stat().st_size
    assert len(frames.runs) == 200
    assert size < 3e6


def test_the_report_of_a_report_written_over_it_is_the_same(
    written: Report, tmp_path: Path
) -> None:
    folder = shutil.copytree(written.folder, tmp_path / "report")
    write_report(load_frames([folder]), folder)
    again = Report(written.frames, folder).files
    assert again.keys() == written.files.keys()
    assert [name for name, content in written.files.items() if again[name] != content] == []


def test_a_reason_that_looks_like_no_value_is_kept(tmp_path: Path) -> None:
    frames = load_frames([write_runs(tmp_path / "runs", ended={("bn", 64): ("diverged", "nan")})])
    write_study(frames, tmp_path / "study")
    assert summary(load_frames([tmp_path / "study"])) == summary(frames)


def test_the_first_sentence_counts_runs_states_and_seeds(of_sweep: Report) -> None:
    counts = Counter(of_sweep.frames.runs["status"])
    assert counts == {"done": 16, "diverged": 2, "refused": 1}
    assert summary(of_sweep.frames)[0] == (
        "19 runs of normresnet on cifar10-jpeg: bn, gn, ln, in at batch size 1, 8, 64 with 2 seeds; "
        "16 done, 2 diverged, 1 refused."
    )


def accuracies(frames: Frames, batch_size: int) -> dict[str, dict[int, float]]:
    """By norm and seed, of finished runs."""
    found: dict[str, dict[int, float]] = {}
    for run in frames.runs.to_dict("records"):
        if run["status"] == "done" and run["batch_size"] == batch_size:
            found.setdefault(run["norm"], {})[run["seed"]] = run["test_accuracy"]
    return found


LEADER = re.compile(
    r"At batch size (\d+), (\w+) reached the highest test accuracy, ([\d.]+) ± [\d.]+ % \((\d) seeds\), "
    r"([+-][\d.]+) ± [\d.]+ points before (\w+), paired over (\d) seeds, p = \S+: "
    r"(undecided|more than chance explains)\."
)


def leaders(frames: Frames) -> Iterator[tuple[str, ...]]:
    for sentence in summary(frames):
        if found := LEADER.fullmatch(sentence):
            yield found.groups()


def test_the_leader_at_each_batch_size_is_who_has_the_highest_mean(of_sweep: Report) -> None:
    found = list(leaders(of_sweep.frames))
    assert [one[0] for one in found] == ["1", "8", "64"]
    for batch_size, first, reached, seeds, ahead, second, pairs, _ in found:
        of_norm = accuracies(of_sweep.frames, int(batch_size))
        means = {norm: statistics.fmean(values.values()) for norm, values in of_norm.items()}
        assert [first, second] == sorted(means, key=lambda norm: -means[norm])[:2]
        assert reached == f"{100 * means[first]:.1f}"
        assert ahead == f"{100 * (means[first] - means[second]):+.1f}"
        assert seeds == pairs == "2"


def test_the_summary_and_the_table_of_pairs_decide_alike(tmp_path: Path) -> None:
    frames = load_frames([write_runs(tmp_path, ("bn", "gn", "in", "ln"), (8, 64), seeds=(0, 1, 2))])
    level = {"bn": 0.72, "gn": 0.70, "in": 0.40, "ln": 0.20}
    noise = {
        0: 0.000,
        1: 0.006,
        2: 0.016,
    }  # bn against gn: p = 0.03 at one batch size, 0.06 by Holm's rule over both
    values = [
        level[norm] + (noise[seed] if norm == "bn" else 0.0)
        for norm, seed in zip(frames.runs["norm"], frames.runs["seed"], strict=True)
    ]
    runs = frames.runs.assign(test_accuracy=values)
    verdicts = {
        (one.settings["batch_size"], one.first, one.second): one.verdict for one in every_pair(runs)
    }
    found = list(leaders(replace(frames, runs=runs)))
    assert [(one[0], one[1], one[5]) for one in found] == [("8", "bn", "gn"), ("64", "bn", "gn")]
    for batch_size, first, _, _, _, second, _, said in found:
        assert (said == "undecided") == (verdicts[int(batch_size), first, second] == "undecided")


def test_the_change_from_the_largest_to_the_smallest_batch_size_is_taken_seed_by_seed(
    of_sweep: Report,
) -> None:
    (sentence,) = [
        one
        for one in summary(of_sweep.frames)
        if one.startswith("From batch size 64 to 1, test accuracy")
    ]
    small, large = (accuracies(of_sweep.frames, batch_size) for batch_size in (1, 64))
    told = dict(re.findall(r"(\w+) by ([+-][\d.]+) ± [\d.]+ points \(2 seeds\)", sentence))
    assert told == {
        norm: f"{100 * statistics.fmean(small[norm][seed] - large[norm][seed] for seed in (0, 1)):+.1f}"
        for norm in ("gn", "ln")
    }


def test_the_order_of_the_source_stands_beside_the_measured_one_and_what_of_it_is_decided(
    tmp_path: Path,
) -> None:
    frames = load_frames([write_runs(tmp_path, ("bn", "gn", "in", "ln"), seeds=range(4))])
    order = ["ln", "bn", "gn", "in"]
    spread = {0: 0.0, 1: 0.001, 2: 0.0, 3: -0.001}
    for gap, decided in ((0.1, "ln > bn, bn > gn, gn > in"), (0.0001, "none")):
        accuracies = [
            0.9 - gap * order.index(norm) + spread[(seed + order.index(norm)) % 4]
            for norm, seed in zip(frames.runs["norm"], frames.runs["seed"], strict=True)
        ]
        assert (
            "The source's order at batch 64 is bn > gn > ln > in. The means here stand as ln > bn > gn > in; of these "
            f"steps are decided: {decided}."
        ) in summary(replace(frames, runs=frames.runs.assign(test_accuracy=accuracies)))
    mixed = pd.concat([frames.runs, frames.runs.assign(run="again")])
    assert not [
        one for one in summary(replace(frames, runs=mixed)) if one.startswith("The source's order")
    ]


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    frames = load_frames([write_runs(tmp_path)])
    means = {norm: values[0] for norm, values in accuracies(frames, 64).items()}
    first, second = sorted(means, key=lambda norm: -means[norm])
    assert (
        f"At the settings of these runs, {first} reached the highest test accuracy, {100 * means[first]:.1f} % "
        f"(one seed), {100 * (means[first] - means[second]):+.1f} points before {second}; one seed decides nothing."
    ) in summary(frames)


def test_times_are_of_rounds_and_said_where_both_were_timed(of_sweep: Report) -> None:
    """At every batch size: what bn's runs at 1 ended in is nothing to the time of their steps."""
    steps = {norm: np.array(found) for norm, found in some_seconds("bn", "ln").items()}
    ratios = np.sort(steps["ln"] / steps["bn"])
    said = summary(of_sweep.frames)
    for batch_size in (1, 8, 64):
        assert (
            f"An epoch at batch size {batch_size} takes, relative to bn: "
            f"ln {ratios[4]:.2f}x ({ratios[1]:.2f} to {ratios[7]:.2f})."
        ) in said
    assert sum(one.startswith("An epoch at batch size") for one in said) == 3


def test_without_rounds_no_time_is_told_whatever_the_runs_own_seconds(of_sweep: Report) -> None:
    untimed = replace(of_sweep.frames, bench=pd.DataFrame(), clocks={})
    for concurrent_runs in (1, 2):
        said = summary(replace(untimed, runs=untimed.runs.assign(concurrent_runs=concurrent_runs)))
        assert "Times are not measured here: normbench bench does that." in said
        assert not [one for one in said if one.startswith("An epoch")]


def test_a_norm_of_several_options_has_no_one_time(tmp_path: Path) -> None:
    options = {"gn": [{"norm": {"num_groups": groups}} for groups in (2, 16)]}
    runs = write_runs(tmp_path / "runs", ("bn", "gn", "ln"), settings=options)
    said = summary(timed(load_frames([runs]), {"bn": [0.1], "gn": [0.2], "ln": [0.3]}))
    assert [one for one in said if one.startswith("An epoch")] == [
        "An epoch at batch size 64 takes, relative to bn: ln 3.00x."
    ]


def test_the_summary_names_each_kind_of_run_that_did_not_finish(of_sweep: Report) -> None:
    ended = [one for one in summary(of_sweep.frames) if one.startswith("Not finished: ")]
    assert ended == [
        f"Not finished: bn, batch size 1: 2 diverged: {NASTY}.",
        "Not finished: in, batch size 1: 1 refused: one value per channel & image.",
    ]


def test_a_long_list_of_ends_is_cut_with_a_count_of_the_rest(tmp_path: Path) -> None:
    sizes = range(1, MOST + 4)
    ended = {("bn", size): ("failed", f"reason {size}") for size in sizes}
    said = summary(load_frames([write_runs(tmp_path, ("bn",), sizes, ended=ended)]))
    assert sum(one.startswith("Not finished: ") for one in said) == MOST
    assert said[-1] == "And 3 more kinds of runs that did not finish."


def test_the_leader_is_who_leads_at_the_rates_chosen_on_images_held_out(of_rates: Report) -> None:
    runs = of_rates.frames.runs.to_dict("records")
    reached = {}
    for norm in ("bn", "gn"):
        of_rate = {
            lr: [run for run in runs if (run["norm"], run["lr"]) == (norm, lr)]
            for lr in {run["lr"] for run in runs}
        }
        best = max(
            of_rate.values(),
            key=lambda found: statistics.fmean(run["val_accuracy"] for run in found),
        )
        reached[norm] = statistics.fmean(run["test_accuracy"] for run in best)
    first = max(reached, key=lambda norm: reached[norm])
    (sentence,) = [
        one for one in summary(of_rates.frames) if "reached the highest test accuracy" in one
    ]
    assert f"{first} reached the highest test accuracy, {100 * reached[first]:.1f} ±" in sentence


def test_the_curve_of_a_run_spans_the_drawing_and_keeps_to_its_scale() -> None:
    values = np.linspace(0, 1, 1000)
    points = [
        tuple(map(float, pair.split(",")))
        for pair in path(values, 0, 1).removeprefix("M").split(" ")
    ]
    assert len(points) == MOST_POINTS
    assert points[0] == (0, HEIGHT)
    assert points[-1] == (WIDTH, 0)
    assert all(y == pytest.approx(HEIGHT * (1 - x / WIDTH), abs=1) for x, y in points)


def test_a_curve_leaves_out_what_is_no_number_and_a_single_value_can_be_seen() -> None:
    assert path(np.array([np.nan, 0.5, np.inf]), 0, 1).count(",") == 2
    assert path(np.array([]), 0, 1) == ""
    assert path(np.array([np.nan]), 0, 1) == ""


# Where a report may be written


def test_a_report_does_not_hide_runs_nor_drop_those_of_a_study(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", seeds=(0, 1))
    frames = load_frames([runs])
    with pytest.raises(NormbenchError, match=r"--output: '.*runs' holds run directories"):
        check_folder(runs)
    write_report(frames, tmp_path / "study")
    check_folder(tmp_path / "study")
    check_keeps(tmp_path / "study", frames.runs["run"])
    with pytest.raises(
        NormbenchError, match=r"--output: '.*study' holds runs that are not in this report"
    ):
        check_keeps(tmp_path / "study", load_frames([runs], "norm=bn").runs["run"])
    (tmp_path / "file").touch()
    with pytest.raises(NormbenchError, match=r"--output: '.*file' is not a folder"):
        check_folder(tmp_path / "file")


def test_a_report_leaves_no_table_or_figure_of_an_earlier_one(tmp_path: Path) -> None:
    write_report(
        load_frames([write_runs(tmp_path / "many", batch_sizes=(8, 64))]), tmp_path / "out"
    )
    (tmp_path / "out" / "tables" / "mine.md").write_text("kept")
    write_report(load_frames([write_runs(tmp_path / "one", norms=("bn",))]), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("batch-size.*")} == set()
    assert {path.stem for path in (tmp_path / "out" / "tables").iterdir()} == {
        "comparison",
        "source",
        "mine",
    }


def test_the_page_names_the_command_that_makes_it(tmp_path: Path) -> None:
    frames = load_frames([write_runs(tmp_path / "runs")])
    assert "normbench report a&lt;b -o c" in page(frames, {}, {}, [], "normbench report a<b -o c")


def test_a_note_on_what_was_left_out_is_in_the_report_of_a_report(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", seeds=(0, 1))
    broken = sorted(runs.iterdir())[0]
    (broken / "config.yaml").write_text("norm: {")
    write_report(load_frames([runs]), tmp_path / "out")
    assert load_frames([tmp_path / "out"]).notes == (f"left out: {broken}: config.yaml is damaged",)


def test_options_of_a_norm_are_norms_of_their_own_to_the_summary(tmp_path: Path) -> None:
    options = {"gn": [{"norm": {"num_groups": groups}} for groups in (2, 16)]}
    frames = load_frames([write_runs(tmp_path / "runs", ("gn",), seeds=(0, 1), settings=options)])
    (sentence,) = [
        one for one in summary(frames) if one.startswith("At the settings of these runs")
    ]
    assert re.search(
        r"gn num groups (2|16) reached .*\(2 seeds\), before gn num groups (2|16)\.$", sentence
    )
