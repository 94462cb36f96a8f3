"""Figures side by side: each from its own column, for the norms that have them."""

from __future__ import annotations

import pytest
from kit.runs import in_study, one_run, with_figures

from normbench.analysis.outputs import outputs
from normbench.analysis.stats import mean_interval
from normbench.analysis.tables.side_by_side import (
    appearance_table,
    feature_shift_table,
    shares_table,
)
from normbench.runs.columns import appearance_columns
from normbench.runs.files import RunFiles


def changed(norm: str, seed: int, *values: float) -> RunFiles:
    figures = dict(zip(appearance_columns("accuracy"), values, strict=True))
    return with_figures(one_run(norm, 64, seed, 0.5, seconds=[1.0, 1.0]), **figures)


def measured() -> list[RunFiles]:
    return [
        *(changed("bn", seed, 0.4 + seed / 100, 0.3, 0.2, 0.1, 0.5, 1, 1.5, 2) for seed in (0, 1)),
        changed("in_affine", 0, 0.45, 0.44, 0.43, 0.42, 0.05, 0.06, 0.07, 0.08),
        one_run("gn", 64, 0, 0.6, seconds=[1.0, 1.0]),
    ]


def test_each_change_has_a_column_beside_the_unchanged() -> None:
    table = appearance_table(in_study(*measured()))
    rows = table.shown.set_index("norm")
    half = 100 * mean_interval([0.4, 0.41]).half_width
    assert rows.loc["bn"].tolist() == [
        "64",
        "50.0 ± 0.0 %",
        f"40.5 ± {half:.1f} %",
        *("30.0 ± 0.0 %", "20.0 ± 0.0 %", "10.0 ± 0.0 %"),
    ]
    assert rows.loc["in_affine", "hue"] == "42.0 %"
    assert "gn" not in rows.index, "it was not asked"
    data = table.data.set_index(["norm", "figure"])
    assert data.loc[("bn", "test_accuracy_brightness"), "value"] == pytest.approx(0.405)
    assert table.numbers["hue"].tolist() == pytest.approx([0.1, 0.42])


def test_feature_shifts_have_a_table_of_their_own() -> None:
    rows = feature_shift_table(in_study(*measured())).shown.set_index("norm")
    assert [*rows.columns] == ["batch size", "brightness", "contrast", "saturation", "hue"]
    assert rows.loc["in_affine"].tolist() == ["64", "0.050", "0.060", "0.070", "0.080"]


def test_shares_stand_by_batch_size_for_the_norms_that_learn_them() -> None:
    runs = [one_run("bn", 2, 0, 0.5, seconds=[1.0, 1.0])]
    for size, share in ((2, 0.2), (64, 0.6)):
        run = one_run("switchable", size, 0, 0.5, seconds=[1.0, 1.0])
        runs.append(with_figures(run, share_var_bn=share, share_var_in=1 - share))
    table = shares_table(in_study(*runs))
    assert table.shown.to_numpy().tolist() == [
        ["switchable", "2", "0.20", "0.80"],
        ["switchable", "64", "0.60", "0.40"],
    ]
    assert [*table.shown.columns] == ["norm", "batch size", "var bn", "var in"]


def test_a_report_has_the_tables_where_runs_have_the_figures() -> None:
    def tables(*runs: RunFiles) -> set[str]:
        return {output.name for output in outputs("table", in_study(*runs))}

    shared = with_figures(one_run("switchable", seconds=[1.0, 1.0]), share_var_bn=0.5)
    assert {"appearance", "feature-shift"} <= tables(*measured())
    assert "shares" in tables(shared)
    none = {"appearance", "feature-shift", "shares"}
    assert not none & tables(one_run("bn"), one_run("gn"))
    assert "shares" not in tables(*measured())
