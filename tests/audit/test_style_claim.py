"""The claim on style transfer, on constructed studies: held, refuted, undecided, missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kit.runs import STYLE, in_study, one_run

from normbench.analysis.study_files import write_study
from normbench.audit import Finding, Verdict, judge
from normbench.runs.files import RunFiles
from normbench.sweeps.sweep import load_sweep

NETWORKS = ("random", "efficientnet_lite0")
PREPARATIONS = ("none", "contrast", "results/style-first")
# What seeds differ by.
NOISE = (0.0, 0.001, -0.002, 0.001, 0.0)


def runs_at(network: str, prepare: str, norms: dict[str, float]) -> list[RunFiles]:
    place = {"task.loss_network": network, "task.prepare": prepare}
    found = []
    for norm, loss in norms.items():
        for seed, noise in enumerate(NOISE):
            reached = loss + (noise if norm == "bn" else 0)
            found.append(one_run(norm, 4, seed, reached, task=STYLE, **place))
    return found


def judged(runs: list[RunFiles], results: Path) -> Finding:
    """The finding of a study with the design of configs/sweep/style.yaml."""
    study = replace(in_study(*runs), design=load_sweep("style").design)
    write_study(study, results / "style")
    (found,) = judge(["in-style"], results)
    return found.finding


def all_runs(random: float, lite: float, prepared: float = 0.3) -> list[RunFiles]:
    """in reaches these style losses on images as they are, and `prepared` on others; bn 0.3."""
    runs = []
    for network, loss in zip(NETWORKS, (random, lite), strict=True):
        for prepare in PREPARATIONS:
            reached = loss if prepare == "none" else prepared
            runs += runs_at(network, prepare, {"bn": 0.3, "in": reached})
    return runs


@pytest.mark.parametrize(
    ("random", "lite", "expected"),
    [
        (0.1, 0.2, Verdict.SUPPORTED),
        (0.1, 0.5, Verdict.REFUTED),
        (0.1, 0.3, Verdict.REFUTED),  # alike, within the smallest difference
    ],
)
def test_in_needs_the_smaller_loss_under_both_networks(
    random: float, lite: float, expected: Verdict, tmp_path: Path
) -> None:
    found = judged(all_runs(random, lite), tmp_path)
    assert found.verdict == expected
    assert "in - bn = -0.200" in found.figures[0]


def test_the_claim_waits_for_the_second_network_and_for_any_study(tmp_path: Path) -> None:
    (found,) = judge(["in-style"], tmp_path)
    assert found.finding.verdict == Verdict.UNMEASURED
    assert found.finding.figures == ("The study style would decide it.",)
    of_one = [run for run in all_runs(0.1, 0.1) if run.config["task"]["loss_network"] == "random"]
    assert judged(of_one, tmp_path).verdict == Verdict.UNMEASURED


def test_other_preparations_are_told_and_decide_nothing(tmp_path: Path) -> None:
    found = judged(all_runs(0.1, 0.1, prepared=0.5), tmp_path)
    assert found.verdict == Verdict.SUPPORTED
    assert len(found.figures) == 6
    assert "task.prepare results/style-first: in - bn = +0.200" in found.figures[-1]


def test_the_study_compares_what_the_claim_needs() -> None:
    design = load_sweep("style").design
    assert design is not None
    places = [(c.at["task.loss_network"], c.at["task.prepare"]) for c in design.comparisons()]
    assert sorted(places) == sorted((n, p) for n in NETWORKS for p in PREPARATIONS)
    assert {(c.first, c.second) for c in design.comparisons()} == {("in", "bn")}
    first = load_sweep("style_first")
    assert first.fixed["system.runs_dir"] in PREPARATIONS
