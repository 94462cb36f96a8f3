"""Contestants in turns: order, calls and seconds, by a clock under control of the test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normbench.timing import race as race_module
from normbench.timing.race import WARM_UP_CALLS, Timer, Work, race, timer_for

SECONDS = {"a": 0.004, "b": 0.002, "c": 0.03}
STEPS = st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-6, 10), min_size=1)


class Clock:
    """A timer with given seconds for a call of each contestant, times the turn's drift."""

    def __init__(
        self, seconds: dict[str, float], drift: Callable[[int], float] = lambda turn: 1.0
    ) -> None:
        self.seconds, self.drift = seconds, drift
        self.turns: list[tuple[str, int]] = []

    def works(self) -> dict[str, Work]:
        return {name: lambda name=name: name for name in self.seconds}

    def timer(self, work: Work, calls: int) -> float:
        name = str(work())
        self.turns.append((name, calls))
        return self.seconds[name] * self.drift(len(self.turns) - 1) * calls

    def run(self, rounds: int, least_seconds: float) -> list[dict[str, float]]:
        return list(race(self.works(), self.timer, rounds=rounds, least_seconds=least_seconds))


@given(steps=STEPS, rounds=st.integers(0, 5), least=st.floats(0, 1))
def test_all_are_called_as_often_as_the_quickest_needs_for_the_least_seconds(
    steps: dict[str, float], rounds: int, least: float
) -> None:
    clock = Clock(steps)
    found = clock.run(rounds, least)
    warm_up, quickest = clock.turns[: len(steps)], clock.turns[len(steps) : 2 * len(steps)]
    assert warm_up == [(name, WARM_UP_CALLS) for name in steps]
    assert quickest == [(name, 1) for name in steps]
    counted = clock.turns[2 * len(steps) :]
    assert [[*seconds] for seconds in found] == [[*steps]] * rounds
    assert [name for name, _ in counted] == [*steps] * rounds
    expected = max(1, math.ceil(least / min(steps.values())))
    assert {calls for _, calls in counted} <= {expected}
    assert expected * min(steps.values()) >= least
    assert all(one == pytest.approx(steps) for one in found)


def test_nothing_before_the_rounds_is_in_their_seconds() -> None:
    clock = Clock(SECONDS, lambda turn: 1000.0 if turn < 3 else 1.0)
    assert clock.run(2, least_seconds=0.0) == [pytest.approx(SECONDS)] * 2


def test_a_round_is_yielded_before_the_next_round_begins() -> None:
    clock = Clock(SECONDS)
    rounds = race(clock.works(), clock.timer, rounds=2, least_seconds=0.0)
    assert clock.turns == []
    for number in (1, 2):
        next(rounds)
        assert len(clock.turns) == 6 + 3 * number
    assert next(rounds, None) is None


# Clocks


@pytest.fixture
def seconds_pass(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Half a second by the processor's clock alone."""
    now = [100.0]
    monkeypatch.setattr(race_module.time, "perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += 0.5

    return work


def test_a_processor_is_timed_by_its_clock_over_so_many_calls(seconds_pass: Work) -> None:
    for calls in (1, 7):
        assert timer_for(torch.device("cpu"))(seconds_pass, calls) == 0.5 * calls


class Event:
    """A GPU's event, recorded among the calls, 250 ms after the event before."""

    told: list[str]
    numbers: Iterator[int]

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.name = f"event {next(self.numbers)}"

    def record(self) -> None:
        self.told.append(self.name)

    def synchronize(self) -> None:
        self.told.append(f"wait for {self.name}")

    def elapsed_time(self, end: Event) -> float:
        self.told.append(f"from {self.name} to {end.name}")
        return 250.0


def test_a_gpu_is_timed_by_events_around_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Event, "told", told, raising=False)
    monkeypatch.setattr(Event, "numbers", itertools.count(1), raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    timer: Timer = timer_for(torch.device("cuda"))
    assert timer(lambda: told.append("call"), 3) == 0.25
    calls = ["call"] * 3
    assert told == ["event 1", *calls, "event 2", "wait for event 2", "from event 1 to event 2"]
