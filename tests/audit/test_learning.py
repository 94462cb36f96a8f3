"""Claims on how training goes, on constructed runs: what decides them, what leaves them open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kit.runs import in_study, one_run

from normbench.analysis.design import read_design
from normbench.analysis.report import write_report
from normbench.analysis.study import Study
from normbench.analysis.study_files import write_study
from normbench.audit import Verdict, judge
from normbench.audit.account import claim_parts
from normbench.audit.evidence import folder_of
from normbench.runs.files import RunFiles

SUPPORTED, REFUTED = Verdict.SUPPORTED, Verdict.REFUTED
UNDECIDED, UNMEASURED = Verdict.UNDECIDED, Verdict.UNMEASURED
SEEDS = range(3)


def verdict(claim: str, study: str, runs: Sequence[RunFiles], results: Path) -> Verdict:
    """The verdict on a claim where the study consists of these runs."""
    return verdict_of_study(claim, study, in_study(*runs), results)


def verdict_of_study(claim: str, name: str, study: Study, results: Path) -> Verdict:
    write_study(study, results / folder_of(name))
    (judged,) = judge([claim], results)
    return judged.finding.verdict


def rates(largest: dict[str, Sequence[float]]) -> list[RunFiles]:
    """Runs at 0.1, 1 and 10 by norm, of which those train that are up to the seed's largest."""
    runs = []
    for norm, by_seed in largest.items():
        for seed, limit in enumerate(by_seed):
            for rate in (0.1, 1.0, 10.0):
                reached = 0.4 if rate <= limit else 0.1
                runs.append(one_run(norm, seed=seed, reached=reached, lr=rate))
    return runs


@pytest.mark.parametrize(
    ("bn", "none", "expected"),
    [
        ([1, 1, 1], [0.1, 0.1, 0.1], SUPPORTED),
        ([1, 1, 1], [1, 1, 1], REFUTED),
        ([1, 1, 1], [0.1, 0.1, 1], UNDECIDED),
        ([1, 1, 1], [0, 0, 0], SUPPORTED),
        ([10, 10, 10], [10, 10, 10], UNDECIDED),  # the grid ends before either does
        ([1, 1], [0.1, 0.1], UNDECIDED),
    ],
)
def test_the_largest_rate_is_compared_seed_by_seed(
    bn: Sequence[float], none: Sequence[float], expected: Verdict, tmp_path: Path
) -> None:
    runs = rates({"bn": bn, "none": none})
    assert verdict("bn-higher-lr", "higher_lr", runs, tmp_path) == expected


def test_a_run_that_diverged_did_not_train_and_a_missing_norm_is_not_measured(
    tmp_path: Path,
) -> None:
    runs = rates({"bn": [1, 1, 1], "none": [0.1, 0.1, 0.1]})
    diverged = [one_run("none", seed=seed, lr=1.5, state="diverged") for seed in SEEDS]
    assert verdict("bn-higher-lr", "higher_lr", [*runs, *diverged], tmp_path / "a") == SUPPORTED
    alone = rates({"bn": [1, 1, 1]})
    assert verdict("bn-higher-lr", "higher_lr", alone, tmp_path / "b") == UNMEASURED


def accuracies(curves: dict[str, Sequence[float]]) -> Study:
    """Three seeds of each norm with the same test accuracies over the epochs."""
    runs = []
    for norm, curve in curves.items():
        for seed in SEEDS:
            seconds = [1.0] * len(curve)
            runs.append(one_run(norm, seed=seed, reached=curve[-1], seconds=seconds))
    study = in_study(*runs)
    metrics = study.metrics.copy()
    for norm, curve in curves.items():
        for epoch, value in enumerate(curve, start=1):
            rows = (metrics["norm"] == norm) & (metrics["epoch"] == epoch)
            metrics.loc[rows, "test_accuracy"] = value
    return replace(study, metrics=metrics)


@pytest.mark.parametrize(
    ("bn", "expected"),
    [
        ([0.3, 0.5, 0.6], SUPPORTED),
        ([0.1, 0.2, 0.4], REFUTED),  # the target in the same epoch is no speedup
        ([0.1, 0.2, 0.3], REFUTED),
    ],
)
def test_speed_is_the_first_epoch_at_the_accuracy_without_a_norm(
    bn: Sequence[float], expected: Verdict, tmp_path: Path
) -> None:
    study = accuracies({"none": [0.2, 0.3, 0.4], "bn": bn})
    assert verdict_of_study("bn-speedup", "speedup", study, tmp_path) == expected


def test_who_is_first_above_the_end_counts_though_it_falls_again(tmp_path: Path) -> None:
    study = accuracies({"none": [0.5, 0.6, 0.4], "bn": [0.3, 0.5, 0.6]})
    assert verdict_of_study("bn-speedup", "speedup", study, tmp_path) == REFUTED


def gaps(sizes: dict[int, Sequence[float]], augments: Sequence[str]) -> list[RunFiles]:
    """Runs whose test accuracy under gn is lower than under bn, by batch size and seed."""
    runs = []
    for size, differences in sizes.items():
        for augment in augments:
            for seed, less in enumerate(differences):
                settings = {"data.augment": augment}
                runs.append(one_run("bn", size, seed, 0.5, **settings))
                runs.append(one_run("gn", size, seed, 0.5 - less, **settings))
    return runs


@pytest.mark.parametrize(
    ("eight", "expected"),
    [
        ([0.05, 0.051, 0.049], SUPPORTED),
        ([-0.05, -0.051, -0.049], UNDECIDED),  # batch 64 may still decide for bn
        ([0.05, -0.05, 0.0], UNDECIDED),
    ],
)
def test_a_smaller_gap_at_one_batch_size_is_enough(
    eight: Sequence[float], expected: Verdict, tmp_path: Path
) -> None:
    sizes = {8: eight, 64: [0.01, -0.01, 0.0]}
    study = alike_in_training(in_study(*gaps(sizes, ["none", "standard"])))
    assert verdict_of_study("bn-regularizes", "regularizes", study, tmp_path) == expected


def alike_in_training(study: Study) -> Study:
    """The study with the same train accuracy in all runs, so that test accuracies alone differ."""
    return replace(study, metrics=study.metrics.assign(train_accuracy=0.6))


def test_gaps_wait_for_both_batch_sizes_and_both_augmentations(tmp_path: Path) -> None:
    runs = gaps({8: [0.05, 0.051, 0.049]}, ["none", "standard"])
    assert verdict("bn-regularizes", "regularizes", runs, tmp_path) == UNMEASURED


OF_GROUPS = ("gn-groups-4", "gn-groups-32-64", "gn-groups-16-32")


def of_groups(reached: dict[int, float], spread: float = 0.001) -> Study:
    """gn at numbers of groups, four seeds each, with a smallest difference of 2 points."""
    runs = []
    for number, value in reached.items():
        for seed in range(4):
            # Not the same in all numbers of groups, or differences would have no spread.
            noise = spread * ((seed * number) % 11 - 5)
            settings = {"norm.num_groups": number}
            runs.append(one_run("gn", seed=seed, reached=value + noise, **settings))
    design = read_design({"name": "groups", "smallest_difference": 2})
    return replace(in_study(*runs), design=design)


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        ({1: 0.3, 4: 0.4, 16: 0.5, 32: 0.6, 64: 0.5}, (REFUTED, SUPPORTED, SUPPORTED)),
        ({1: 0.7, 4: 0.6, 16: 0.5, 32: 0.5, 64: 0.4}, (SUPPORTED, REFUTED, REFUTED)),
        ({1: 0.3, 4: 0.4, 16: 0.5, 32: 0.5, 64: 0.6}, (REFUTED, SUPPORTED, REFUTED)),
        ({1: 0.3, 4: 0.5, 16: 0.5, 32: 0.5, 64: 0.5}, (REFUTED, REFUTED, REFUTED)),
        ({4: 0.5, 16: 0.5, 32: 0.6}, (REFUTED, SUPPORTED, UNMEASURED)),
    ],
)
def test_a_source_is_right_where_a_number_of_its_groups_is_ahead_of_all_others(
    reached: dict[int, float], expected: tuple[Verdict, ...], tmp_path: Path
) -> None:
    study = of_groups(reached)
    for claim, verdict in zip(OF_GROUPS, expected, strict=True):
        assert verdict_of_study(claim, "groups", study, tmp_path) == verdict, claim


def test_groups_that_scatter_are_undecided(tmp_path: Path) -> None:
    study = of_groups({4: 0.5, 16: 0.52, 32: 0.5, 64: 0.5}, spread=0.03)
    for claim in OF_GROUPS:
        assert verdict_of_study(claim, "groups", study, tmp_path) == UNDECIDED


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ({16: 0.03, 8: 0.05}, SUPPORTED),
        ({16: 0.001, 8: 0.05}, REFUTED),
        ({16: 0.03}, UNMEASURED),
    ],
)
def test_32_images_are_wanted_only_where_16_and_8_are_a_point_behind(
    behind: dict[int, float], expected: Verdict, tmp_path: Path
) -> None:
    runs = []
    sizes = {2: 0.2, 4: 0.1, 32: 0.0} | behind
    for size, less in sizes.items():
        for seed in SEEDS:
            noise = 0.001 * ((seed + size) % 3)
            runs.append(one_run("bn", size, seed, 0.8 - less + noise))
    assert verdict("batch-32", "published", runs, tmp_path) == expected


def test_a_report_has_the_claims_that_its_study_decides(tmp_path: Path) -> None:
    reached = {4: 0.5, 16: 0.6, 32: 0.5, 64: 0.4}
    parts = claim_parts(of_groups(reached))
    assert [part.verdict for part in parts] == [REFUTED, REFUTED, SUPPORTED]
    page = write_report(of_groups(reached), tmp_path, claims=parts).read_text()
    assert all(f"{part.verdict}: {part.claim}" in page for part in parts)
    assert claim_parts(replace(of_groups(reached), design=None)) == []
