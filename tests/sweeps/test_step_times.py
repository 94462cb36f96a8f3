"""The time of runs by a few steps: measured once and kept, or that of the nearest kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kit.launchers import tiny_sweep
from kit.tiny import tiny

from normbench.config.schema import RunConfig
from normbench.sweeps import step_times
from normbench.sweeps.estimate import Estimator
from normbench.sweeps.plan import make_plan
from normbench.sweeps.step_times import FILE, Kind, StepTimes, distance, in_spread_order, whole_run
from normbench.timing.few_steps import StepTime, time_steps
from normbench.training.resolve import Resolver

SOME = StepTime(step=0.5, image=0.25, tracking=2)
LeaveRun = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_cache(
    tmp_path: Path, cache_dir: Path, no_steps_timed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(step_times, "MOST_KINDS", 60)


def configs(*settings: str) -> list[RunConfig]:
    return [run.config for run in make_plan(tiny_sweep(*settings)).runs]


def kinds(*settings: str) -> list[Kind]:
    return StepTimes(Resolver(), 1).missing(configs(*settings))


def in_turn(
    monkeypatch: pytest.MonkeyPatch, known: Sequence[StepTime] = (SOME,)
) -> list[Sequence[Kind]]:
    """Replaces the measurement: the first kinds get these times; returns what was asked for."""
    asked: list[Sequence[Kind]] = []

    def measured(wanted: Sequence[Kind], threads: int | None) -> list[tuple[str, StepTime]]:
        asked.append(wanted)
        return [(kind.cost_id, time) for kind, time in zip(wanted, known, strict=False)]

    monkeypatch.setattr(step_times, "_measured", measured)
    return asked


def test_steps_and_evaluations_of_a_kind_take_some_seconds() -> None:
    (bn,) = kinds("norm=bn")
    found = time_steps(bn.config, bn.source, 1)
    assert 0 < found.step < 5
    assert 0 < found.image < 1
    assert found.tracking == 2  # a norm for each of two widths
    (ln,) = kinds("norm=ln")
    assert time_steps(ln.config, ln.source, 1).tracking == 0


@pytest.mark.slow
def test_a_dry_run_times_what_is_not_known_tells_so_and_keeps_it(
    normbench: Run, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sweep", *tiny("norm=bn,gn", "seed=0,1"), "--dry-run"]
    _, out, err = normbench(*command, "--no-timing")
    assert ("not known yet" in out, err) == (True, "")
    code, out, err = normbench(*command)
    assert code == 0
    assert err.startswith("timing a few steps of 2 kinds of runs, at most 20 s in all")
    assert "  time: about " in out.splitlines()[-1]
    assert out.count(" each") == 2
    assert "roughly" not in out
    assert len(json.loads((cache_dir / FILE).read_text())) == 2
    asked = in_turn(monkeypatch)
    _, again, err = normbench(*command)
    assert (again, err, asked) == (out, "", [])


def test_measurements_end_after_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_times, "MOST_SECONDS", 0.0)
    times = StepTimes(Resolver(), 1)
    times.measure(times.missing(configs("norm=bn")))
    assert times.seconds(configs("norm=bn")[0]) is None


def test_a_kind_is_timed_once_whatever_its_seed_epochs_and_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = StepTimes(Resolver(), 1)
    several = configs("seed=0,1", "epochs=1,3", "data.num_train=100,200", "optim.lr=1,2")
    (kind,) = times.missing(several)
    in_turn(monkeypatch)
    times.measure([kind])
    for config in several:
        steps = config.epochs * (7 if config.data.options["num_train"] == 100 else 13)
        assert times.seconds(config) == steps * 0.5 + config.epochs * 20 * 0.25
        assert times.is_timed(config)


@pytest.mark.parametrize(
    ("setting", "seconds"),
    [
        ("seed=0", 2 * (7 * 0.5 + 20 * 0.25)),
        ("train.max_steps=3", 3 * 0.5 + 20 * 0.25),  # within the first epoch
        ("data.limit_test=10", 2 * (7 * 0.5 + 10 * 0.25)),
        ("data.val_fraction=0.2", 2 * (5 * 0.5 + 40 * 0.25)),  # 80 images, and 20 held out
        ("train.accumulate=2", 2 * (4 * 0.5 + 20 * 0.25)),
        ("train.bn_evaluations=true", 2 * (7 * 0.5 + (20 + 2 * 20 + 2 * 100) * 0.25)),
    ],
)
def test_a_run_is_its_steps_and_the_images_that_it_evaluates(setting: str, seconds: float) -> None:
    (config,) = configs(setting)
    assert whole_run(config, Resolver().source(config), SOME) == pytest.approx(seconds)


def test_a_kind_that_was_not_timed_has_the_time_of_the_nearest_image_by_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_runs = configs("norm=bn,gn", "batch_size=16,32")
    times = StepTimes(Resolver(), 1)
    missing = times.missing(all_runs)
    in_turn(monkeypatch, [SOME])
    times.measure(missing)
    bn, bn_32, gn, _ = all_runs
    assert [times.is_timed(config) for config in all_runs] == [True, False, False, False]
    assert times.seconds(gn) == times.seconds(bn)
    # Steps of twice as many images take twice as long: 4 of them instead of 7.
    assert times.seconds(bn_32) == 2 * (4 * 1.0 + 20 * 0.25)
    line = [*make_plan(tiny_sweep("norm=bn,gn")).describe([bn, gn], Estimator(times), 1)][-1]
    assert line.endswith("for 2 runs; roughly, since 1 of them are of kinds that were not timed")


def test_models_and_batch_sizes_are_timed_before_norms() -> None:
    found = kinds("norm=bn,gn,ln", "batch_size=8,16", "model.widths=[4,8],[8,8]")
    order = [(kind.config.batch_size, str(kind.config.model.options["widths"])) for kind in found]
    assert len(found) == 12
    assert len(set(order[:4])) == 4
    assert in_spread_order(found, 3) == found[:3]


def test_distance_is_that_of_what_a_step_costs() -> None:
    settings = ("norm=bn", "norm=gn", "seed=5", "batch_size=8")
    one, norm, seed, batch = (kinds(setting)[0] for setting in settings)
    large = replace(one, source=replace(one.source, image_shape=(3, 128, 128)))
    assert distance(one, one) == distance(one, seed) == 0
    assert 0 < distance(one, norm) == distance(norm, one) < distance(one, batch)
    assert distance(one, large) == distance(one, batch)


@pytest.mark.parametrize("setting", ["runtime.compile=true", "runtime.processes=2"])
def test_what_takes_longer_to_begin_is_not_timed(setting: str) -> None:
    (config,) = configs(setting)
    assert StepTimes(Resolver(), 1).missing([config]) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": {"step": 1}}', b"\xff"])
def test_a_damaged_file_of_times_is_none(
    content: bytes, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_dir.mkdir(exist_ok=True)
    (cache_dir / FILE).write_bytes(content)
    (config,) = configs("norm=bn")
    times = StepTimes(Resolver(), 1)
    in_turn(monkeypatch)
    times.measure(times.missing([config]))
    assert StepTimes(Resolver(), 1).is_timed(config)
    assert not StepTimes(Resolver(), 2).is_timed(config)  # of other threads


def test_a_finished_run_is_the_better_measure(
    leave_run: LeaveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, other = configs("norm=bn,gn")
    times = StepTimes(Resolver(), 1)
    in_turn(monkeypatch)
    times.measure(times.missing([config]))
    leave_run(config, train_seconds=99.0)
    estimator = Estimator(times)
    assert estimator.seconds(config) == 200.0
    assert estimator.unfinished([config, other]) == [other]
    assert [estimator.is_rough(one) for one in (config, other)] == [False, True]
