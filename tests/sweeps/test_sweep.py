"""Sweeps: axes, joint axes, exclusions and fixed settings, from YAML and from the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from normbench.analysis.design import Rate
from normbench.config.compose import config_dir, from_settings
from normbench.errors import NormbenchError
from normbench.sweeps import sweep as sweep_module
from normbench.sweeps.sweep import Axis, Exclusion, Sweep, load_sweep

STUDIES = sorted(path.stem for path in (config_dir() / "sweep").glob("*.yaml"))
SLOW = {"zoo"}  # composes every norm


def axis(key: str, *values: Any) -> Axis:
    return Axis((key,), tuple((value,) for value in values))


def settings(sweep: Sweep) -> list[dict[str, Any]]:
    return [point for point, excluded in sweep.points() if excluded is None]


def with_any_rate(sweep: Sweep) -> Sweep:
    """The sweep, with a learning rate for each norm and batch size if another study chooses it."""
    if sweep.design.tuned_by is None:
        return sweep
    rates = []
    for point, _ in sweep.points():
        place = {"norm": point["norm"], "batch_size": point["batch_size"]}
        rates.append(Rate(**place, lr=0.001, is_edge=False))
    return replace(sweep, design=sweep.design.model_copy(update={"rates": tuple(rates)}))


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Sweep:
    """Reads the sweep from `text`, in a separate configs folder."""
    (folder / "sweep").mkdir()
    (folder / "sweep" / "own.yaml").write_text(text)
    monkeypatch.setattr(sweep_module, "config_dir", lambda: folder)
    return load_sweep("own")


def test_the_points_are_the_product_of_the_axes_in_their_order() -> None:
    sweep = Sweep("s", (axis("norm", "bn", "gn"), axis("seed", 0, 1)), {"epochs": 2})
    points = [(p["norm"], p["seed"], p["epochs"]) for p in settings(sweep)]
    assert points == [("bn", 0, 2), ("bn", 1, 2), ("gn", 0, 2), ("gn", 1, 2)]


def test_an_override_replaces_an_axis_or_a_fixed_setting_and_adds_axes_at_the_end() -> None:
    sweep = Sweep("s", (axis("norm", "bn", "gn"), axis("seed", 0, 1)), {"epochs": 2})
    changed = sweep.with_overrides(["seed=5,6", "epochs=1", "batch_size=8,16", "norm=ln"])
    points = [(p["seed"], p["batch_size"]) for p in settings(changed)]
    assert points == [(5, 8), (5, 16), (6, 8), (6, 16)]
    assert all((p["norm"], p["epochs"]) == ("ln", 1) for p in settings(changed))


def test_the_keys_of_a_joint_axis_vary_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "axes:\n  norm, norm.num_groups: [[gn, 4], [gn, 32]]\n  seed: range(0,2)\n"
    sweep = written(tmp_path, monkeypatch, text)
    points = [(p["norm.num_groups"], p["seed"]) for p in settings(sweep)]
    assert points == [(4, 0), (4, 1), (32, 0), (32, 1)]


def test_a_joint_axis_is_overridden_whole_or_not_at_all() -> None:
    sweep = Sweep("s", (Axis(("norm", "norm.num_groups"), (("gn", 4), ("gn", 32))),))
    with pytest.raises(
        NormbenchError, match=r"'norm' belongs to the joint axis 'norm, norm\.num_groups'.*give all"
    ):
        sweep.with_overrides(["norm=bn"])
    assert settings(sweep.with_overrides(["norm=gn", "norm.num_groups=2,8"])) == [
        {"norm": "gn", "norm.num_groups": 2},
        {"norm": "gn", "norm.num_groups": 8},
    ]


def test_what_an_exclusion_covers_is_left_out_with_its_reason() -> None:
    exclusion = Exclusion({"norm": ["bn", "in"], "batch_size": [1]}, "known to collapse")
    sweep = Sweep("s", (axis("norm", "bn", "gn"), axis("batch_size", 1, 8)), {}, (exclusion,))
    assert [reason for _, reason in sweep.points()] == ["known to collapse", None, None, None]


def test_an_exclusion_in_yaml_names_keys_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "axes: {norm: [bn, gn]}\nexclude:\n- {when: {norm: bn}, reason: tried before}\n"
    assert settings(written(tmp_path, monkeypatch, text)) == [{"norm": "gn"}]
    (tmp_path / "sweep" / "own.yaml").write_text(text.replace("norm: bn}", "nrom: bn}"))
    with pytest.raises(NormbenchError, match="exclude: 'nrom' is no axis and not fixed"):
        load_sweep("own")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("axes: [", "not a study"),
        ("fixed: {}", "'axes'"),
        ("axes: {norm: []}", "axis 'norm' needs points of 1 value each"),
        ("axes:\n  a, b: [[1, 2], [3]]", "axis 'a, b' needs points of 2 values each"),
        ("axes: {norm: [bn]}\nfixed: {norm: gn}", "'norm' is there twice"),
        ("axes: {}\nfxed: {}", "'fxed' is none of axes, fixed, exclude"),
        ("axes: {norm: [bn]}\nexclude: [{when: {norm: bn}}]", "'reason'"),
    ],
)
def test_a_file_that_is_no_study_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    with pytest.raises(NormbenchError, match=r"own\.yaml is not a study") as error:
        written(tmp_path, monkeypatch, text)
    assert complaint in str(error.value)


def test_what_makes_no_run_another_run_cannot_be_an_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NormbenchError, match=r"'system\.threads' cannot be an axis"):
        written(tmp_path, monkeypatch, "axes: {system.threads: [1, 2]}")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in STUDIES],
)
def test_every_study_in_configs_composes_and_says_what_to_expect(name: str) -> None:
    configs = [from_settings(point) for point in settings(with_any_rate(load_sweep(name)))]
    assert len({config.fingerprint for config in configs}) == len(configs) > 0
    text = (config_dir() / "sweep" / f"{name}.yaml").read_text()
    assert all(word in text for word in ("# Command:", "# Expected:", "Cost:"))


def test_the_studies_of_the_comparison_are_there() -> None:
    assert {"table", "batch_size", "learning_rate", "groups", "demo"} <= set(STUDIES)
    points = settings(with_any_rate(load_sweep("batch_size")))
    assert {point["batch_size"] for point in points} == {1, 4, 16, 64}


def test_the_studies_compare_what_they_run() -> None:
    """Every primary comparison is of norms and settings that are among the study's runs."""
    designed = 0
    for name in STUDIES:
        sweep = with_any_rate(load_sweep(name))
        configs = [from_settings(point) for point in settings(sweep)]
        for comparison in sweep.design.comparisons():
            for norm in (comparison.first, comparison.second):
                runs = [config for config in configs if config.norm.name == norm]
                size = comparison.at.get("batch_size")
                seeds = {run.seed for run in runs if size in (None, run.batch_size)}
                assert len(seeds) >= 2, (name, comparison)
                designed += 1
    assert designed > 0


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("{norms: [gnn], against: bn, at: {batch_size: [8]}}", "no run with norm gnn"),
        ("{norms: [gn], against: bn, at: {batchsize: [8]}}", "no run with norm gn, batchsize 8"),
        ("{norms: [gn], against: bn, at: {batch_size: ['8']}}", "no run with norm gn"),
        ("{norms: [gn], against: bn, at: {batch_size: []}}", "primary.0.at.batch_size"),
        ("{norms: [gn, gn], against: bn, at: {batch_size: [8]}}", "compared twice"),
    ],
)
def test_a_comparison_that_the_study_never_makes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, told: str
) -> None:
    text = f"axes:\n  norm: [bn, gn]\n  batch_size: [8, 16]\nprimary:\n  - {family}\n"
    with pytest.raises(NormbenchError, match=told):
        written(tmp_path, monkeypatch, text)


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(NormbenchError, match="unknown study 'demmo': did you mean 'demo'"):
        load_sweep("demmo")
