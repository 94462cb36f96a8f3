"""Runs whose every text is hostile, through every command that reads runs: no traceback, nothing
that steers a terminal, and the names are there to be read."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from kit.runs import in_study, one_run, seal, write_run, write_runs
from kit.text import HOSTILE, SPEAKING, STEERING, steers

from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.rendering import FORMS, _escape, to_markdown
from normbench.config.schema import validate
from normbench.runs.records import OVER, parse_record, write_record
from normbench.runs.state import read_status
from normbench.spreadsheet import _quoted
from normbench.text import markdown_cell, visible

Run = Callable[..., tuple[int, str, str]]
SHARED_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def no_halves(text: str) -> str:
    """The text without halves of surrogate pairs, which YAML cannot hold."""
    return "".join(char for char in text if unicodedata.category(char) != "Cs")


def no_path(text: str) -> str:
    """The text without what a file's name cannot hold."""
    return text.replace("/", "").replace("\0", "")


PLACES = (("optim", "name"), ("system", "runs_dir"), ("data", "name"))
# A colon separates the file of an own norm from its class.
NORMS = HOSTILE.map(no_halves).map(lambda text: no_path(f"{text}x").replace(":", ""))


def leave_runs(folder: Path, norm: str, text: str) -> list[str]:
    """Writes runs of bn and `norm` at two batch sizes with two seeds, and returns their names.

    Each text in their files is `text`, as far as a file can hold it; two runs failed for the
    reason `text`, one has a damaged file and a hostile name.
    """
    plain = no_halves(text) or "nothing"
    write_runs(folder, ("own", "bn"), (8, 64), (0, 1), ended={("bn", 8): ("failed", plain)})
    for path in sorted(folder.iterdir()):
        config = yaml.safe_load((path / "config.yaml").read_text())
        if config["norm"]["name"] == "own":
            config["norm"] = {"name": norm, "note": plain}
        for section, key in PLACES:
            config[section][key] = plain
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        environment = parse_record((path / "env.json").read_text())
        environment |= {"command": plain, "git": {"commit": plain, "dirty": True}}
        environment |= {"versions": {"torch": plain}}
        environment["data"]["name"] = environment["hardware"]["device_name"] = plain
        write_record(path / "env.json", environment)
        path = path.rename(folder / validate(config).run_id)
        if read_status(path)["state"] in OVER:
            seal(path)
    damaged = write_run(folder)
    (damaged / "status.json").write_text("{")
    damaged.rename(folder / f"s{no_path(plain)}")
    return sorted(path.name for path in folder.iterdir())


def checked(normbench: Run, *arguments: str) -> str:
    """The output of a command that succeeds and says nothing that steers."""
    code, out, err = normbench(*arguments)
    assert code == 0, err
    assert not steers(out + err)
    return out


def cells_of(markdown: str) -> set[int]:
    """How many cells the rows of a Markdown table have, as GitHub counts them."""
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) >= 3
    return {re.sub(r"\\[^\w\s]", "", row).count("|") - 1 for row in rows}


def check_lists_and_tables(normbench: Run, tmp_path: Path, norm: str, text: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    norm = no_path(norm)
    names = leave_runs(folder, norm, text)
    label, runs = visible(norm), str(folder)
    listed = checked(normbench, "runs", "--runs-dir", runs)
    rows = json.loads(checked(normbench, "runs", "--runs-dir", runs, "--json"))
    assert {row["run"] for row in rows} == {*names}, "what a program reads is the name itself"
    for name in names:
        assert visible(name) in listed
    checked(normbench, "runs", "diff", "--runs-dir", runs, "--", *names[:2])
    assert markdown_cell(label) in checked(normbench, "table", runs)
    assert _escape(label) in checked(normbench, "table", runs, "--latex")
    rows = [*csv.DictReader(io.StringIO(checked(normbench, "table", runs, "--csv")))]
    assert _quoted(label) in {row["norm"] for row in rows}
    by_both = checked(normbench, "table", runs, "--by", "norm,batch_size")
    assert cells_of(by_both) == {3}
    assert label in checked(normbench, "compare", "--", label, "bn", runs)


class Page(HTMLParser):
    """The elements and text of a page; scripts are the text of script elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.kinds: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.kinds.add(tag)
        self.scripts += tag == "script"
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def check_report(
    normbench: Run, tmp_path: Path, norm: str, text: str, figures: Sequence[str] = ()
) -> None:
    """Checks a report, and figures that are drawn beside it by commands of their own."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "runs"
    norm = no_path(norm)
    leave_runs(folder, norm, text)
    output = folder.with_name("report")
    for figure in figures:
        path = folder.with_name(f"{figure}.svg")
        checked(normbench, "plot", figure, str(folder), "-o", str(path))
    checked(normbench, "report", str(folder), "-o", str(output))
    written = [path for path in folder.parent.glob("**/*") if path.is_file()]
    mine = [path for path in written if folder not in path.parents and path.suffix != ".png"]
    assert len(mine) > 15
    for path in mine:
        content = path.read_text(encoding="utf-8")
        assert not steers(content), path
        if path.suffix == ".svg":
            drawn = "".join(ElementTree.fromstring(content).itertext())
            # Several panels leave a name few letters, of its beginning and its end.
            assert visible(norm)[: 4 if path.stem == "norms" else 20] in drawn
    page = Page((output / "report.html").read_text())
    assert "img" not in page.kinds
    assert page.scripts == 1
    assert "onerror" not in page.attributes
    assert visible(norm) in "".join(page.texts)
    again = checked(normbench, "table", str(output))
    assert again == checked(normbench, "table", str(folder)), "the study's files say the same"


EVERYTHING = no_halves("".join(STEERING + SPEAKING)).replace(":", "")[:150] + "x"


@pytest.mark.parametrize(
    ("norm", "text"), [(EVERYTHING, EVERYTHING), ("=1+1", "\ud800")], ids=["everything", "half"]
)
def test_lists_and_tables_of_hostile_runs(
    normbench: Run, tmp_path: Path, norm: str, text: str
) -> None:
    check_lists_and_tables(normbench, tmp_path, norm, text)


@settings(max_examples=15)
@given(NORMS, HOSTILE)
def test_every_form_of_a_table_of_hostile_runs(norm: str, text: str) -> None:
    hostile = one_run(norm, **{"norm.note": text, "runtime.precision": text})
    other = one_run(norm, reached=0.25, **{"norm.note": "", "runtime.precision": text})
    failed = one_run("bn", state="failed", reason=text, **{"runtime.precision": text})
    table = comparison_table(in_study(hostile, other, failed))
    for form, write in FORMS.items():
        written = write(table)
        assert not steers(written), form
        assert written.encode()
    assert cells_of(to_markdown(table)) == {len(table.shown.columns)}


@pytest.mark.slow
def test_figures_and_report_of_hostile_runs(normbench: Run, tmp_path: Path) -> None:
    figures = ("loss", "epochs", "batch-size")
    check_report(normbench, tmp_path, EVERYTHING, EVERYTHING, figures)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(SHARED_FOLDER, max_examples=40)
@given(NORMS, HOSTILE)
def test_lists_and_tables_of_many_hostile_runs(
    normbench: Run, tmp_path: Path, norm: str, text: str
) -> None:
    check_lists_and_tables(normbench, tmp_path, norm, text)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(SHARED_FOLDER, max_examples=10)
@given(NORMS, HOSTILE)
def test_the_report_of_many_hostile_runs(
    normbench: Run, tmp_path: Path, norm: str, text: str
) -> None:
    check_report(normbench, tmp_path, norm, text)
