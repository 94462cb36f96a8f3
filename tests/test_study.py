"""Studies: axes become runs, runs become tables and a figure."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from normbench import study as study_module
from normbench.analysis.frames import read_frames
from normbench.compose import config_dir
from normbench.errors import NormbenchError
from normbench.study import Study, load_study, run_study
from normbench.train.engine import Trainer

TINY = {"data": "synthetic", "data.num_train": 100, "data.num_test": 20, "model.widths": [4, 8], "batch_size": 16}


def test_the_runs_of_a_study_are_the_product_of_its_axes(tmp_path: Path) -> None:
    study = Study("s", {"norm": ["bn", "gn"], "seed": [0, 1]}, TINY)
    assert [(c.norm.name, c.seed) for c in study.configs([], tmp_path)] == [("bn", 0), ("bn", 1), ("gn", 0), ("gn", 1)]


def test_an_override_goes_over_fixed_settings_and_takes_the_place_of_an_axis(tmp_path: Path) -> None:
    study = Study("s", {"norm": ["bn", "gn"], "seed": [0, 1]}, TINY)
    configs = list(study.configs(["seed=5", "batch_size=8"], tmp_path))
    assert [(c.norm.name, c.seed, c.batch_size) for c in configs] == [("bn", 5, 8), ("gn", 5, 8)]


@pytest.mark.parametrize("name", [path.stem for path in (config_dir() / "sweep").glob("*.yaml")])
def test_every_study_in_configs_composes_and_says_what_to_expect(name: str, tmp_path: Path) -> None:
    configs = list(load_study(name).configs([], tmp_path))
    assert len({config.fingerprint for config in configs}) == len(configs) > 0
    text = (config_dir() / "sweep" / f"{name}.yaml").read_text()
    assert all(word in text for word in ("# Command:", "# Expected:", "Cost:"))


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(NormbenchError, match="unknown study 'demmo': did you mean 'demo'"):
        load_study("demmo")


def test_a_file_that_is_no_study_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "odd.yaml").write_text("axes: [")
    monkeypatch.setattr(study_module, "config_dir", lambda: tmp_path)
    with pytest.raises(NormbenchError, match=r"odd\.yaml is not a study"):
        load_study("odd")


def test_a_study_writes_tidy_tables_a_comparison_and_a_figure(tmp_path: Path) -> None:
    states = run_study(Study("s", {"norm": ["bn", "gn"]}, TINY), ["epochs=2", "system.progress=none"], tmp_path)
    assert states == ["done", "done"]
    written = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert written == {
        "runs.csv",
        "metrics.csv",
        "steps.csv",
        "env.json",
        "table.md",
        "loss_curves.svg",
        "loss_curves.png",
    }
    runs, metrics = pd.read_csv(tmp_path / "runs.csv"), pd.read_csv(tmp_path / "metrics.csv")
    assert runs["norm"].tolist() == ["bn", "gn"]
    assert metrics[["norm", "epoch"]].values.tolist() == [["bn", 1], ["bn", 2], ["gn", 1], ["gn", 2]]
    assert runs["test_accuracy"].tolist() == metrics.loc[metrics["epoch"] == 2, "test_accuracy"].tolist()
    assert set(json.loads((tmp_path / "env.json").read_text())) == set(runs["run"])
    assert (tmp_path / "table.md").read_text().startswith("| norm ")


def test_runs_that_are_done_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study("s", {"norm": ["bn"]}, TINY | {"epochs": 1})
    run_study(study, ["system.progress=none"], tmp_path)
    monkeypatch.setattr(Trainer, "train_epoch", lambda *_: pytest.fail("trained again"))
    assert run_study(study, ["system.progress=none"], tmp_path) == ["done"]


def test_a_diverged_run_is_a_row_with_its_reason(tmp_path: Path) -> None:
    study = Study("s", {"norm": ["none", "bn"]}, TINY | {"epochs": 1, "optim.lr": 1e30, "train.log_every": 1})
    assert "diverged" in run_study(study, ["system.progress=none"], tmp_path)
    frames = read_frames(sorted((tmp_path / "runs").iterdir()))
    diverged = frames.runs[frames.runs["status"] == "diverged"]
    assert len(diverged) > 0
    assert diverged["reason"].str.contains("the loss of step").all()
