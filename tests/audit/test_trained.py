"""Claims about trained networks, on constructed studies: held, refuted, undecided, and missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from kit.runs import in_study, one_run, with_figures

from normbench.analysis.study_files import write_study
from normbench.audit import Finding, Verdict, judge, load_claims
from normbench.audit.trained import BATCHES, PARTS, SCALES, TRAINED
from normbench.runs.columns import APPEARANCES
from normbench.runs.files import RunFiles
from normbench.sweeps.sweep import load_sweep

SUPPORTED, REFUTED = Verdict.SUPPORTED, Verdict.REFUTED
UNDECIDED, UNMEASURED = Verdict.UNDECIDED, Verdict.UNMEASURED
SEEDS = range(3)
# What seeds differ by, and by far less than any difference of norms here.
NOISE = (0.0, 0.001, -0.002)


def finding(claim: str, results: Path, runs: list[RunFiles]) -> Finding:
    """The judgement of the claim by a study of these runs, written to files and read back."""
    (results / "none").mkdir(parents=True)
    (known,) = judge([claim], results / "none")
    assert known.finding.verdict == UNMEASURED
    write_study(in_study(*runs), results / known.claim.by)
    (judged,) = judge([claim], results)
    return judged.finding


# Initial scales


def over_scales(norm: str, lowest: float, noise: float = 1.0, **ending: str) -> list[RunFiles]:
    """0.5 at every scale but the largest, where `lowest` is reached, or a run ends otherwise."""
    runs = []
    for scale in SCALES:
        for seed in SEEDS:
            is_last = scale == SCALES[-1]
            reached = (lowest if is_last else 0.5) + noise * NOISE[seed] * is_last
            state = ending if is_last else {}
            scaled = {"model.init_scale": scale}
            runs.append(one_run(norm, 64, seed, reached, **state, **scaled))
    return runs


@pytest.mark.parametrize(
    ("none", "bn", "noise", "expected"),
    [
        (0.2, 0.45, 1, SUPPORTED),
        (0.45, 0.2, 1, REFUTED),
        (0.3, 0.3, 1, UNDECIDED),
        (0.2, 0.45, 100, UNDECIDED),
    ],
)
def test_bn_init_compares_the_spread_over_scales(
    none: float, bn: float, noise: float, expected: Verdict, tmp_path: Path
) -> None:
    runs = over_scales("none", none, noise) + over_scales("bn", bn) + over_scales("gn", 0.4)
    found = finding("bn-init", tmp_path, runs)
    assert found.verdict == expected
    if noise == 1:
        assert any("spreads by 10." in figure and "with gn" in figure for figure in found.figures)


def test_a_run_that_diverged_counts_as_chance(tmp_path: Path) -> None:
    lost = over_scales("none", 0.0, state="diverged", reason="the loss of step 3 is nan")
    found = finding("bn-init", tmp_path, lost + over_scales("bn", 0.45))
    assert found.verdict == SUPPORTED
    assert "spreads by 40.0 ± 0.0 points (3 seeds) over the scales with none" in found.figures[0]


@pytest.mark.parametrize("norm", ["none", "bn"])
@pytest.mark.parametrize("how", ["without a scale", "failed"])
def test_a_scale_that_lacks_leaves_bn_init_open(norm: str, how: str, tmp_path: Path) -> None:
    runs = over_scales("none", 0.2) + over_scales("bn", 0.45)
    lacking = next(run for run in runs if run.config["norm"]["name"] == norm)
    runs.remove(lacking)
    if how == "failed":
        runs.append(one_run(norm, 64, 0, state="failed", **{"model.init_scale": SCALES[0]}))
    assert finding("bn-init", tmp_path, runs).verdict == UNMEASURED


# Switchable


def switchables(
    shares: Mapping[int, float], behind: float = 0.0, noise: float = 1.0
) -> list[RunFiles]:
    """switchable with these shares of bn by batch size, `behind` the three norms that it mixes."""
    runs = []
    for size in BATCHES:
        for seed in SEEDS:
            share = shares[size] + noise * NOISE[seed]
            run = one_run("switchable", size, seed, 0.5 - behind + NOISE[seed])
            runs.append(with_figures(run, share_mean_bn=share - 0.1, share_var_bn=share + 0.1))
            runs += [one_run(norm, size, seed, 0.5) for norm in PARTS]
    return runs


@pytest.mark.parametrize(
    ("shares", "behind", "noise", "expected"),
    [
        ({2: 0.2, 64: 0.4}, 0.0, 1, SUPPORTED),
        ({2: 0.4, 64: 0.2}, 0.0, 1, REFUTED),
        ({2: 0.2, 64: 0.4}, 0.03, 1, REFUTED),
        ({2: 0.2, 64: 0.4}, 0.01, 1, UNDECIDED),
        ({2: 0.3, 64: 0.3}, 0.0, 1, UNDECIDED),
    ],
)
def test_switchable_needs_a_smaller_share_and_no_better_norm(
    shares: Mapping[int, float], behind: float, noise: float, expected: Verdict, tmp_path: Path
) -> None:
    found = finding("switchable", tmp_path, switchables(shares, behind, noise))
    assert found.verdict == expected
    assert any("share of bn at batch size 2 is 0." in figure for figure in found.figures)


@pytest.mark.parametrize(
    "is_left_out",
    [
        lambda run: run.config["norm"]["name"] == "ln" and run.config["batch_size"] == 2,
        lambda run: run.config["norm"]["name"] == "bn" and run.config["seed"] == 1,
        lambda run: run.config["norm"]["name"] == "switchable" and run.config["batch_size"] == 64,
    ],
)
def test_a_norm_or_a_seed_that_lacks_leaves_switchable_open(
    is_left_out: Callable[[RunFiles], bool], tmp_path: Path
) -> None:
    runs = [run for run in switchables({2: 0.2, 64: 0.4}) if not is_left_out(run)]
    assert finding("switchable", tmp_path, runs).verdict == UNMEASURED


# Appearance


def in_other_light(falls: Mapping[str, tuple[float, float]], noise: float = 1.0) -> list[RunFiles]:
    """bn and in_affine, whose accuracies fall by so much under each kind of change."""
    runs = []
    for place, norm in enumerate(("bn", "in_affine")):
        for seed in SEEDS:
            figures = {}
            for kind, fall in falls.items():
                figures[f"test_accuracy_{kind}"] = 0.5 - fall[place] + noise * NOISE[seed] * place
                figures[f"feature_shift_{kind}"] = fall[place]
            runs.append(with_figures(one_run(norm, 64, seed, 0.5), **figures))
    return runs


LESS = dict.fromkeys(APPEARANCES, (0.2, 0.1))


@pytest.mark.parametrize(
    ("falls", "noise", "expected"),
    [
        (LESS, 1, SUPPORTED),
        (LESS | {"hue": (0.1, 0.2)}, 1, REFUTED),
        (LESS | {"hue": (0.1, 0.1)}, 1, UNDECIDED),
        (LESS, 100, UNDECIDED),
    ],
)
def test_in_appearance_needs_every_kind_of_change(
    falls: Mapping[str, tuple[float, float]], noise: float, expected: Verdict, tmp_path: Path
) -> None:
    found = finding("in-appearance", tmp_path, in_other_light(falls, noise))
    assert found.verdict == expected
    assert len(found.figures) == 4
    assert "features shift by 0.200 ± 0.000 (3 seeds) with bn" in found.figures[0]


def test_a_kind_or_a_seed_that_lacks_leaves_in_appearance_open(tmp_path: Path) -> None:
    without_hue = {kind: fall for kind, fall in LESS.items() if kind != "hue"}
    found = finding("in-appearance", tmp_path / "kind", in_other_light(without_hue))
    assert (found.verdict, len(found.figures)) == (UNMEASURED, 3)
    # The last run is one of in_affine.
    runs = in_other_light(LESS)[:-1]
    assert finding("in-appearance", tmp_path / "seed", runs).verdict == UNMEASURED
    diverged = one_run("in_affine", 64, 2, state="diverged", reason="the loss of step 3 is nan")
    found = finding("in-appearance", tmp_path / "lost", [*runs, diverged])
    assert found.verdict == UNMEASURED


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    runs = [run for run in in_other_light(LESS) if run.config["seed"] == 0]
    assert finding("in-appearance", tmp_path, runs).verdict == UNDECIDED


def test_the_studies_have_what_the_rules_ask_for() -> None:
    studies = {claim.id: claim.by for claim in load_claims() if claim.id in TRAINED}
    values: dict[str, dict[str, set[object]]] = {}
    for claim, study in studies.items():
        axes = load_sweep(study).axes
        values[claim] = {axis.keys[0]: {point[0] for point in axis.points} for axis in axes}
    assert values["bn-init"]["model.init_scale"] == {*SCALES}
    assert values["bn-init"]["norm"] == {"none", "bn"}
    assert values["switchable"]["batch_size"] == {*BATCHES}
    assert values["switchable"]["norm"] == {"switchable", *PARTS}
    assert values["in-appearance"]["norm"] == {"in_affine", "bn", "gn"}
