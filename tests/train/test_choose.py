"""auto in layout and compilation: what decides, what is measured when, and that it is measured once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from normbench.compose import compose
from normbench.config import RunConfig
from normbench.data import Source, sources
from normbench.errors import NormbenchError
from normbench.train import choose as module
from normbench.train.choose import ROUNDS, WORTH_A_TRIAL, Duel, choose
from normbench.train.resolve import Resolver, data_home, resolve

SMALL = ("data=synthetic", "data.num_train=64", "data.num_test=10", "model.widths=[4,8]", "runtime.device=cpu")


@dataclass
class Machine:
    """A pretended machine: the seconds of a step by (channels_last, compile), and what was timed on it."""

    seconds: dict[tuple[bool, bool], float]
    seconds_compiling: float = 10.0
    timed: list[tuple[bool, bool]] = field(default_factory=list)

    def trial(self, config: RunConfig, source: Source, runtime: object) -> Any:
        """Instead of a real one: its step is its name."""
        where = config.runtime
        assert isinstance(where.channels_last, bool)
        assert isinstance(where.compile, bool)
        self.timed.append((where.channels_last, where.compile))
        trainer = SimpleNamespace(runtime=SimpleNamespace(device=None))
        variant = (where.channels_last, where.compile)
        return SimpleNamespace(
            trainer=trainer, take_step=variant, seconds_compiling=where.compile * self.seconds_compiling
        )

    def race(self, works: Mapping[str, Any], timer: object, **given: Any) -> Iterator[dict[str, float]]:
        """As many rounds as asked for, all alike."""
        for _ in range(given["rounds"]):
            yield {name: self.seconds[variant] for name, variant in works.items()}


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    def use(seconds: dict[tuple[bool, bool], float], **given: Any) -> Machine:
        machine = Machine(seconds, **given)
        monkeypatch.setattr(module, "trial", machine.trial)
        monkeypatch.setattr(module, "race", machine.race)
        monkeypatch.setattr(module, "timer_for", lambda device: None)
        monkeypatch.setattr(module, "runtime_of", lambda config: nullcontext())
        return machine

    return use


def config_with(*overrides: str) -> tuple[RunConfig, Source]:
    config = compose([*SMALL, *overrides])
    return config, sources.build("synthetic", data_home(config), options={"num_train": 64, "num_test": 10})


CONTIGUOUS = {(False, False): 1.0, (True, False): 1.5, (False, True): 0.9, (True, True): 0.1}
LAST = {(False, False): 1.0, (True, False): 0.8, (False, True): 0.1, (True, True): 0.7}


@pytest.mark.parametrize(("seconds", "expected"), [(CONTIGUOUS, False), (LAST, True)])
def test_the_quicker_layout_is_chosen(seconds: Any, expected: bool, on: Any, tmp_path: Path) -> None:
    on(seconds)
    config, source = config_with("runtime.channels_last=auto")
    chosen = choose(config, source, 10, tmp_path).runtime
    assert (chosen.channels_last, chosen.compile) == (expected, False)


@pytest.mark.parametrize(
    ("num_steps", "seconds_compiling", "expected"),
    [
        (1000, 99.0, True),  # saves 100 s
        (1000, 101.0, False),
        (int(WORTH_A_TRIAL) - 1, 0.0, False),  # too short a run to try
    ],
)
def test_compiling_is_chosen_where_it_saves_more_than_it_takes(
    num_steps: int, seconds_compiling: float, expected: bool, on: Any, tmp_path: Path
) -> None:
    machine = on(CONTIGUOUS, seconds_compiling=seconds_compiling)
    config, source = config_with("runtime=fast", "runtime.precision=fp32")
    chosen = choose(config, source, num_steps, tmp_path).runtime
    assert (chosen.channels_last, chosen.compile) == (False, expected)
    assert ((False, True) in machine.timed) == (num_steps >= WORTH_A_TRIAL)


def test_compiling_is_tried_in_the_chosen_layout(on: Any, tmp_path: Path) -> None:
    machine = on(LAST)
    config, source = config_with("runtime.channels_last=auto", "runtime.compile=auto")
    chosen = choose(config, source, 10_000, tmp_path).runtime
    assert (chosen.channels_last, chosen.compile) == (True, True)
    assert (False, True) not in machine.timed, "0.1 s in the other layout would have won"


def test_the_layout_is_chosen_among_compiled_steps_where_compilation_is_set(on: Any, tmp_path: Path) -> None:
    machine = on({(False, True): 1.0, (True, True): 0.5})
    config, source = config_with("runtime.channels_last=auto", "runtime.compile=true")
    chosen = choose(config, source, 10, tmp_path).runtime
    assert (chosen.channels_last, chosen.compile) == (True, True)
    assert machine.timed == [(False, True), (True, True)]


def test_what_was_measured_is_said_and_measured_once(
    on: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = on(LAST)
    config, source = config_with("runtime=fast", "runtime.precision=fp32", "norm=gn")
    first = choose(config, source, 10_000, tmp_path)
    timed, said = len(machine.timed), capsys.readouterr().err
    assert timed == 4
    first_line, date = said.splitlines()[0].split(" (measured ")
    assert first_line == "gn at batch 64: 1000.0 ms a step, channels_last 800.0 ms: chosen"
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(date.rstrip(")")) < timedelta(hours=1)
    assert choose(config, source, 10_000, tmp_path) == first
    assert len(machine.timed) == timed
    assert capsys.readouterr().err == said, "what it rests on is said again"
    other, _ = config_with("runtime=fast", "runtime.precision=fp32", "norm=gn", "batch_size=8")
    choose(other, source, 10, tmp_path)
    assert len(machine.timed) == timed + 2, "another batch size is another question"


def test_a_broken_measurement_leaves_no_file(on: Any, tmp_path: Path) -> None:
    machine = on(LAST)
    config, source = config_with("runtime.channels_last=auto")
    machine.seconds = {}
    with pytest.raises(KeyError):
        choose(config, source, 10, tmp_path)
    assert not [*tmp_path.rglob("*.json")]
    machine.seconds = LAST
    assert choose(config, source, 10, tmp_path).runtime.channels_last is True


@pytest.mark.parametrize(("quicker", "expected"), [(ROUNDS, True), (ROUNDS - 1, True), (ROUNDS - 2, False), (0, False)])
def test_one_round_may_go_the_other_way(quicker: int, expected: bool) -> None:
    second = [0.9] * quicker + [1.1] * (ROUNDS - quicker)
    assert Duel([1.0] * ROUNDS, second, 0.0, "today").is_won_by_second == expected


def test_resolving_leaves_no_auto_and_a_second_time_changes_nothing(on: Any) -> None:
    on(LAST)
    config, _ = resolve(compose([*SMALL, "runtime=fast"]))
    assert "auto" not in yaml.safe_load(config.to_yaml())["runtime"].values()
    again, _ = resolve(config)
    assert again.run_id == config.run_id
    plain, _ = resolve(compose([*SMALL, "runtime.channels_last=true"]))
    assert plain.run_id == config.run_id, "the same run as when its layout is given"


def test_a_norm_that_cannot_work_is_not_timed(on: Any) -> None:
    machine = on(LAST)
    config, _ = Resolver().complete(compose([*SMALL, "norm=gn", "norm.num_groups=3", "runtime=fast"]))
    assert (config.runtime.channels_last, config.runtime.compile) == (False, False)
    assert not machine.timed


@pytest.mark.parametrize("name", ["channels_last", "compile"])
def test_for_another_machine_it_must_be_said(name: str) -> None:
    with pytest.raises(NormbenchError, match=f"runtime.{name}=auto: another machine is not known here; say true or"):
        Resolver("cpu").complete(compose([*SMALL, f"runtime.{name}=auto"]))


def test_a_real_choice_is_made_of_steps(tmp_path: Path) -> None:
    config, source = config_with("runtime.channels_last=auto", "batch_size=4")
    chosen = choose(config, source, 10, tmp_path)
    assert chosen.runtime.channels_last in (True, False)
    (file,) = tmp_path.rglob("*.json")
    assert len(yaml.safe_load(file.read_text())["first"]) == ROUNDS
