"""Two norms over equal seeds: differences, verdicts, sentences."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from normbench.analysis.pairs import compare
from normbench.analysis.stats import holm, mean_interval
from normbench.errors import NormbenchError


def run(norm: str, seed: int, accuracy: float, **values: object) -> dict[str, object]:
    row: dict[str, object] = {"norm": norm, "batch_size": 64, "lr": 0.001, "seed": seed, "status": "done"}
    return row | {"test_accuracy": accuracy} | values


def runs(**accuracies: list[float]) -> pd.DataFrame:
    """One row per norm and seed."""
    return pd.DataFrame([run(norm, seed, a) for norm, values in accuracies.items() for seed, a in enumerate(values)])


def test_a_difference_is_taken_seed_by_seed() -> None:
    (found,) = compare(runs(gn=[0.70, 0.80, 0.90], bn=[0.69, 0.78, 0.87]), "gn", "bn")
    estimate = found.difference.estimate
    assert estimate.mean == pytest.approx(0.02)
    assert estimate.half_width == pytest.approx(mean_interval([0.01, 0.02, 0.03]).half_width)
    assert found.settings == {"batch_size": 64, "lr": 0.001}


def test_the_other_way_round_is_the_same_finding() -> None:
    table = runs(gn=[0.70, 0.71, 0.72], bn=[0.60, 0.612, 0.618])
    (there,), (back,) = compare(table, "gn", "bn"), compare(table, "bn", "gn")
    assert there.verdict == back.verdict == "gn"
    assert there.difference.estimate.mean == pytest.approx(-back.difference.estimate.mean)


def test_a_wide_interval_is_undecided_and_so_is_a_single_seed() -> None:
    (wide,) = compare(runs(gn=[0.70, 0.80, 0.60], bn=[0.60, 0.65, 0.75]), "gn", "bn")
    assert wide.verdict == "undecided"
    assert wide.sentence().endswith("undecided.")
    (single,) = compare(runs(gn=[0.9], bn=[0.1]), "gn", "bn")
    assert math.isnan(single.adjusted)
    assert single.verdict == "undecided"
    assert single.sentence() == "batch size 64, lr 0.001: gn - bn = +80.0 points at one seed: no interval, undecided."


def test_a_sentence_carries_interval_seeds_and_p_value() -> None:
    (found,) = compare(runs(gn=[0.70, 0.71, 0.72], bn=[0.60, 0.612, 0.618]), "gn", "bn")
    assert found.sentence() == (
        "batch size 64, lr 0.001: gn - bn = +10.0 ± 0.5 points (95 % t interval, 3 seeds, paired), "
        "p = 0.00013: gn is better."
    )


def test_p_values_are_corrected_for_all_settings_compared() -> None:
    at_64 = runs(gn=[0.70, 0.71, 0.72], bn=[0.68, 0.70, 0.695])
    table = pd.concat([at_64, at_64.assign(batch_size=8), at_64.assign(batch_size=1)])
    found = compare(table, "gn", "bn")
    assert [paired.settings["batch_size"] for paired in found] == [64, 8, 1]
    assert [paired.adjusted for paired in found] == holm([paired.difference.p_value for paired in found])
    assert found[0].adjusted == pytest.approx(3 * found[0].difference.p_value)


def test_runs_that_did_not_finish_and_seeds_that_only_one_has_do_not_count() -> None:
    table = pd.concat([runs(gn=[0.7, 0.8], bn=[0.6]), pd.DataFrame([run("bn", 1, 0.99, status="diverged")])])
    (found,) = compare(table, "gn", "bn")
    assert found.difference.estimate.n == 1


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(NormbenchError, match="unknown norm 'gnn': did you mean 'gn'"):
        compare(runs(gn=[0.7], bn=[0.6]), "gnn", "bn")
    with pytest.raises(NormbenchError, match="no finished runs of the same seed and settings"):
        compare(pd.DataFrame([run("gn", 0, 0.7), run("bn", 1, 0.7)]), "gn", "bn")
    with pytest.raises(NormbenchError, match="several runs of gn have the same seed"):
        compare(pd.DataFrame([run("gn", 0, 0.7), run("gn", 0, 0.8), run("bn", 0, 0.7)]), "gn", "bn")
