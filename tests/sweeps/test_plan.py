"""The plan of a sweep: runs, their states on disk, and refusals, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import hydra
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.launchers import tiny_sweep
from kit.tiny import tiny

import normbench.config.compose
from normbench.config.schema import RunConfig
from normbench.data import sources
from normbench.errors import NormbenchError
from normbench.sweeps.estimate import Estimator
from normbench.sweeps.plan import Plan, make_plan
from normbench.sweeps.sweep import Axis, Exclusion, Sweep
from normbench.training import resolve as resolve_module
from normbench.training.resolve import Resolver

AXES = {
    "norm": ["bn", "ln", "gn"],
    "seed": ["0", "1"],
    "optim.lr": ["1e-3", "0.1"],
    "norm.eps": ["1e-3", "1e-5"],
}
ON_A_PIXEL = "model.widths=[8,8,8,8,8,8]"  # a 1x1 map before the last norm
LeaveRun = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_ids(plan: Plan) -> list[str]:
    return [run.config.run_id for run in plan.runs]


def states(plan: Plan) -> list[str]:
    return [run.state for run in plan.runs]


def lines(plan: Plan, *, jobs: int = 1, **options: bool) -> list[str]:
    return list(plan.describe(plan.open(**options), Estimator(), jobs))


# Laws


def test_planning_twice_gives_the_same_plan_and_writes_nothing(tmp_path: Path) -> None:
    sweep = tiny_sweep("norm=bn,gn", "seed=0,1")
    assert make_plan(sweep) == make_plan(sweep)
    resolver = Resolver()
    assert make_plan(sweep, resolver=resolver) == make_plan(sweep, resolver=resolver)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_is_in_the_order_of_the_axes_and_a_plan_of_its_configs_is_the_same() -> None:
    configs = [run.config for run in make_plan(tiny_sweep("norm=gn,bn", "seed=1,0")).runs]
    order = [(config.norm.name, config.seed) for config in configs]
    assert order == [("gn", 1), ("gn", 0), ("bn", 1), ("bn", 0)]
    assert [Resolver().resolve(config)[0] for config in configs] == configs


@given(st.permutations(list(AXES)), st.data())
@settings(max_examples=8)
def test_no_order_of_axes_or_values_changes_the_set_of_runs(
    keys: Sequence[str], data: st.DataObject
) -> None:
    overrides = [f"{key}={','.join(data.draw(st.permutations(AXES[key])))}" for key in keys]
    shuffled = make_plan(tiny_sweep(*data.draw(st.permutations([*overrides, "batch_size=8"]))))
    plan = make_plan(
        tiny_sweep("batch_size=8", *(f"{key}={','.join(values)}" for key, values in AXES.items()))
    )
    assert len(run_ids(plan)) == len(set(run_ids(plan))) == 24
    assert set(run_ids(shuffled)) == set(run_ids(plan))


def test_a_run_has_the_id_that_train_gives_it(normbench: Run) -> None:
    axes = {"norm": ["gn", "in"], "norm.eps": ["1", "1.5"], "optim.lr": ["0.12345678901234", "0.1"]}
    plan = make_plan(
        tiny_sweep("data.mean=[0,0,0]", *(f"{key}={','.join(axes[key])}" for key in axes))
    )
    trained = []
    for norm, eps, lr in product(*axes.values()):
        given = tiny(f"norm.eps={eps}", "data.mean=[0,0,0]")
        _, out, _ = normbench("train", "--dry-run", f"--norm={norm}", f"--lr={lr}", *given)
        trained.append(out.split()[-1])
    assert run_ids(plan) == trained


def test_settings_on_top_of_a_study_are_taken_as_they_are(tmp_path: Path) -> None:
    (run,) = make_plan(tiny_sweep("seed=0"), {"system.runs_dir": str(tmp_path / "a b,c")}).runs
    assert run.config.run_path.parent == tmp_path / "a b,c"
    assert run.config.run_id == make_plan(tiny_sweep("seed=0")).runs[0].config.run_id


def test_combinations_that_come_to_the_same_run_are_counted_and_left_out() -> None:
    plan = make_plan(tiny_sweep("optim.lr=1,1.0,2", "seed=0,1"))
    assert (len(plan.runs), plan.duplicates) == (4, 2)
    assert "  2 combinations left out that would repeat a run" in lines(plan)
    assert run_ids(plan) == run_ids(make_plan(tiny_sweep("optim.lr=1,2", "seed=0,1")))


def test_the_number_of_steps_is_that_of_the_training() -> None:
    (plain, short) = make_plan(tiny_sweep("train.max_steps=null,5")).runs
    assert (plain.num_steps, short.num_steps) == (14, 5)  # 7 batches of 16 in 100 images, twice
    assert make_plan(tiny_sweep("train.accumulate=2")).runs[0].num_steps == 8


# Refusals


def test_a_refused_cell_says_why_and_does_not_stop_the_others() -> None:
    plan = make_plan(tiny_sweep(ON_A_PIXEL, "norm=bn,ln,in,gn", "batch_size=1,4"))
    reasons = {(run.config.norm.name, run.config.batch_size): run.reason for run in plan.runs}
    refused = [cell for cell, reason in reasons.items() if reason is not None]
    assert refused == [("bn", 1), ("in", 1), ("in", 4)]
    assert "norm bn cannot train normresnet at batch 1: " in str(reasons["bn", 1])
    assert "a 1x1 map" in str(reasons["in", 4])
    assert [config.norm.name for config in plan.open()] == ["bn", "ln", "ln", "gn", "gn"]


def test_groups_that_do_not_divide_are_refused() -> None:
    plan = make_plan(tiny_sweep("norm=gn", "norm.num_groups=2,3,4,5"))
    assert states(plan) == ["new", "refused", "new", "refused"]
    assert "num_groups=3 does not divide 4 channels" in str(plan.runs[1].reason)


def test_a_short_last_batch_that_a_norm_cannot_take_is_refused() -> None:
    plan = make_plan(tiny_sweep(ON_A_PIXEL, "norm=bn", "batch_size=9,10"))
    assert states(plan) == ["refused", "new"]  # 100 = 11 * 9 + 1
    assert "at batch 1:" in str(plan.runs[0].reason)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nrom=bn,gn"], "unknown key 'nrom': did you mean 'norm'?"),
        (["norm=gn,bn", "norm.num_groups=2,4"], "unknown key of norm bn 'norm.num_groups'"),
        (["norm=gn", "norm.num_groups=4,x"], "norm.num_groups: should be a valid integer, not 'x'"),
        (["data.limit_train=50,101"], "data.limit_train=101: there are 100 train images"),
    ],
)
def test_misspelled_input_is_an_error_and_not_a_refused_cell(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(NormbenchError) as caught:
        make_plan(tiny_sweep(*overrides))
    assert str(caught.value).startswith(message)
    assert "use sweep for that" not in str(caught.value)


def test_a_plan_of_which_nothing_can_run_is_an_error() -> None:
    with pytest.raises(
        NormbenchError,
        match=r"^nothing to run: norm gn cannot train .*num_groups=3 does not divide",
    ):
        make_plan(tiny_sweep("norm=gn", "norm.num_groups=3,5"))
    everything = Exclusion({"norm": ["bn"]}, "known")
    sweep = Sweep("s", (Axis(("norm",), (("bn",),)),), {}, (everything,))
    with pytest.raises(NormbenchError, match=r"^nothing to run: the study leaves out every"):
        make_plan(sweep)


def test_what_a_study_excludes_is_counted_with_its_reason_and_never_looked_at() -> None:
    exclusion = Exclusion({"batch_size": [1, -1]}, "known to collapse")
    sweep = replace(tiny_sweep("norm=bn,gn", "batch_size=1,8,-1"), exclusions=(exclusion,))
    plan = make_plan(sweep)
    assert (len(plan.runs), plan.excluded) == (2, {"known to collapse": 4})
    assert "  left out by the study: 4 combinations: known to collapse" in lines(plan)


# How runs stand


@pytest.fixture
def config() -> RunConfig:
    return make_plan(tiny_sweep("norm=gn")).runs[0].config


@pytest.fixture
def one_of_each(leave_run: LeaveRun) -> Iterator[Plan]:
    """A plan with a run in each state; `interrupted` has a checkpoint."""
    names = ["new", "done", "diverged", "failed", "interrupted", "killed", "running", "damaged"]
    sweep = tiny_sweep("norm=gn", f"seed=range(0,{len(names)})", "norm.num_groups=4,3")
    configs = [run.config for run in make_plan(sweep).runs[::2]]  # with 4 groups
    by_state = dict(zip(names, configs, strict=True))
    for state in ("done", "diverged", "failed", "interrupted"):
        leave_run(by_state[state], state, "a reason")
    (by_state["interrupted"].run_path / "checkpoint.pt").touch()
    leave_run(by_state["killed"], "running")
    (leave_run(by_state["damaged"]) / "status.json").write_text("{")
    with FileLock(leave_run(by_state["running"], "running") / ".lock"):
        plan = make_plan(sweep)
        plan = replace(plan, runs=(*plan.runs[::2], plan.runs[1]))
        assert states(plan) == [*names, "refused"]
        yield plan


OPEN = {"new", "interrupted", "killed"}
RESTARTED = {*OPEN, "failed", "done", "diverged", "damaged"}


@pytest.mark.parametrize(
    ("options", "opened"),
    [
        ({}, OPEN),
        ({"retry_failed": True}, {*OPEN, "failed"}),
        ({"restart": True}, RESTARTED),
        ({"retry_failed": True, "restart": True}, RESTARTED),
    ],
)
def test_what_is_over_or_held_or_refused_is_not_open(
    one_of_each: Plan, options: dict[str, bool], opened: set[str]
) -> None:
    standing = {run.config.run_id: run.state for run in one_of_each.runs}
    found = [standing[config.run_id] for config in one_of_each.open(**options)]
    assert sorted(found) == sorted(opened)


def test_the_plan_in_words_counts_every_run_once(one_of_each: Plan) -> None:
    first, *others = lines(one_of_each)
    assert first == (
        "tiny: 9 runs: 1 done, 1 diverged, 1 failed, 1 damaged, 1 running elsewhere, "
        "1 resumable, 2 to do, 1 refused"
    )
    assert others == [
        "  refused: norm gn cannot train normresnet at batch 16: "
        "num_groups=3 does not divide 4 channels",
        "  failed runs are left as they are; --retry-failed goes on with them",
        "  time: about 24 s for 3 runs",  # 2 epochs of 4 s each, as the finished run
    ]
    assert not any("--retry-failed" in line for line in lines(one_of_each, retry_failed=True))


def test_a_plan_without_anything_to_do_says_what_is_done_and_no_time(
    config: RunConfig, leave_run: LeaveRun
) -> None:
    assert lines(make_plan(tiny_sweep("norm=gn"))) == [
        "tiny: 1 run: 0 done, 1 to do",
        "  time: not known yet, no run of these kinds has finished or was timed",
    ]
    leave_run(config)
    assert lines(make_plan(tiny_sweep("norm=gn"))) == ["tiny: 1 run: 1 done, 0 to do"]


def test_the_time_is_shared_among_jobs_and_says_which_kinds_it_leaves_out(
    config: RunConfig, leave_run: LeaveRun
) -> None:
    leave_run(config, train_seconds=59.0)
    plan = make_plan(tiny_sweep("norm=gn,ln", "seed=0,1,2"))
    assert lines(plan, jobs=2)[-1] == (
        "  time: about 2 min for 2 runs, 2 at a time, "
        "and 3 runs of kinds of which none has finished or was timed"
    )


# The cost of planning


@pytest.mark.usefixtures("cache_dir")
def test_a_thousand_runs_compose_each_file_once_and_ask_each_source_and_model_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    composed = Mock(side_effect=hydra.compose)
    built = Mock(side_effect=sources.build)
    probed = Mock(side_effect=resolve_module.norm_sites)
    monkeypatch.setattr(hydra, "compose", composed)
    monkeypatch.setattr(sources, "build", built)
    monkeypatch.setattr(resolve_module, "norm_sites", probed)
    normbench.config.compose._kept.cache_clear()
    axes = [
        "norm=bn,gn",
        "optim=adam,sgd",
        "data.num_train=100,200",
        "model.widths=[4,8],[8,4]",
        "seed=range(0,63)",
    ]
    plan = make_plan(tiny_sweep(*axes))
    assert len(plan.runs) == 1008
    # train, two norms, two optimizers, and the data of tiny runs.
    assert [mock.call_count for mock in (composed, built, probed)] == [6, 2, 2]
