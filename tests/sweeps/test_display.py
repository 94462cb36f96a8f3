"""The display of a sweep: plain lines in a pipe, bars on a terminal."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from kit.launchers import tiny_sweep
from rich.console import Console

from normbench.config.schema import RunConfig
from normbench.runs.rundir import RunDir
from normbench.sweeps import display as display_module
from normbench.sweeps.display import Display, LiveDisplay, open_display
from normbench.sweeps.plan import make_plan

STEPS = 14
LeaveRun = Callable[..., Path]


class Terminal(io.StringIO):
    """A standard stream on a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Three runs of a kind, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return make_plan(tiny_sweep("seed=0,1,2")).open()


def terminal(monkeypatch: pytest.MonkeyPatch, stream: str = "stderr") -> Terminal:
    """Replaces a standard stream by a terminal; after pytest's own replacement."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    replacement = Terminal()
    monkeypatch.setattr(sys, stream, replacement)
    return replacement


def steps_of(configs: Sequence[RunConfig]) -> dict[str, int]:
    return {config.run_id: STEPS for config in configs}


def live(configs: Sequence[RunConfig], jobs: int = 1) -> LiveDisplay:
    return LiveDisplay(configs, steps_of(configs), jobs)


def drawn(display: LiveDisplay) -> list[str]:
    """The lines of the bars, drawn now."""
    paper = io.StringIO()
    Console(file=paper, width=160).print(display.progress.get_renderable())
    return [line.rstrip() for line in paper.getvalue().splitlines()]


# In a pipe


def test_in_a_pipe_a_finished_run_is_one_plain_line(
    configs: list[RunConfig], leave_run: LeaveRun, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_display(configs, steps_of(configs), 2) as display:
        assert type(display) is Display
        for config in configs:
            display.run_started(config)
        assert capsys.readouterr().out == ""
        leave_run(configs[1], reached=0.25)
        display.run_ended(configs[1])
        leave_run(configs[0], "failed", "killed by SIGKILL", epochs=1)
        display.run_ended(configs[0])
        leave_run(configs[2], "interrupted", "stopped after step 3 of 14", epochs=0)
        display.run_ended(configs[2])
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"[1/3] done      {configs[1].run_id}  test accuracy 25.00 %  0 s",
        f"[2/3] failed    {configs[0].run_id}  killed by SIGKILL  0 s",
        f"[3/3] interrupted {configs[2].run_id}  stopped after step 3 of 14  0 s",
    ]
    assert (err, "\x1b" in out) == ("", False)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("status.json", "{"),
        ("metrics.csv", ""),
        ("metrics.csv", "a,b\n1,2\n"),
        ("metrics.csv", "epoch,test_accuracy\n1,x\n"),
        ("metrics.csv", "epoch,steps\n1,7\n"),
    ],
)
def test_a_damaged_run_is_a_line_that_says_so(
    configs: list[RunConfig],
    leave_run: LeaveRun,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: str,
) -> None:
    display = Display(configs, steps_of(configs), 1)
    display.run_started(configs[0])
    (leave_run(configs[0]) / file).write_text(content)
    display.run_ended(configs[0])
    line = capsys.readouterr().out
    assert line.startswith(f"[1/3] damaged   {configs[0].run_id}")
    assert file in line


def test_in_a_pipe_the_time_left_is_a_line_every_so_often(
    configs: list[RunConfig],
    leave_run: LeaveRun,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(display_module, "SECONDS_BETWEEN_LINES", 0.05)
    said = ""
    with open_display(configs, steps_of(configs), 2) as display:
        display.run_started(configs[0])
        assert display.still_to_do() == "0/3 runs ended"
        leave_run(configs[0], train_seconds=999.0)  # 2 epochs of 1000 s, evaluation included
        display.run_ended(configs[0])
        display.run_started(configs[1])
        leave_run(configs[1], "running", epochs=1)
        end = time.monotonic() + 20
        # An earlier line may tell of a moment before the second run's first epoch.
        while "about 25 min left" not in said and time.monotonic() < end:
            time.sleep(0.01)
            said += capsys.readouterr().out
    assert "1/3 runs ended, about 25 min left\n" in said  # 1.5 runs, 2 at a time
    number = threading.active_count()
    time.sleep(0.2)
    assert capsys.readouterr().out.count("left") <= 1
    assert threading.active_count() <= number


# On a terminal


def test_on_a_terminal_each_active_run_has_a_bar_and_all_runs_have_one(
    configs: list[RunConfig], leave_run: LeaveRun
) -> None:
    display = live(configs, jobs=2)
    assert [line.split()[:2] for line in drawn(display)] == [["all", "runs"]]
    for config in configs[:2]:
        display.run_started(config)
    leave_run(configs[1], "running", epochs=1)
    total, *active = drawn(display)
    assert total.endswith("0/3")
    assert [line.split()[0] for line in active] == [config.run_id for config in configs[:2]]
    assert [line.partition("step ")[2] for line in active] == ["0/14", "7/14"]


def test_a_bar_follows_logged_steps_within_an_epoch(
    configs: list[RunConfig], leave_run: LeaveRun
) -> None:
    display = live(configs)
    display.run_started(configs[0])
    RunDir(leave_run(configs[0], "running", epochs=1)).append_step(
        {"step": 9, "epoch": 2, "loss": 1.0, "lr": 0.1}
    )
    assert drawn(display)[1].endswith("step 10/14")


def test_the_bar_of_a_run_that_ends_goes_away_and_the_total_moves(
    configs: list[RunConfig], leave_run: LeaveRun
) -> None:
    display = live(configs)
    display.run_started(configs[0])
    leave_run(configs[0])
    display.run_ended(configs[0])
    display.run_started(configs[1])
    assert [line.split()[0] for line in drawn(display)] == ["all", configs[1].run_id]
    assert "1/3" in drawn(display)[0]
    assert display.progress.tasks[0].completed == 1


def test_the_time_left_is_that_of_the_runs_left_and_of_the_active_ones_what_is_left(
    configs: list[RunConfig], leave_run: LeaveRun
) -> None:
    display = live(configs, jobs=2)
    display.run_started(configs[0])
    assert "left" not in drawn(display)[0]
    leave_run(configs[0], train_seconds=999.0)  # 2 epochs of 1000 s, evaluation included
    display.run_ended(configs[0])
    display.run_started(configs[1])
    assert drawn(display)[0].endswith("1/3, about 33 min left")  # 2 runs, 2 at a time
    leave_run(configs[1], "running", epochs=1)
    assert drawn(display)[0].endswith("1/3, about 25 min left")  # 1.5 runs


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"a,b\n1,2\n", b"epoch,steps\n1,x\n", b"epoch,steps\n1,\n1", None]
)
@pytest.mark.parametrize("file", ["metrics.csv", "steps.csv", "status.json", "config.yaml"])
def test_a_damaged_run_does_not_stop_the_bars(
    configs: list[RunConfig], leave_run: LeaveRun, file: str, content: bytes | None
) -> None:
    display = live(configs)
    display.run_started(configs[0])
    path = leave_run(configs[0], "running", epochs=1) / file
    if content is None:
        path.unlink()
        path.mkdir()  # reading a folder is an OSError, as on an absent network disk
    else:
        path.write_bytes(content)
    assert drawn(display)[1].startswith(configs[0].run_id)


def test_a_run_that_ends_while_the_bars_are_drawn_does_not_stop_them(
    configs: list[RunConfig], leave_run: LeaveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    display = live(configs)
    for config in configs:
        display.run_started(config)
        leave_run(config)
    position = display._position

    def slow_position(run_id: str) -> int:
        if run_id in display._bars:
            display.run_ended(next(config for config in configs if config.run_id == run_id))
        return position(run_id)

    monkeypatch.setattr(display, "_position", slow_position)
    drawn(display)
    assert drawn(display)[0].startswith("all runs")


def test_beside_bars_on_standard_error_the_lines_still_go_where_standard_output_goes(
    configs: list[RunConfig],
    leave_run: LeaveRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = terminal(monkeypatch)
    with open_display(configs, steps_of(configs), 1) as display:
        display.run_started(configs[0])
        leave_run(configs[0])
        display.run_ended(configs[0])
    assert (
        capsys.readouterr().out
        == f"[1/3] done      {configs[0].run_id}  test accuracy 50.00 %  0 s\n"
    )
    assert "all runs" in screen.getvalue()
    assert "[1/3]" not in screen.getvalue()


def test_where_both_are_the_terminal_every_line_is_whole_and_as_it_is(
    configs: list[RunConfig], leave_run: LeaveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, output = terminal(monkeypatch), terminal(monkeypatch, "stdout")
    reason = "no [bold]markup[/bold] is read in a reason, however long it is"
    with open_display(configs, steps_of(configs), 1) as display:
        display.run_started(configs[0])
        leave_run(configs[0], "failed", reason, epochs=0)
        display.run_ended(configs[0])
    line = f"[1/3] failed    {configs[0].run_id}  {reason}  0 s\n"
    assert (line in screen.getvalue()) != (line in output.getvalue())
