"""normbench bench for a user: output, files, refusals, and reports with times of a bench."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pandas as pd
import pytest
from kit.tiny import tiny

from normbench.analysis.bench import of_steps
from normbench.analysis.tables.layer_costs import layers_table
from normbench.analysis.tables.rendering import to_markdown
from normbench.analysis.tables.step_costs import costs_table
from normbench.checksums import SUMS
from normbench.config.compose import compose
from normbench.config.schema import RunConfig
from normbench.timing import norm_layers as layers_module
from normbench.timing import repeats, steps
from normbench.timing.repeats import Bench, Done
from normbench.timing.rounds import read_bench
from normbench.training.resolve import resolve
from normbench.training.run import execute

ON_A_PIXEL = "model.widths=[8,8,8,8,8,8]"  # a 1x1 map before the last norm
INLINE = ("--launcher", "inline")
Run = Callable[..., tuple[int, str, str]]
LeaveRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single call of a contestant in each turn, and no compiler."""
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    for module in (steps, layers_module):
        monkeypatch.setattr(module, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(layers_module, "MODES", ("eager",))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations to time; the command ends before the first step."""
    found: list[RunConfig] = []

    def record(
        work: Bench, configs: Sequence[RunConfig], rounds: Sequence[int], done: Done
    ) -> Iterator[dict[str, Any]]:
        found.extend(configs)
        assert rounds == [5] * 5
        raise KeyboardInterrupt
        yield {}

    monkeypatch.setattr(repeats, "repeated", record)
    return found


LAYERS = {"layers.csv", "layers.md", "layers.svg", "layers.png", SUMS}


def settings(*overrides: str) -> list[str]:
    return tiny("epochs=1", "batch_size=4", *overrides)


def alone(rounds: int) -> list[str]:
    """The rounds in this process, since a fresh one would not be patched."""
    return ["--rounds", str(rounds), "--processes", "1"]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def rows_of(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table, header first."""
    rows = []
    for line in markdown.splitlines():
        if line.startswith("|") and ":" not in line:
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_printed_table_is_that_of_the_written_rounds(normbench: Run, tmp_path: Path) -> None:
    code, out, err = normbench(
        "bench",
        *settings("norm=bn,gn", "batch_size=4,8"),
        *alone(6),
        "-o",
        "new/speed",
    )
    assert (code, err) == (0, "")
    folder = tmp_path / "new" / "speed"
    assert files_in(folder) == {"bench.csv", "bench.md", "bench.svg", "bench.png", SUMS}
    rounds = read_bench(folder)
    assert out == (folder / "bench.md").read_text() == to_markdown(costs_table(rounds))
    cells = [["norm", "batch size"], ["bn", "4"], ["gn", "4"], ["bn", "8"], ["gn", "8"]]
    assert [row[:2] for row in rows_of(out)] == cells
    assert "Medians over 6 rounds" in out
    assert len(rounds) == 4 * 6
    assert "batch size 8" in (folder / "bench.svg").read_text()
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_in_processes_of_its_own_it_says_the_table_and_nothing_else(tmp_path: Path) -> None:
    """torch's profiler counts memory, and writes to standard error below Python."""
    command = [sys.executable, "-m", "normbench", "bench", *settings("norm=bn,gn")]
    command += ["--processes", "2", "--rounds", "3", "-o", "speed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("| norm ")
    assert "Medians over 3 rounds" in done.stdout
    assert "of 2 processes, without an interval, which takes 5" in done.stdout
    rounds = read_bench(tmp_path / "speed")
    by_race = rounds.groupby("race", sort=False)["norm.name"].agg(list)
    assert by_race.tolist() == [["bn", "gn"] * 2, ["gn", "bn"]]


def test_layers_are_timed_alone(normbench: Run, tmp_path: Path) -> None:
    code, out, err = normbench(
        "bench", *settings("norm=bn,gn"), "--layers", *alone(2), "-o", "speed"
    )
    assert (code, err) == (0, "")
    assert files_in(tmp_path) == {f"speed/{name}" for name in LAYERS}
    folder = tmp_path / "speed"
    rounds = pd.read_csv(folder / "layers.csv")
    assert out == (folder / "layers.md").read_text() == to_markdown(layers_table(rounds))
    layouts = ("contiguous", "channels_last")
    expected = [[norm, layout, "eager"] for norm in ("bn", "gn") for layout in layouts]
    assert [row[1:4] for row in rows_of(out)[1:]] == expected


def test_rounds_are_replaced_only_if_asked_to(normbench: Run, tmp_path: Path) -> None:
    for kind, file in ([], "bench.csv"), (["--layers"], "layers.csv"):
        timing = ["bench", *settings("norm=bn"), *kind, *alone(1), "-o", "speed"]
        assert normbench(*timing)[0] == 0
        before = (tmp_path / "speed" / file).read_text()
        assert normbench(*timing) == (2, "", ANY)
        assert (tmp_path / "speed" / file).read_text() == before
        assert normbench(*timing, "--overwrite")[0] == 0
        assert (tmp_path / "speed" / file).read_text() != before


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes two rounds before the end."""
    whole = steps.bench_steps

    def until_then(
        configs: Sequence[RunConfig], rounds: int, done: Done, process: int
    ) -> Iterator[dict[str, Any]]:
        yield from whole(configs, rounds - 2, done, process)
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "bench_steps", until_then)


@pytest.mark.usefixtures("stopped")
def test_rounds_of_an_interrupted_bench_are_shown_and_kept(normbench: Run, tmp_path: Path) -> None:
    code, out, _ = normbench("bench", *settings("norm=bn,gn"), *alone(8), "-o", "speed")
    assert code == 130
    assert "Medians over 6 rounds" in out
    kept = read_bench(tmp_path / "speed").groupby("norm.name").size()
    assert kept.to_dict() == {"bn": 6, "gn": 6}


@pytest.mark.usefixtures("stopped")
def test_an_interrupted_bench_replaces_no_rounds(normbench: Run, tmp_path: Path) -> None:
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "bench.csv").write_text("of yesterday")
    code, out, _ = normbench("bench", *settings("norm=bn"), *alone(3), "-o", "speed", "--overwrite")
    assert code == 130
    assert "Medians over 1 rounds" in out
    assert (tmp_path / "speed" / "bench.csv").read_text() == "of yesterday"
    assert files_in(tmp_path) == {"speed/bench.csv"}


def test_an_interrupted_bench_of_layers_whose_sums_lack_sites_shows_nothing(
    normbench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = layers_module.bench_layers

    def until_then(*arguments: Any, **options: Any) -> Iterator[dict[str, Any]]:
        yield next(whole(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(layers_module, "bench_layers", until_then)
    code, out, _ = normbench("bench", *settings("norm=bn"), "--layers", *alone(25), "-o", "speed")
    assert (code, out, files_in(tmp_path)) == (130, "", set())


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_timed(
    normbench: Run, asked: list[RunConfig]
) -> None:
    code, out, err = normbench("bench", "-o", "/proc/speed")
    assert (code, out, asked) == (1, "", [])
    assert err.startswith("normbench: '/proc/speed' cannot be written: ")
    assert err.count("\n") == 1


def test_by_default_the_four_norms_of_the_source_are_timed_at_its_batch_size(
    normbench: Run, asked: list[RunConfig]
) -> None:
    for given, norms, batch_sizes in (
        ([], ["bn", "ln", "in", "gn"], {64}),
        (["norm=rms,frn"], ["rms", "frn"], {64}),
        (["batch_size=8"], ["bn", "ln", "in", "gn"], {8}),
    ):
        asked.clear()
        normbench("bench", *given)
        assert [config.norm.name for config in asked] == norms
        assert {config.batch_size for config in asked} == batch_sizes
        assert {config.data.name for config in asked} == {"synthetic"}


def test_a_norm_that_cannot_train_is_named_and_the_rest_timed(
    normbench: Run, tmp_path: Path
) -> None:
    code, out, err = normbench("bench", *settings(ON_A_PIXEL, "norm=in,ln"), *alone(1))
    assert code == 0
    assert err.startswith("refused: norm in cannot train normresnet at batch 4: ")
    assert err.count("\n") == 1
    assert [row[0] for row in rows_of(out)] == ["norm", "ln"]
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batch_sizes=4"], "batch_size"),
        (
            settings(ON_A_PIXEL, "norm=in"),
            "nothing to run: norm in cannot train normresnet at batch 4",
        ),
        (["--eager"], "--eager needs --layers"),
        (["--layers", "train.accumulate=4"], "--layers: leave out train.accumulate"),
        (["--rounds", "0"], "--rounds: should be greater than or equal to 1, not '0'"),
        (["--processes", "0"], "--processes: should be greater than or equal to 1, not '0'"),
        (["--rounds", "4", "-o", "new"], "--rounds 4: each of the 5 processes takes a round"),
        (["-o", "file"], "--output: 'file' is not a folder"),
        (["-o", "runs"], "--output: 'runs' holds run directories, which its runs.csv would hide"),
        (["--layers", "-o", "runs"], "--output: 'runs' holds run directories"),
        (["-o", "timed"], "--output: 'timed/bench.csv' holds rounds already; --overwrite replaces"),
    ],
)
def test_bad_input_of_bench_is_one_line_and_exit_code_2_and_nothing_is_timed(
    normbench: Run,
    leave_run: LeaveRun,
    tmp_path: Path,
    asked: list[RunConfig],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "timed").mkdir()
    (tmp_path / "timed" / "bench.csv").touch()
    leave_run(compose(settings(), {"norm": "bn", "system.runs_dir": "runs"}))
    before = files_in(tmp_path)
    code, out, err = normbench("bench", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert asked == []
    assert files_in(tmp_path) == before


# Reports of runs with a bench


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of bn and a run of gn, and their steps timed under speed."""
    folder = tmp_path_factory.mktemp("timed")
    configs = []
    for norm in ("bn", "gn"):
        flags = {"system.runs_dir": str(folder / "results" / "runs"), "system.progress": "none"}
        config = compose(settings(f"norm={norm}"), flags)
        execute(config)
        configs.append(resolve(config)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "LEAST_SECONDS", 0.0)
        rows = []
        for process in range(1, 6):
            rows += steps.bench_steps(configs, 2, lambda: None, process)
    of_steps(rows).write(folder / "speed")
    return folder


@pytest.fixture
def trained_and_timed(timed: Path, normbench: Run, tmp_path: Path) -> None:
    """A copy of `timed` in the test's own folder."""
    shutil.copytree(timed, tmp_path, dirs_exist_ok=True)


@pytest.mark.usefixtures("trained_and_timed")
def test_a_table_takes_its_times_from_a_bench_alone(normbench: Run, tmp_path: Path) -> None:
    code, out, err = normbench("table")
    assert (code, err) == (0, "")
    assert "time per epoch" not in out
    assert "Times are not measured here: normbench bench does that." in out
    seconds = read_bench(tmp_path / "speed").groupby("norm.name")["seconds"].median() * 100 / 4
    for place in ("speed", "speed/bench.csv"):
        code, out, err = normbench("table", "--bench", place)
        assert (code, err) == (0, "")
        header, *rows = rows_of(out)
        shown = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
        assert {*shown} == {"bn", "gn"}
        for norm, cells in shown.items():
            assert cells["time per epoch"] == f"{seconds[norm]:.1f} s"
        assert shown["bn"]["relative to bn"] == "1.00x"
        assert " to " in shown["gn"]["relative to bn"]
        assert "averaged over 5 processes" in out
        assert "timed in turns, 10 rounds" in out


@pytest.mark.usefixtures("trained_and_timed")
def test_a_report_keeps_the_rounds_it_was_made_with(normbench: Run, tmp_path: Path) -> None:
    assert normbench("report", "-o", "untimed")[0] == 0
    assert not files_in(tmp_path / "untimed") & {"bench.csv", "time.svg"}
    assert normbench("report", "--bench", "speed", "-o", "timed")[0] == 0
    assert files_in(tmp_path / "timed") >= {"bench.csv", "time.svg", "time.png"}
    assert normbench("table", "timed") == normbench("table", "--bench", "speed")
    assert normbench("plot", "time", "timed", "-o", "time.svg") == (0, "time.svg\n", "")
    assert (tmp_path / "time.svg").read_text() == (tmp_path / "timed" / "time.svg").read_text()


@pytest.mark.usefixtures("trained_and_timed")
def test_a_sweep_takes_the_times_in_its_report_s_folder(normbench: Run, tmp_path: Path) -> None:
    command = ["sweep", *settings("norm=bn,gn"), *INLINE, "-o", "speed"]
    code, out, _ = normbench(*command)
    assert code == 0
    assert "| time per epoch" in out
    assert "time.svg" in files_in(tmp_path / "speed")
    assert "| time per epoch" not in normbench(*command[:-2])[1]


@pytest.mark.usefixtures("trained_and_timed")
@pytest.mark.parametrize("command", [["table"], ["plot", "time"], ["report", "-o", "out"]])
def test_a_damaged_bench_is_one_line(normbench: Run, tmp_path: Path, command: list[str]) -> None:
    code, out, err = normbench(*command, "--bench", "nowhere")
    assert (code, out) == (2, "")
    assert err == "normbench: no bench.csv in nowhere: `normbench bench -o nowhere` writes it\n"
    (tmp_path / "bench.md").write_text("| norm |\n")
    code, out, err = normbench(*command, "--bench", "bench.md")
    assert (code, out) == (2, "")
    assert err == "normbench: 'bench.md' is no CSV file: name a bench.csv or its folder\n"
    (tmp_path / "broken.csv").write_text("race,round\n")
    code, out, err = normbench(*command, "--bench", "broken.csv")
    assert (code, out) == (1, "")
    assert err.startswith("normbench: 'broken.csv' cannot be read: no column ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
