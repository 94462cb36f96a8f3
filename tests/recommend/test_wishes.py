"""Memory, time and inference choose among what accuracy leaves, and say what they change."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from kit.runs import in_study, one_run, rounds_of

from normbench.analysis.paired import Paired
from normbench.analysis.stats import Difference, Estimate
from normbench.certificates import certify
from normbench.norms import norms
from normbench.recommend import Answer, Question
from normbench.recommend.measured import Measured, Part
from normbench.recommend.wishes import Wishes, told
from normbench.tasks.classification import ACCURACY
from normbench.timing.rounds import write_rounds


def left(*candidates: str) -> Answer:
    """An answer at batch size 4 that is undecided between these norms."""
    difference = Difference(Estimate(0.0, 0.1, 3), p_value=0.9)
    pairs = []
    for first, second in pairwise(candidates):
        pairs.append(Paired(first, second, {}, difference, ACCURACY, {}, {}, adjusted=0.9))
    part = Part("sizes", candidates, tuple(pairs), {}, "data", images_seen=1)
    return Answer("normresnet", Question(4, "cnn"), (Measured("normresnet", 4, (part,)),))


def write_bench(results: Path, seconds: dict[str, float], processes: int) -> None:
    """A bench of 10 rounds a norm, each round as quick as the next but for a little."""
    study = in_study(*(one_run(norm, 4) for norm in seconds))
    by_round = {}
    for norm, value in seconds.items():
        by_round[norm] = [value * (1 + 0.001 * (number % 3)) for number in range(10)]
    write_rounds(rounds_of(study, by_round, processes), results / "speed" / "bench.csv")


def test_the_quickest_by_intervals_over_processes_is_chosen(tmp_path: Path) -> None:
    wishes = Wishes(wants_low_time=True)
    write_bench(tmp_path, {"bn": 0.10, "gn": 0.05, "ln": 0.08}, processes=5)
    (sentence,) = told(wishes, left("ln", "gn"), tmp_path)
    assert sentence.startswith("--time low: gn, of those that accuracy leaves; ")
    (sentence,) = told(wishes, left("ln", "gn", "ws_gn"), tmp_path)
    assert "decides nothing" in sentence
    assert "ws_gn not timed" in sentence


def test_a_bench_of_one_process_has_no_interval_and_decides_nothing(tmp_path: Path) -> None:
    write_bench(tmp_path, {"bn": 0.10, "gn": 0.05, "ln": 0.08}, processes=1)
    (sentence,) = told(Wishes(wants_low_time=True), left("ln", "gn"), tmp_path)
    assert "decides nothing" in sentence
    assert "gn 0.50x without an interval" in sentence


def test_the_fewest_kept_bytes_are_those_of_the_certificate(tmp_path: Path) -> None:
    candidates = ("bn", "none", "Mine")
    wishes = Wishes(wants_low_memory=True)
    (sentence,) = told(wishes, left(*candidates[:2]), tmp_path)
    kept = {norm: certify(norms.build(norm, options={})).saved_bytes for norm in candidates[:2]}
    assert kept["none"] < kept["bn"]
    assert sentence.startswith("--memory low: none, of those")
    assert f"bn {kept['bn']:g}, none {kept['none']:g}" in sentence
    (sentence,) = told(wishes, left(*candidates), tmp_path)
    assert "decides nothing" in sentence
    assert "Mine not certified" in sentence


@pytest.mark.parametrize("wishes", [Wishes(wants_low_memory=True), Wishes(wants_low_time=True)])
def test_with_one_norm_left_there_is_nothing_to_choose(wishes: Wishes, tmp_path: Path) -> None:
    (sentence,) = told(wishes, left("gn"), tmp_path)
    assert "changes nothing" in sentence


def test_inference_says_of_each_candidate_how_it_evaluates(tmp_path: Path) -> None:
    sentences = told(Wishes(inference_batch=1), left("bn", "gn", "ln", "Mine"), tmp_path)
    assert [sentence.partition(": ")[2].partition(" eval")[0] for sentence in sentences[:2]] == [
        "bn",
        "gn, ln",
    ]
    assert "by running averages" in sentences[0]
    assert sentences[2].startswith("--inference-batch 1: Mine not certified here")


def test_fine_tuning_is_said_to_be_unmeasured(tmp_path: Path) -> None:
    answer = Answer("normresnet", Question(4, "cnn", is_finetuned=True), left("gn").at)
    first, frozen = told(Wishes(), answer, tmp_path)
    assert "not measured" in first
    assert "frozen statistics" in frozen
