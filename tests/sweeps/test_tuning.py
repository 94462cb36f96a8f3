"""Learning rates from another study: its held-out scores decide, its seeds are not used again."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from kit.runs import in_study, one_run, write_runs

from normbench.analysis.design import Design, Rate
from normbench.analysis.loading import load_study
from normbench.analysis.study_files import write_study
from normbench.errors import NormbenchError
from normbench.sweeps import tuning as tuning_module
from normbench.sweeps.sweep import Axis, Sweep
from normbench.sweeps.tuning import tuned

RATES = (0.0003, 0.001, 0.003)


def sweep(seed: int = 0, **more: float) -> Sweep:
    """bn and gn at batch sizes 8 and 64, tuned by `tuning`."""
    axes = (Axis(("norm",), (("bn",), ("gn",))), Axis(("batch_size",), ((8,), (64,))))
    fixed = {"seed": seed} | more
    return Sweep("s", axes, fixed, design=Design(name="s", tuned_by="tuning"))


@pytest.fixture
def tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """bn and gn at 64, bn alone at 8, at three rates each, with seed 7 and held-out images."""
    of_tuning = (*sweep().axes, Axis(("optim.lr",), tuple((rate,) for rate in RATES)))
    monkeypatch.setattr(tuning_module, "load_sweep", lambda name: Sweep(name, of_tuning))
    both = write_runs(tmp_path / "both", ("bn", "gn"), (64,), (7,), RATES, held_out=True)
    bn = write_runs(tmp_path / "bn", ("bn",), (8,), (7,), RATES, held_out=True)
    folder = tmp_path / "results" / "tuning"
    write_study(load_study([both, bn]), folder)
    return folder


def test_a_rate_is_the_one_with_the_best_score_on_held_out_images(tuning: Path) -> None:
    runs = load_study([tuning]).runs
    found = tuned(sweep(), tuning)
    for settings, left_out in found.points():
        norm, batch_size = settings["norm"], settings["batch_size"]
        of_cell = runs[(runs["norm"] == norm) & (runs["batch_size"] == batch_size)]
        if of_cell.empty:
            assert left_out == "tuning has chosen no learning rate yet for gn at this batch size"
        else:
            assert left_out is None
            best = of_cell.loc[of_cell["val_accuracy"].idxmax(), "lr"]
            assert settings["optim.lr"] == best
            rate = found.rate_of(settings)
            assert rate is not None
            assert rate.is_edge == (best != 0.001)


def test_half_a_grid_chooses_nothing(tuning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {(rate.norm, rate.batch_size) for rate in tuned(sweep(), tuning).design.rates} == {
        ("bn", 64),
        ("gn", 64),
        ("bn", 8),
    }
    longer = (*sweep().axes, Axis(("optim.lr",), ((0.1,), *((rate,) for rate in RATES))))
    monkeypatch.setattr(tuning_module, "load_sweep", lambda name: Sweep(name, longer))
    assert tuned(sweep(), tuning).design.rates == ()


def test_only_rates_of_the_sweep_s_own_norms_and_batch_sizes_are_kept(tuning: Path) -> None:
    smaller = sweep().with_overrides(["norm=gn"])
    assert {(rate.norm, rate.batch_size) for rate in tuned(smaller, tuning).design.rates} == {
        ("gn", 64)
    }


POSITION = "model.norm_position"


def test_a_rate_is_chosen_for_each_setting_that_both_studies_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pre-norm's best rate is none for post-norm."""
    best = {"pre": 0.003, "post": 0.0003}
    runs = []
    for position, rate in product(best, RATES):
        held_out = 0.5 + 0.1 * (rate == best[position])
        settings = {POSITION: position}
        runs.append(one_run("bn", 8, 7, lr=rate, held_out=held_out, **settings))
    write_study(in_study(*runs), tmp_path / "tuning")
    axes = (*sweep().axes, Axis((POSITION,), (("pre",), ("post",))))
    planned = Sweep("tuning", (*axes, Axis(("optim.lr",), tuple((rate,) for rate in RATES))))
    monkeypatch.setattr(tuning_module, "load_sweep", lambda name: planned)
    found = tuned(replace(sweep(), axes=axes), tmp_path / "tuning")
    chosen = {}
    for settings, left_out in found.points():
        if left_out is None:
            assert (settings["norm"], settings["batch_size"]) == ("bn", 8)
            chosen[settings[POSITION]] = settings["optim.lr"]
    assert chosen == best
    assert [point["optim.lr"] for point, _ in found.points() if "optim.lr" in point] == [
        *best.values()
    ]
    # Half a grid chooses nothing, where the other setting has all of it.
    write_study(in_study(*runs[:-1]), tmp_path / "half")
    found = tuned(replace(sweep(), axes=axes), tmp_path / "half")
    assert [rate.at for rate in found.design.rates] == [{POSITION: "pre"}]
    # A sweep that does not vary the setting takes neither.
    assert tuned(sweep(), tmp_path / "tuning").design.rates == ()


def test_the_folder_is_found_by_the_name_of_the_study(
    tuning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tuning.parent.parent)
    assert tuned(sweep()) == tuned(sweep(), tuning)
    with pytest.raises(NormbenchError, match="no nowhere: its learning rates come from there"):
        tuned(sweep(), Path("nowhere"))


def test_a_seed_that_chose_the_rates_is_not_used_again(tuning: Path) -> None:
    with pytest.raises(NormbenchError, match="seed 7 has been used to choose the learning rates"):
        tuned(sweep(seed=7), tuning)


def test_a_sweep_that_says_its_rates_keeps_them(tuning: Path) -> None:
    found = tuned(sweep(**{"optim.lr": 0.5}), tuning)
    assert {settings["optim.lr"] for settings, _ in found.points()} == {0.5}
    assert found.design.tuned_by is None


def test_a_study_without_held_out_images_chooses_nothing(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", ("bn", "gn"), (8, 64), (7,), RATES)
    with pytest.raises(NormbenchError, match="has not tried learning rates on held-out images"):
        tuned(sweep(), runs)
    with pytest.raises(NormbenchError, match="this study does not take its rates from another"):
        tuned(Sweep("plain", ()), runs)


def test_a_rate_is_recorded_with_its_place() -> None:
    rate = Rate(norm="bn", batch_size=8, lr=0.1, is_edge=True)
    placed = rate.model_copy(update={"at": {POSITION: "pre"}})
    written = Design(name="s", rates=(rate, placed)).model_dump(mode="json")
    assert Design.model_validate(written).rates == (rate, placed)
    # Studies whose rates have no further settings keep their bytes.
    assert [set(one) - {"norm", "batch_size", "lr", "is_edge"} for one in written["rates"]] == [
        set(),
        {"at"},
    ]
