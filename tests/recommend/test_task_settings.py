"""Of several settings of a task, a recommendation reads the runs at the defaults."""

from __future__ import annotations

from pathlib import Path

from kit.runs import STYLE, in_study, one_run

from normbench.analysis.decision_tree import load_tree
from normbench.analysis.study_files import write_study
from normbench.recommend import Question, answers
from normbench.recommend.library import own_runs
from normbench.runs.files import RunFiles

DEFAULT, OTHER = "random", "efficientnet_lite0"


def runs_under(network: str, losses: dict[str, float], **settings: float) -> list[RunFiles]:
    chosen = {"task.loss_network": network, "model.name": "style_transfer", **settings}
    runs = []
    for norm, loss in losses.items():
        for seed in range(3):
            noise = 0.001 * seed * (norm == "bn")
            runs.append(one_run(norm, 4, seed, loss + noise, task=STYLE, **chosen))
    return runs


def test_the_smaller_loss_at_the_task_s_defaults_is_recommended(tmp_path: Path) -> None:
    runs = runs_under(DEFAULT, {"bn": 0.5, "in": 0.1}) + runs_under(OTHER, {"bn": 0.1, "in": 0.5})
    write_study(in_study(*runs), tmp_path)
    library = own_runs(tmp_path)
    assert library.left_out == ()
    (found,) = answers(Question(4, "style"), library, load_tree())
    assert (found.network, found.recommended) == ("style_transfer", "in")
    assert found.outcome.behind == ("bn",)
    assert library.measured[0].parts[0].norms == ("in", "bn")


def test_without_runs_at_the_defaults_several_settings_are_left_out(tmp_path: Path) -> None:
    runs = runs_under(OTHER, {"bn": 0.5, "in": 0.1}, **{"task.style_weight": 2.0})
    runs += runs_under(OTHER, {"bn": 0.1, "in": 0.5}, **{"task.style_weight": 3.0})
    for norm in ("bn", "in"):
        runs += [one_run(norm, 8, seed, 0.1 + seed, task=STYLE) for seed in range(3)]
    write_study(in_study(*runs), tmp_path)
    (reason,) = own_runs(tmp_path).left_out
    assert reason.startswith("batch size 4 on style_transfer, measured with ")
    assert "task.style_weight=2.0" in reason
    assert "task.style_weight=3.0" in reason
