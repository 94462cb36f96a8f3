"""Norms whose figures are not comparable: marked wherever they stand, and never called better."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kit.runs import in_study, one_run, some_seconds, timed

from normbench.analysis.family import compare, every_pair
from normbench.analysis.figures.labels import alt_text
from normbench.analysis.loading import load_study
from normbench.analysis.outputs import Output, outputs
from normbench.analysis.report import write_report
from normbench.analysis.report.summary import summary
from normbench.analysis.study import Study
from normbench.analysis.study_files import write_study
from normbench.analysis.tables.pairs import pairs_table

MATES, STATE = "evaluates with batch mates", "keeps state outside its checkpoint"
MARK = f"Mine {MATES} and {STATE}: its figures are not comparable, so there is no verdict on it."
REACHED = {"Mine": 0.9, "bn": 0.7, "gn": 0.5}


def study(broken: tuple[str, ...] = (MATES, STATE), mine: float = 0.9) -> Study:
    """The user's norm, bn and gn at two batch sizes: every difference is decided."""
    runs = []
    for place, (norm, reached) in enumerate((REACHED | {"Mine": mine}).items()):
        for size in (8, 64):
            for seed in range(3):
                # No two norms differ by the same at all seeds.
                value = reached + place * seed / 1000
                found = broken if norm == "Mine" else ()
                runs.append(one_run(norm, size, seed, value, broken=found))
    return timed(in_study(*runs), some_seconds("bn", "Mine"))


def test_a_study_knows_its_broken_norms_from_its_files(tmp_path: Path) -> None:
    written = study()
    assert written.broken == {"Mine": f"{MATES} and {STATE}"}
    write_study(written, tmp_path)
    assert load_study([tmp_path]).broken == written.broken
    assert written.at(norm="bn").broken == {}
    assert study(()).broken == {}


# The source's table has registered norms only.
TABLES = [output for output in outputs("table", study()) if output.name != "source"]


@pytest.mark.parametrize("output", TABLES, ids=lambda output: output.name)
def test_every_table_with_the_norm_says_why_its_figures_are_not_comparable(output: Output) -> None:
    assert MARK in output.make(study()).caption
    assert "comparable" not in output.make(study(())).caption


def test_every_figure_with_the_norm_has_a_star_at_it_and_says_why() -> None:
    drawn = [output.make(study()) for output in outputs("figure", study())]
    assert len(drawn) == 5
    for figure in drawn:
        assert f"* {MARK}" in figure.get_label()
    # The figure of times names its rows at the axis.
    named = [alt_text(figure) for figure in drawn]
    ticks = [text.get_text() for text in drawn[-1].axes[0].get_yticklabels()]
    assert "Mine*" in ticks
    # The last is of bars.
    assert all("Mine* " in text and "bn " in text for text in named[:-1])
    assert "Mine* 90 at 1.01" in named[-2]


def test_no_verdict_names_a_norm_better_in_a_pair_with_a_broken_one() -> None:
    sound, broken = every_pair(study(())), every_pair(study())
    assert {pair.verdict for pair in sound} == {"Mine", "bn"}
    for before, after in zip(sound, broken, strict=True):
        is_in = "Mine" in (after.first, after.second)
        assert after.verdict == ("no verdict" if is_in else before.verdict)
        assert after.adjusted == before.adjusted
    assert set(pairs_table(study()).shown["better"]) == {"no verdict", "bn"}


def test_compare_says_why_there_is_no_verdict() -> None:
    for paired in compare(study(), "bn", "Mine"):
        assert paired.sentence().endswith(f": no verdict, since Mine {MATES} and {STATE}.")
    runs = [one_run("bn", reached=0.5), one_run("Mine", reached=0.9, broken=[MATES])]
    (one_seed,) = compare(in_study(*runs), "Mine", "bn")
    assert one_seed.sentence().endswith(f"no interval, no verdict, since Mine {MATES}.")


def test_the_summary_names_no_leader_where_a_broken_norm_is_first() -> None:
    said = summary(study()).sentences
    assert MARK in said
    leaders = [sentence for sentence in said if sentence.startswith("At batch size")]
    assert len(leaders) == 2
    for sentence in leaders:
        assert ", there is no leader: Mine, with the highest test accuracy, 90" in sentence
        assert sentence.endswith(f" (3 seeds), {MATES} and {STATE}.")
    assert not any(re.search(r"Mine reached|before", sentence) for sentence in said)


def test_a_lead_before_a_broken_norm_is_no_verdict() -> None:
    leaders = [one for one in summary(study(mine=0.6)).sentences if one.startswith("At batch size")]
    for sentence in leaders:
        assert "bn reached the highest test accuracy" in sentence
        assert sentence.endswith(f": no verdict, since Mine {MATES} and {STATE}.")


def test_the_page_marks_every_run_of_the_norm(tmp_path: Path) -> None:
    text = write_report(study(), tmp_path).read_text()
    rows = re.findall(r"<td>Mine<abbr title=\"([^\"]+): not comparable\">\*</abbr></td>", text)
    assert rows == [f"{MATES} and {STATE}"] * 6
    assert f"<li>{MARK}</li>" in text
    assert "<td>bn</td>" in text
