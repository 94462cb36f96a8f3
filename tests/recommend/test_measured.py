"""What is read of studies: which verdicts count, who is excluded, and what lies around a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.runs import in_study, one_run, write_run

from normbench.analysis.decision_tree import load_tree
from normbench.analysis.design import read_design
from normbench.analysis.study_files import write_study
from normbench.errors import NormbenchError
from normbench.recommend import Answer, Question, answers
from normbench.recommend.account import runner_up
from normbench.recommend.answer import around
from normbench.recommend.library import Library, committed, own_runs
from normbench.recommend.measured import Measured

SEEDS = range(3)
# Seeds that differ a little, so that differences have a spread.
JITTER = {"bn": (0.0, 0.001, 0.002), "gn": (0.001, 0.0, 0.002)}
TREE = load_tree()


def runs_at(size: int, levels: dict[str, float], **settings: Any) -> list[Any]:
    """Three runs of each norm around its level at a batch size."""
    runs = []
    for norm, reached in levels.items():
        jitter = JITTER.get(norm, (0.002, 0.001, 0.0))
        for seed in SEEDS:
            runs.append(one_run(norm, size, seed, reached + jitter[seed], **settings))
    return runs


def write_designed(
    results: Path, name: str, runs: Sequence[Any], norms: list[str], sizes: list[int]
) -> None:
    """A committed study whose primary comparisons are these norms against bn at these sizes."""
    family = {"norms": norms, "against": "bn", "at": {"batch_size": sizes}}
    design = read_design({"name": name, "primary": [family], "smallest_difference": 1})
    write_study(replace(in_study(*runs), design=design), results / name)


def answer(results: Path, batch_size: int, model: str | None = None) -> Answer:
    (found,) = answers(Question(batch_size, model), committed(results), TREE)
    return found


def test_a_norm_decided_ahead_of_all_is_recommended(tmp_path: Path) -> None:
    runs = runs_at(4, {"bn": 0.5, "gn": 0.6, "ln": 0.3})
    write_designed(tmp_path, "sizes", runs, ["gn", "ln"], [4])
    found = answer(tmp_path, 4)
    assert (found.verdict, found.recommended) == ("recommended", "gn")
    assert found.outcome.behind == ("bn", "ln")


def test_a_difference_outside_the_family_decides_nothing(tmp_path: Path) -> None:
    runs = runs_at(4, {"bn": 0.3, "gn": 0.5, "ln": 0.7})
    write_designed(tmp_path, "sizes", runs, ["gn", "ln"], [4])
    assert answer(tmp_path, 4).outcome.candidates == ("ln", "gn")
    write_designed(tmp_path, "sizes", runs, ["gn"], [4])
    found = answer(tmp_path, 4)
    assert found.recommended is None
    assert set(found.outcome.candidates) == {"gn", "ln"}


def test_a_norm_without_a_verdict_that_is_not_above_is_no_candidate(tmp_path: Path) -> None:
    runs = runs_at(4, {"bn": 0.3, "gn": 0.5, "ln": 0.499, "rms": 0.1})
    write_designed(tmp_path, "sizes", runs, ["gn"], [4])
    found = answer(tmp_path, 4)
    assert found.recommended == "gn"
    assert found.at[0].unjudged == ["ln", "rms"]
    assert runner_up(found.at[0]) == "bn"


@pytest.mark.parametrize(("epochs", "expected"), [(2, "bn"), (8, "gn")])
def test_of_two_studies_the_longer_training_counts(
    epochs: int, expected: str, tmp_path: Path
) -> None:
    for name, number, level in (("first", 4, 0.3), ("second", epochs, 0.7)):
        runs = runs_at(4, {"bn": 0.5, "gn": level}, seconds=[10.0] * number)
        write_designed(tmp_path, name, runs, ["gn"], [4])
    # The shorter training says the opposite.
    assert answer(tmp_path, 4).recommended == expected


def test_only_comparisons_decided_beforehand_count_in_committed_studies(tmp_path: Path) -> None:
    study = in_study(*runs_at(4, {"bn": 0.3, "gn": 0.7}))
    write_study(study, tmp_path / "without-design")
    assert committed(tmp_path) == Library(())
    assert answer(tmp_path, 4).verdict == "not measured"
    (of_own,) = answers(Question(4), own_runs(tmp_path / "without-design"), TREE)
    assert of_own.recommended == "gn"


@pytest.mark.parametrize("state", ["diverged", "failed", "refused"])
def test_a_norm_that_lost_a_seed_or_was_refused_is_never_recommended(
    state: str, tmp_path: Path
) -> None:
    runs = runs_at(4, {"bn": 0.3, "gn": 0.7, "ln": 0.5})
    whole = tmp_path / "whole"
    write_designed(whole, "sizes", runs, ["gn", "ln"], [4])
    assert "gn" in answer(whole, 4).outcome.candidates
    runs.append(one_run("gn", 4, 3, state=state, reason="too large"))
    write_designed(tmp_path, "sizes", runs, ["gn", "ln"], [4])
    found = answer(tmp_path, 4)
    assert found.recommended == "ln"
    assert found.at[0].excluded == {"gn": f"1 of 4 runs {state}"}


def test_a_norm_that_breaks_what_figures_rest_on_is_excluded(tmp_path: Path) -> None:
    broken = ["evaluation_mates"]
    runs = runs_at(4, {"bn": 0.3, "ln": 0.5})
    runs += [one_run("Mine", 4, seed, 0.9 + seed / 1000, broken=broken) for seed in SEEDS]
    write_designed(tmp_path, "sizes", runs, ["Mine", "ln"], [4])
    found = answer(tmp_path, 4)
    assert found.recommended == "ln"
    assert "Mine" in found.at[0].excluded


def test_a_wider_gap_never_makes_the_norm_less_recommended(tmp_path: Path) -> None:
    ranks = []
    for step, gap in enumerate((-0.2, -0.001, 0.0, 0.003, 0.2)):
        results = tmp_path / str(step)
        runs = runs_at(4, {"bn": 0.5, "gn": 0.5 + gap, "ln": 0.3})
        write_designed(results, "sizes", runs, ["gn", "ln"], [4])
        outcome = answer(results, 4).outcome
        ranks.append(("gn" in outcome.candidates) + (outcome.recommended == "gn"))
    assert ranks == sorted(ranks)
    assert {ranks[0], ranks[-1]} == {0, 2}


def test_between_two_sizes_both_have_to_agree(tmp_path: Path) -> None:
    runs = runs_at(4, {"bn": 0.3, "gn": 0.5}) + runs_at(16, {"bn": 0.3, "gn": 0.5})
    write_designed(tmp_path, "sizes", runs, ["gn"], [4, 16])
    agreed = answer(tmp_path, 8)
    assert [one.batch_size for one in agreed.at] == [4, 16]
    assert agreed.recommended == "gn"
    runs = runs_at(4, {"bn": 0.3, "gn": 0.5}) + runs_at(16, {"bn": 0.7, "gn": 0.5})
    write_designed(tmp_path, "sizes", runs, ["gn"], [4, 16])
    split = answer(tmp_path, 8)
    assert split.verdict == "undecided"
    assert split.outcome.candidates == ("gn", "bn")
    assert [one.batch_size for one in answer(tmp_path, 4).changed_by] == [16]


def test_outside_nothing_is_measured_whatever_is_measured_nearby(tmp_path: Path) -> None:
    write_designed(tmp_path, "sizes", runs_at(4, {"bn": 0.3, "gn": 0.5}), ["gn"], [4])
    for size in (2, 8):
        found = answer(tmp_path, size)
        assert (found.verdict, found.recommended, found.at) == ("not measured", None, ())
        assert found.nearest is not None
        assert found.nearest.batch_size == 4


@given(st.sets(st.integers(1, 40), min_size=1), st.integers(1, 40))
def test_a_size_lies_at_between_or_outside_of_measured_ones(sizes: set[int], size: int) -> None:
    measured = [Measured("net", one, ()) for one in sorted(sizes)]
    at, nearest = around(size, measured)
    found = [one.batch_size for one in at]
    if size in sizes:
        assert found == [size]
    elif min(sizes) < size < max(sizes):
        low, high = found
        assert low < size < high
        assert not any(low < one < high for one in sizes)
    else:
        assert found == []
        assert nearest is not None
        assert nearest.batch_size == min(sizes, key=lambda one: abs(one - size))


def test_fine_tuning_is_measured_nowhere(tmp_path: Path) -> None:
    write_designed(tmp_path, "sizes", runs_at(4, {"bn": 0.3, "gn": 0.5}), ["gn"], [4])
    (found,) = answers(Question(4, is_finetuned=True), committed(tmp_path), TREE)
    assert (found.verdict, found.recommended) == ("not measured", None)
    assert found.outcome.recommended == "gn"


def test_a_network_at_each_of_its_settings_answers_for_itself(tmp_path: Path) -> None:
    levels = {"pre": {"bn": 0.3, "gn": 0.5}, "post": {"bn": 0.5, "gn": 0.3}}
    runs = []
    for position, reached in levels.items():
        settings = {"model.name": "vit", "model.norm_position": position}
        runs += runs_at(64, reached, **settings)
    family = {"norms": ["gn"], "against": "bn", "at": {"model.norm_position": [*levels]}}
    design = read_design({"name": "positions", "primary": [family], "smallest_difference": 1})
    write_study(replace(in_study(*runs), design=design), tmp_path / "positions")
    found = answers(Question(64, "transformer"), committed(tmp_path), TREE)
    assert {one.network: one.recommended for one in found} == {
        "vit (norm position pre)": "gn",
        "vit (norm position post)": "bn",
    }
    assert not committed(tmp_path).left_out


def test_networks_answer_for_their_kind_and_own_networks_for_any(tmp_path: Path) -> None:
    resnet = {"model.name": "resnet"}
    runs = runs_at(4, {"bn": 0.5, "gn": 0.3}, **resnet)
    write_designed(tmp_path, "published", runs, ["gn"], [4])
    runs = runs_at(4, {"bn": 0.3, "gn": 0.5})
    write_designed(tmp_path, "sizes", runs, ["gn"], [4])
    assert answer(tmp_path, 4, "resnet").recommended == "bn"
    assert answer(tmp_path, 4, "cnn").recommended == "gn"
    both = answers(Question(4), committed(tmp_path), TREE)
    assert [(found.network, found.question.model) for found in both] == [
        ("normresnet", "cnn"),
        ("resnet", "resnet"),
    ]
    runs = runs_at(4, {"bn": 0.5, "gn": 0.3}, **{"model.name": "Net"})
    write_study(in_study(*runs), tmp_path / "own")
    library = own_runs(tmp_path / "own")
    (found,) = answers(Question(4, "rnn"), library, TREE)
    assert (found.network, found.recommended) == ("Net", "bn")
    (found,) = answers(Question(4), library, TREE)
    assert found.question.model is None


def test_a_study_of_the_lstm_answers_for_recurrent_networks(tmp_path: Path) -> None:
    runs = runs_at(64, {"bn": 0.3, "ln": 0.5}, **{"model.name": "lstm"})
    write_designed(tmp_path, "recurrent", runs, ["ln"], [64])
    assert answer(tmp_path, 64, "rnn").recommended == "ln"


def test_studies_of_one_network_add_up(tmp_path: Path) -> None:
    write_designed(tmp_path, "one", runs_at(4, {"bn": 0.3, "gn": 0.5}), ["gn"], [4])
    epochs = {"seconds": [1.0, 1.0, 1.0]}
    write_designed(tmp_path, "two", runs_at(4, {"bn": 0.3, "ln": 0.5}, **epochs), ["ln"], [4])
    found = answer(tmp_path, 4)
    assert set(found.outcome.candidates) == {"gn", "ln"}
    assert [part.study for part in found.at[0].parts] == ["one", "two"]


def test_a_size_with_several_other_settings_is_left_out_and_said(tmp_path: Path) -> None:
    runs = runs_at(4, {"bn": 0.3, "gn": 0.5}) + runs_at(4, {"bn": 0.5, "gn": 0.3}, lr=0.1)
    runs += runs_at(8, {"bn": 0.3, "gn": 0.5})
    write_study(in_study(*runs), tmp_path / "rates")
    library = own_runs(tmp_path / "rates")
    assert [one.batch_size for one in library.measured] == [8]
    (reason,) = library.left_out
    assert "batch size 4 on normresnet" in reason
    assert "lr=0.1" in reason


def test_runs_that_compare_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NormbenchError, match="no runs in"):
        own_runs(tmp_path)
    write_run(tmp_path)
    with pytest.raises(NormbenchError, match="nothing to compare"):
        own_runs(tmp_path)
    with pytest.raises(NormbenchError, match="--results: no folder"):
        committed(tmp_path / "nowhere")


def test_an_unknown_kind_or_word_is_refused_with_the_nearest(tmp_path: Path) -> None:
    for question in (Question(model="transformers"), Question(data="unifrom")):
        with pytest.raises(NormbenchError, match=r"did you mean '(transformer|uniform)'"):
            answers(question, Library(()), TREE)
