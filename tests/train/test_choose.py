"""auto in layout, oneDNN and compilation: what decides, what is measured when, and that it is measured once."""

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

from normbench.config.compose import compose
from normbench.config.schema import RunConfig
from normbench.data import Source, sources
from normbench.errors import NormbenchError
from normbench.train import choose as module
from normbench.train.choose import ROUNDS, WORTH_A_TRIAL, Timing, choose
from normbench.train.resolve import Resolver, data_home, resolve

SMALL = (
    "data=synthetic",
    "data.num_train=64",
    "data.num_test=10",
    "model.widths=[4,8]",
    "runtime.device=cpu",
)

Way = tuple[bool, bool, bool]


@dataclass
class Machine:
    """A pretended machine: the seconds of a step by (channels_last, onednn, compile), and what was timed on it."""

    seconds: dict[Way, float]
    seconds_compiling: float = 10.0
    timed: list[Way] = field(default_factory=list)

    def trial(self, config: RunConfig, source: Source, runtime: object) -> Any:
        """Instead of a real one: its step is its name."""
        where = config.runtime
        assert isinstance(where.channels_last, bool)
        assert isinstance(where.onednn, bool)
        assert isinstance(where.compile, bool)
        trainer = SimpleNamespace(runtime=SimpleNamespace(device=None))
        variant = (where.channels_last, where.onednn, where.compile)
        self.timed.append(variant)
        return SimpleNamespace(
            trainer=trainer,
            take_step=variant,
            seconds_compiling=where.compile * self.seconds_compiling,
        )

    def timer(self, work: Any, calls: int) -> float:
        return calls * self.seconds[work]

    def race(
        self, works: Mapping[str, Any], timer: object, **given: Any
    ) -> Iterator[dict[str, float]]:
        """As many rounds as asked for, all alike."""
        for _ in range(given["rounds"]):
            yield {name: self.seconds[variant] for name, variant in works.items()}


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    def use(seconds: dict[Way, float], **given: Any) -> Machine:
        machine = Machine(seconds, **given)
        monkeypatch.setattr(module, "trial", machine.trial)
        monkeypatch.setattr(module, "race", machine.race)
        monkeypatch.setattr(module, "timer_for", lambda device: machine.timer)
        monkeypatch.setattr(module, "runtime_of", lambda config: nullcontext())
        return machine

    return use


def config_with(*overrides: str) -> tuple[RunConfig, Source]:
    config = compose([*SMALL, *overrides])
    return config, sources.build(
        "synthetic", data_home(config), options={"num_train": 64, "num_test": 10}
    )


PLAIN, LAST, OFF, BOTH = (
    (False, True, False),
    (True, True, False),
    (False, False, False),
    (True, False, False),
)
ALL_WAYS = (PLAIN, LAST, OFF, BOTH)


def compiled(way: Way) -> Way:
    return (*way[:2], True)


def way_of(config: RunConfig) -> tuple[object, object, object]:
    return config.runtime.channels_last, config.runtime.onednn, config.runtime.compile


# In each, compiling the ways that are not the quickest would have won by far.
QUICKEST = {
    best: {way: 0.8 if way == best else 1.0 for way in ALL_WAYS}
    | {compiled(way): 0.7 if way == best else 0.1 for way in ALL_WAYS}
    for best in ALL_WAYS
}


@pytest.mark.parametrize("best", ALL_WAYS)
def test_the_quickest_of_all_layouts_with_and_without_onednn_is_chosen(
    best: Way, on: Any, tmp_path: Path
) -> None:
    machine = on(QUICKEST[best])
    config, source = config_with("runtime.channels_last=auto", "runtime.onednn=auto")
    assert way_of(choose(config, source, 10, tmp_path)) == best
    assert machine.timed == [PLAIN, OFF, LAST, BOTH]


@pytest.mark.parametrize(
    ("override", "ways"),
    [
        ("runtime.channels_last=auto", [PLAIN, LAST]),
        ("runtime.onednn=auto", [PLAIN, OFF]),
    ],
)
def test_what_is_not_auto_stays(override: str, ways: list[Way], on: Any, tmp_path: Path) -> None:
    machine = on(QUICKEST[ways[1]])
    config, source = config_with(override)
    assert way_of(choose(config, source, 10, tmp_path)) == ways[1]
    assert machine.timed == ways


@pytest.mark.parametrize(
    ("num_steps", "seconds_compiling", "expected"),
    [
        (1000, 33.0, True),  # saves 100 s, and a run compiles three times what a trial does
        (1000, 34.0, False),
        (int(WORTH_A_TRIAL) - 1, 0.0, False),  # too short a run to try
    ],
)
def test_compiling_is_chosen_where_it_saves_more_than_it_takes(
    num_steps: int, seconds_compiling: float, expected: bool, on: Any, tmp_path: Path
) -> None:
    machine = on(
        dict.fromkeys(ALL_WAYS, 1.0) | {compiled(PLAIN): 0.9}, seconds_compiling=seconds_compiling
    )
    config, source = config_with("runtime=fast", "runtime.precision=fp32")
    assert way_of(choose(config, source, num_steps, tmp_path)) == (
        compiled(PLAIN) if expected else PLAIN
    )
    assert (compiled(PLAIN) in machine.timed) == (num_steps >= WORTH_A_TRIAL)


def test_whether_to_compile_is_asked_of_the_plain_way_where_only_that_is_auto(
    on: Any, tmp_path: Path
) -> None:
    machine = on({PLAIN: 1.0, compiled(PLAIN): 0.9})
    config, source = config_with("runtime.compile=auto")
    assert way_of(choose(config, source, 10_000, tmp_path)) == compiled(PLAIN)
    assert machine.timed == [PLAIN, PLAIN, compiled(PLAIN)]


@pytest.mark.parametrize("best", ALL_WAYS)
def test_compiling_is_tried_in_the_chosen_way(best: Way, on: Any, tmp_path: Path) -> None:
    machine = on(QUICKEST[best])
    config, source = config_with("runtime=fast", "runtime.precision=fp32")
    assert way_of(choose(config, source, 10_000, tmp_path)) == compiled(best)
    assert machine.timed == [PLAIN, OFF, LAST, BOTH, best, compiled(best)]


def test_the_layout_is_chosen_among_compiled_steps_where_compilation_is_set(
    on: Any, tmp_path: Path
) -> None:
    machine = on({compiled(PLAIN): 1.0, compiled(LAST): 0.5})
    config, source = config_with("runtime.channels_last=auto", "runtime.compile=true")
    assert way_of(choose(config, source, 10, tmp_path)) == compiled(LAST)
    assert machine.timed == [compiled(PLAIN), compiled(LAST)]


def test_what_was_measured_is_said_and_measured_once(
    on: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = on(QUICKEST[LAST])
    config, source = config_with(
        "runtime=fast", "runtime.precision=fp32", "norm=gn", "system.threads=3"
    )
    first = choose(config, source, 10_000, tmp_path)
    timed, said = len(machine.timed), capsys.readouterr().err
    assert timed == 6
    measuring = "measuring what is quicker for gn at batch 64, once\n"
    assert said.count(measuring) == 2
    said = said.replace(measuring, "")
    lines, dates = zip(*(line.split(" (measured ") for line in said.splitlines()), strict=True)
    assert lines == (
        "gn at batch 64, threads: 3, a step: as it is 1000.0 ms, onednn=false 1000.0 ms, "
        "channels_last=true 800.0 ms, channels_last=true onednn=false 1000.0 ms; chosen: channels_last=true",
        "gn at batch 64, threads: 3, a step: as it is 800.0 ms, compile=true 700.0 ms; compiled in 10 s, for "
        "10000 steps; chosen: compile=true",
    )
    (date,) = {*dates}
    assert (
        timedelta(0)
        <= datetime.now(UTC) - datetime.fromisoformat(date.rstrip(")"))
        < timedelta(hours=1)
    )
    assert choose(config, source, 10_000, tmp_path) == first
    assert len(machine.timed) == timed
    assert capsys.readouterr().err == said, "what it rests on is said again"
    other, _ = config_with(
        "runtime=fast", "runtime.precision=fp32", "norm=gn", "system.threads=3", "batch_size=8"
    )
    choose(other, source, 10, tmp_path)
    assert len(machine.timed) == timed + 4, "another batch size is another question"


def test_why_the_quickest_is_not_chosen_is_said(
    on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on({PLAIN: 1.0, OFF: 0.9})
    unsure = [{"0": 1.0, "1": 1.1 if number < 2 else 0.9} for number in range(ROUNDS)]
    monkeypatch.setattr(module, "race", lambda *_, **__: unsure)
    config, source = config_with("runtime.onednn=auto")
    assert way_of(choose(config, source, 10, tmp_path)) == PLAIN
    assert (
        "; chosen: as it is, nothing else was quicker in all rounds but one (measured"
        in capsys.readouterr().err
    )


def test_a_broken_measurement_leaves_no_file(on: Any, tmp_path: Path) -> None:
    machine = on(QUICKEST[LAST])
    config, source = config_with("runtime.channels_last=auto")
    machine.seconds = {}
    with pytest.raises(KeyError):
        choose(config, source, 10, tmp_path)
    assert not [*tmp_path.rglob("*.json")]
    machine.seconds = QUICKEST[LAST]
    assert choose(config, source, 10, tmp_path).runtime.channels_last is True


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        '{"seconds": [], "seconds_compiling": [], "measured_at": "today"}',
        '{"seconds": [[], []], "seconds_compiling": [0, 0], "measured_at": "today"}',
        '{"seconds": [[1]], "seconds_compiling": [0], "measured_at": "today"}',
        '{"seconds": [[1], ["b"]], "seconds_compiling": [0, 0], "measured_at": "today"}',
        '{"seconds": [[NaN], [1]], "seconds_compiling": [0, 0], "measured_at": "today"}',
        '{"seconds": [[1], [0]], "seconds_compiling": [0, 0], "measured_at": "today"}',
    ],
)
def test_a_damaged_measurement_is_named_and_made_again(
    content: str, on: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = on(QUICKEST[LAST])
    config, source = config_with("runtime.channels_last=auto")
    first = choose(config, source, 10, tmp_path)
    (file,) = tmp_path.rglob("*.json")
    whole = yaml.safe_load(file.read_text())
    file.write_text(content)
    capsys.readouterr()
    assert choose(config, source, 10, tmp_path) == first
    assert f"'{file}' is damaged\n" in capsys.readouterr().err
    assert len(machine.timed) == 4
    assert yaml.safe_load(file.read_text())["seconds"] == whole["seconds"]


@pytest.mark.parametrize("in_the_way", ["the folder", "the file"])
def test_a_cache_that_cannot_be_written_stops_no_run(
    in_the_way: str, on: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on(QUICKEST[LAST])
    config, source = config_with("runtime.channels_last=auto")
    if in_the_way == "the folder":
        (tmp_path / "speed").touch()
    else:
        choose(config, source, 10, tmp_path)
        (file,) = tmp_path.rglob("*.json")
        file.unlink()
        file.mkdir()
    assert way_of(choose(config, source, 10, tmp_path)) == LAST
    assert "cannot be written" in capsys.readouterr().err


def test_nothing_is_measured_before_the_rest_is_known_to_be_right(on: Any, tmp_path: Path) -> None:
    machine = on(QUICKEST[LAST])
    (tmp_path / "file").touch()
    two_warm_ups = ("optim.schedule=one_cycle", "optim.warmup_fraction=0.5")
    for wrong in ((f"system.runs_dir={tmp_path / 'file'}",), two_warm_ups):
        with pytest.raises(NormbenchError):
            resolve(compose([*SMALL, "runtime=fast", *wrong]))
    assert not machine.timed


def test_no_larger_batch_is_timed_than_there_are_images(
    on: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on(QUICKEST[LAST])
    config, _ = resolve(compose([*SMALL, "runtime=fast", "batch_size=2048"]))
    assert "at batch 64, threads" in capsys.readouterr().err
    assert (config.batch_size, config.runtime.channels_last) == (2048, True)


def test_why_compilation_is_not_tried_is_said(
    on: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on(dict.fromkeys(ALL_WAYS, 1.0))
    choose(*config_with("runtime.compile=auto"), 20, tmp_path)
    assert (
        "compilation is not tried: the run's steps take 20 s without it\n"
        in capsys.readouterr().err
    )


def test_what_is_far_behind_in_single_steps_is_not_raced_and_the_first_always_is(
    on: Any, tmp_path: Path
) -> None:
    on({PLAIN: 1.0, LAST: 0.4, OFF: 0.9, BOTH: 0.5})
    config, source = config_with("runtime.channels_last=auto", "runtime.onednn=auto")
    assert way_of(choose(config, source, 10, tmp_path)) == LAST
    (file,) = tmp_path.rglob("*.json")
    assert yaml.safe_load(file.read_text())["seconds"] == [
        [1.0] * ROUNDS,
        [0.9],
        [0.4] * ROUNDS,
        [0.5] * ROUNDS,
    ]
    assert Timing([[1.0] * ROUNDS, [0.1]], [0.0] * 2, "today").winner == 0, (
        "a single step wins nothing"
    )


@pytest.mark.parametrize(
    ("quicker", "expected"), [(ROUNDS, True), (ROUNDS - 1, True), (ROUNDS - 2, False), (0, False)]
)
def test_one_round_may_go_the_other_way(quicker: int, expected: bool) -> None:
    rounds = [0.9] * quicker + [1.1] * (ROUNDS - quicker)
    timing = Timing([[1.0] * ROUNDS, [1.2] * ROUNDS, rounds], [0.0] * 3, "today")
    assert timing.winner == (2 if expected else 0)


def test_resolving_leaves_no_auto_and_a_second_time_changes_nothing(on: Any) -> None:
    on(QUICKEST[LAST])
    config, _ = resolve(compose([*SMALL, "runtime=fast"]))
    assert "auto" not in yaml.safe_load(config.to_yaml())["runtime"].values()
    again, _ = resolve(config)
    assert again.run_id == config.run_id
    plain, _ = resolve(compose([*SMALL, "runtime.channels_last=true"]))
    assert plain.run_id == config.run_id, "the same run as when its layout is given"


def test_a_norm_that_cannot_work_is_not_timed(on: Any) -> None:
    machine = on(QUICKEST[LAST])
    config, _ = Resolver().complete(
        compose([*SMALL, "norm=gn", "norm.num_groups=3", "runtime=fast"])
    )
    assert way_of(config) == PLAIN
    assert not machine.timed


@pytest.mark.parametrize("name", ["channels_last", "compile", "onednn"])
def test_for_another_machine_it_must_be_said(name: str) -> None:
    with pytest.raises(
        NormbenchError, match=f"runtime.{name}=auto: another machine is not known here; say true or"
    ):
        Resolver("cpu").complete(compose([*SMALL, f"runtime.{name}=auto"]))


def test_a_real_choice_is_made_of_steps(tmp_path: Path) -> None:
    config, source = config_with(
        "runtime.channels_last=auto", "runtime.onednn=auto", "batch_size=4"
    )
    assert way_of(choose(config, source, 10, tmp_path)) in ALL_WAYS
    (file,) = tmp_path.rglob("*.json")
    first, *others = (len(rounds) for rounds in yaml.safe_load(file.read_text())["seconds"])
    assert first == ROUNDS
    assert len(others) == 3
    assert {*others} <= {1, ROUNDS}, "one step of those far behind"
