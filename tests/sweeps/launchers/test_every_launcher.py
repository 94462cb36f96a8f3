"""The contract of launchers, kept by all four.

A launcher goes through a story once: a launch with runs that succeed, diverge, fail and die; the
same runs launched again; a restart; launches asked to stop. A test is a sentence of the story.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kit.launchers import (
    Scripted,
    assert_each_started_and_ended_once,
    launched,
    modified,
    noted,
    planned,
    reason,
    states,
    times_resumed,
)

from normbench.config.schema import RunConfig
from normbench.runs.rundir import open_run
from normbench.runs.standing import standing
from normbench.runs.state import is_held, last_output
from normbench.sweeps.carry_out import prepare_data
from normbench.sweeps.launchers import Event, Launcher, launchers
from normbench.sweeps.launchers.launcher import StopAsked, Work, train

pytestmark = pytest.mark.timeout(900)

# Acts by seed: the act, the steps before the act (None: no training), and the reason to expect.
Act = tuple[str, int | None, str]
FAILURES: dict[int, Act] = {
    1: ("raises", None, "the work is broken"),
    2: ("raises", 9, "the work is broken"),
    3: ("refuses", None, "the disk is full"),
    4: ("refuses", 9, "the disk is full"),
    5: ("exits", None, "7"),
    6: ("exits", 9, "7"),
    7: ("says nothing", None, ""),
}
DEATHS: dict[int, Act] = {
    11: ("exits at once", None, "code 7: last words"),
    12: ("exits at once", 9, "code 7: last words"),
    13: ("is killed", None, "killed by SIGKILL"),
    14: ("is killed", 9, "killed by SIGKILL"),
    15: ("segfaults", None, "killed by SIGSEGV"),
    16: ("segfaults", 9, "killed by SIGSEGV"),
}
# Ray goes through all acts; the quick tier through each kind of end once.
IN_PROCESSES: dict[int, Act] = {
    seed: act for seed, act in (FAILURES | DEATHS).items() if seed in (2, 3, 5, 7, 12, 14, 15)
}
# Few tasks, since each imports torch.
IN_SLURM: dict[int, Act] = {
    2: FAILURES[2],
    3: FAILURES[3],
    7: ("says nothing", None, "ended as COMPLETED"),
    14: ("is killed", 9, "ended as FAILED"),
}
RETRIED = 2  # the seed of a run refused in the second launch, before training
KILLED = 14  # the seed of a run killed after an epoch, except inline
HELD = (20, 21, 22)  # seeds of runs held after 9 steps until stopped


@dataclass(frozen=True)
class Kind:
    """A launcher with two places (inline: one), and the acts of its runs."""

    name: str
    options: dict[str, Any]
    acts: dict[int, Act]

    @property
    def has_own_processes(self) -> bool:
        return self.name != "inline"

    def build(self, work: Work = train, *, restart: bool = False) -> Launcher:
        return launchers.build(self.name, restart, work, options=self.options)


@dataclass
class Launch:
    """A launch, and the runs at the end of the launch, by seed."""

    configs: Sequence[RunConfig]
    events: list[Event] = field(default_factory=list)
    held_at_end: list[int] = field(default_factory=list)
    states: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    outputs: dict[int, list[str]] = field(default_factory=dict)
    modified: dict[str, int] = field(default_factory=dict)

    def run(self, launcher: Launcher, should_stop: StopAsked = lambda: False) -> Launch:
        prepare_data(self.configs)
        for event in launcher.launch(self.configs, should_stop):
            self.events.append(event)
            if event.kind == "ended" and is_held(event.config.run_path):
                self.held_at_end.append(event.config.seed)
        for config in self.configs:
            self.states[config.seed] = standing(config.run_path).state
            self.reasons[config.seed] = reason(config)
            # submitit logs to the task's output.
            lines = last_output(config.run_path)
            self.outputs[config.seed] = [line for line in lines if "submitit" not in line]
        self.modified = modified(self.configs)
        return self

    def config(self, seed: int) -> RunConfig:
        return next(config for config in self.configs if config.seed == seed)


def _group(name: str) -> list[pytest.MarkDecorator]:
    """Keeps the tests of a launcher in one worker: the story is told once."""
    slow = [pytest.mark.slow] if name in ("ray", "slurm") else []
    return [pytest.mark.xdist_group(name), *slow]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=_group(name)) for name in ("inline", "processes", "ray", "slurm")
    ],
)
def kind(request: pytest.FixtureRequest) -> Kind:
    match request.param:
        case "inline":
            return Kind("inline", {}, FAILURES)
        case "processes":
            return Kind("processes", {"jobs": 2}, IN_PROCESSES)
        case "ray":
            nodes = request.getfixturevalue("ray_nodes")
            return Kind("ray", {"address": nodes.address}, FAILURES | DEATHS)
        case _:
            request.getfixturevalue("slurm_node")
            return Kind("slurm", {"partition": "cpu", "jobs": 2}, IN_SLURM)


@pytest.fixture(scope="module")
def notes(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(kind.name)


@pytest.fixture(scope="module")
def first(kind: Kind, notes: Path) -> Launch:
    """Seed 0 succeeds, seed 100 diverges, and the rest act by seed."""
    seeds = ",".join(map(str, [0, *kind.acts]))
    diverging = planned(notes / "runs", "norm=none", "optim.lr=1e30", "seed=100")
    script = {seed: (act, steps) for seed, (act, steps, _) in kind.acts.items()}
    configs = [*planned(notes / "runs", f"seed={seeds}"), *diverging]
    return Launch(configs).run(kind.build(Scripted(str(notes), script)))


@pytest.fixture(scope="module")
def again(kind: Kind, notes: Path, first: Launch) -> Launch:
    """The same runs with good work, except for a refusal of seed RETRIED."""
    work = Scripted(str(notes), {RETRIED: ("refuses", None)})
    return Launch(first.configs).run(kind.build(work))


@pytest.fixture(scope="module")
def restarted(kind: Kind, again: Launch) -> Launch:
    """A run done at once and a run done after a failure, both from the beginning."""
    configs = [again.config(0), again.config(KILLED if kind.has_own_processes else 6)]
    return Launch(configs).run(kind.build(restart=True))


@pytest.fixture(scope="module")
def stopped(kind: Kind, notes: Path) -> Launch:
    """Asked to stop when both places hold a run, or inline when a run is done."""
    configs = planned(notes / "runs", f"seed={','.join(map(str, HELD))}")
    if not kind.has_own_processes:
        return Launch(configs).run(kind.build(), lambda: "done" in states(configs))
    work = Scripted(str(notes), dict.fromkeys(HELD, ("holds", 9)))
    return Launch(configs).run(kind.build(work), lambda: len(noted(notes, "held")) == 2)


def of_own_processes(kind: Kind) -> None:
    # A run in this process cannot be killed or lost without this process.
    if not kind.has_own_processes:
        pytest.skip("runs in this process")


# The first launch


def test_every_run_starts_once_then_ends_once_and_is_tried_once(first: Launch, notes: Path) -> None:
    assert_each_started_and_ended_once(first.events, first.configs)
    tries = Counter(noted(notes, "tries"))
    assert set(tries) == {config.run_id for config in first.configs}


def test_a_run_that_has_ended_is_not_locked_when_its_event_comes(first: Launch) -> None:
    assert first.held_at_end == []


def test_work_that_fails_or_dies_is_a_failed_run_with_its_reason_and_the_others_go_on(
    kind: Kind, first: Launch
) -> None:
    assert first.states[0] == "done"
    for seed, (act, steps, told) in kind.acts.items():
        assert first.states[seed] == "failed", (act, steps)
        assert told in first.reasons[seed], (act, steps)
        assert "\n" not in first.reasons[seed]
        assert (first.config(seed).run_path / "config.yaml").exists()


def test_a_loss_that_is_not_finite_is_a_diverged_run(first: Launch) -> None:
    assert first.states[100] == "diverged"
    assert "the loss of step" in first.reasons[100]


def test_a_run_that_goes_well_prints_its_epochs_and_no_warning(kind: Kind, first: Launch) -> None:
    of_own_processes(kind)
    assert [line[:9] for line in first.outputs[0]] == ["epoch 1/2", "epoch 2/2"]


def test_what_a_failed_run_has_printed_is_kept(kind: Kind, first: Launch) -> None:
    of_own_processes(kind)
    assert first.outputs[KILLED][0].startswith("epoch 1/2")
    assert "RuntimeError: the work is broken" in first.outputs[2]


# Launched again


def test_what_is_over_is_left_alone(first: Launch, again: Launch) -> None:
    assert_each_started_and_ended_once(again.events, again.configs)
    over = [again.config(seed).run_id for seed in (0, 100)]
    for file, written in first.modified.items():
        if file.startswith(tuple(over)):
            assert again.modified[file] == written, file


def test_a_failed_run_goes_on_from_its_checkpoint_to_the_same_numbers(
    kind: Kind, again: Launch, assert_as_alone: Callable[..., None]
) -> None:
    retried = [seed for seed in kind.acts if seed != RETRIED]
    configs = [again.config(seed) for seed in retried]
    assert [again.states[seed] for seed in retried] == ["done"] * len(retried)
    expected = [int(kind.acts[seed][1] is not None) for seed in retried]
    assert times_resumed(configs) == expected
    assert_as_alone([again.config(0), *configs])


def test_a_retry_that_fails_before_it_begins_is_failed_for_its_own_reason(again: Launch) -> None:
    assert again.states[RETRIED] == "failed"
    assert "the disk is full" in again.reasons[RETRIED]


def test_a_run_that_goes_on_adds_to_its_output(kind: Kind, again: Launch) -> None:
    of_own_processes(kind)
    told = [line[:9] for line in again.outputs[KILLED]]
    assert told == ["epoch 1/2", "going on ", "epoch 2/2"]


# From the beginning


def test_restart_trains_again_to_the_same_numbers(
    again: Launch, restarted: Launch, assert_as_alone: Callable[..., None]
) -> None:
    assert_each_started_and_ended_once(restarted.events, restarted.configs)
    for config in restarted.configs:
        file = f"{config.run_id}/checkpoint.pt"
        assert restarted.modified[file] > again.modified[file]
    assert times_resumed(restarted.configs) == [0, 0]
    assert_as_alone(restarted.configs)


def test_a_run_that_begins_anew_begins_its_output_anew(kind: Kind, restarted: Launch) -> None:
    of_own_processes(kind)
    for lines in restarted.outputs.values():
        assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]


# Asked to stop


def test_asked_to_stop_before_it_begins_it_starts_nothing(kind: Kind, tmp_path: Path) -> None:
    configs = planned(tmp_path / "runs", "seed=0,1")
    assert launched(kind.build(), configs, lambda: True) == []
    assert states(configs) == ["new"] * 2


def test_asked_to_stop_it_starts_no_more_and_the_rest_goes_on_to_the_same_numbers(
    kind: Kind, stopped: Launch, assert_as_alone: Callable[..., None]
) -> None:
    started = [event.config for event in stopped.events if event.kind == "started"]
    assert_each_started_and_ended_once(stopped.events, started)
    resumed = 0
    if kind.has_own_processes:
        assert list(stopped.states.values()) == ["interrupted", "interrupted", "new"]
        assert stopped.reasons[HELD[0]].startswith("stopped after step")
        resumed = 1
    else:
        assert list(stopped.states.values()) == ["done", "new", "new"]
    launched(kind.build(), stopped.configs)
    assert times_resumed(stopped.configs) == [resumed, resumed, 0]
    assert_as_alone(stopped.configs)


def test_a_run_stopped_while_it_starts_has_not_failed(kind: Kind, tmp_path: Path) -> None:
    of_own_processes(kind)
    configs = planned(tmp_path / "runs", "seed=0", "epochs=1")
    starting = kind.build(Scripted(str(tmp_path), {0: ("sleeps", None)}))
    events = launched(starting, configs, lambda: bool(noted(tmp_path, "starting")))
    assert_each_started_and_ended_once(events, configs)
    assert states(configs)[0] in ("new", "interrupted", "killed")
    launched(kind.build(), configs)
    assert states(configs) == ["done"]


# Beside another process


def test_a_run_that_another_process_trains_has_not_failed(kind: Kind, tmp_path: Path) -> None:
    configs = planned(tmp_path / "runs", "seed=0")
    work = Scripted(str(tmp_path), {0: ("refuses", None)})  # as a lock in other hands does
    with open_run(configs[0].run_path) as run:
        run.begin(configs[0].to_yaml(), {})
        events = launched(kind.build(work), configs)
        assert [(event.kind, event.trouble) for event in events] == [
            ("started", None),
            ("ended", None),
        ]
        assert states(configs) == ["running"]
