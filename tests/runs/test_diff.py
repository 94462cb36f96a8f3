"""Two runs side by side, and how a run is found by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import kit.runs
import pytest
from kit.runs import id_of

from normbench.errors import NormbenchError
from normbench.runs.diff import diff, find_run

WriteRun = Callable[..., Path]
BN = id_of("normresnet-bn-b64-s0")
GN = id_of("normresnet-gn-b64-s0", norm={"name": "gn", "num_groups": 32})


@pytest.fixture
def runs(write_run: WriteRun) -> tuple[Path, Path]:
    """A run of bn that is done, and one of gn that failed after an epoch on another torch."""
    failed = {"state": "failed", "reason": "OSError: gone", "torch": "2.16.0"}
    return write_run(BN), write_run(GN, (0.625,), norm={"name": "gn", "num_groups": 32}, **failed)


def test_a_run_is_found_by_path_id_beginning_and_hash(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    for name in (str(runs[0]), f"{runs[0]}/", BN, "normresnet-bn", BN[-12:]):
        assert find_run(tmp_path / "runs", name) == runs[0]
    assert find_run(tmp_path / "elsewhere", str(runs[1])) == runs[1]


def test_an_id_is_not_ambiguous_for_being_the_beginning_of_another(
    write_run: WriteRun, tmp_path: Path
) -> None:
    path = write_run(BN)
    longer = path.with_name(f"{BN}-1")
    shutil.copytree(path, longer)
    assert find_run(tmp_path / "runs", BN) == path
    assert find_run(tmp_path / "runs", f"{BN}-1") == longer


def test_any_beginning_that_one_run_has_is_its_name(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    for path in runs:
        unique = len("normresnet-b")
        for length in range(unique, len(path.name) + 1):
            assert find_run(tmp_path / "runs", path.name[:length]) == path
        for length in range(4, 13):
            assert find_run(tmp_path / "runs", path.name[-12:][:length]) == path


def test_whole_parts_of_an_id_come_before_beginnings(write_run: WriteRun, tmp_path: Path) -> None:
    one, sixteen = (
        write_run(id_of(f"normresnet-bn-b{size}-s0", batch_size=size), batch_size=size)
        for size in (1, 16)
    )
    assert find_run(tmp_path / "runs", "normresnet-bn-b1") == one
    assert find_run(tmp_path / "runs", "normresnet-bn-b16") == sixteen
    with pytest.raises(NormbenchError, match="it means 2 runs"):
        find_run(tmp_path / "runs", "normresnet-bn-b")


@pytest.mark.usefixtures("runs")
def test_a_name_of_several_runs_is_refused_with_them(tmp_path: Path) -> None:
    with pytest.raises(
        NormbenchError, match=f"'normresnet' is ambiguous, it means 2 runs: '{BN}', '{GN}'"
    ):
        find_run(tmp_path / "runs", "normresnet")


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("name", [f"{BN[:-1]}x", "normresnt-bn-b64-s0-000000"])
def test_an_unknown_run_names_the_nearest_and_how_runs_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        NormbenchError, match=f"unknown run '{name}': did you mean '{BN}'"
    ) as caught:
        find_run(tmp_path / "runs", name)
    assert (
        f"one of the 2 in {tmp_path / 'runs'} by its id or the hash of it, or the beginning"
        in str(caught.value)
    )


@pytest.mark.parametrize("name", ["", "xyz", "0" * 11])
def test_a_name_that_resembles_none_gets_no_suggestion(tmp_path: Path, name: str) -> None:
    with pytest.raises(NormbenchError, match=f"unknown run '{name}': name one of the 0 in"):
        find_run(tmp_path / "runs", name)


def test_two_runs_stand_side_by_side_where_they_differ(runs: tuple[Path, Path]) -> None:
    assert diff(*runs) == (
        f"first   {runs[0]}\n"
        f"second  {runs[1]}\n"
        "\n"
        "config                  first          second\n"
        "  norm.name             bn             gn\n"
        "  norm.num_groups       -              32\n"
        "\n"
        "result                  first          second\n"
        "  status                done           failed\n"
        "  reason                -              OSError: gone\n"
        "  epochs                2/2            1/2\n"
        "  train_loss            0.5000 nats    1.0000 nats     +0.5000 nats\n"
        "  train_accuracy        75.00 %        62.50 %        -12.50 points\n"
        "  test_loss             0.5000 nats    1.0000 nats     +0.5000 nats\n"
        "  test_accuracy         75.00 %        62.50 %        -12.50 points\n"
        "  median_train_seconds  11.50 s        11.00 s              -0.50 s\n"
        "\n"
        "environment             first          second\n"
        "  versions.torch        2.15.0         2.16.0"
    )


def test_a_run_and_itself_are_the_same(runs: tuple[Path, Path]) -> None:
    text = diff(runs[0], runs[0])
    assert "\nconfig: the same\n" in text
    assert text.endswith("\nenvironment: the same")
    assert "+0.0000" in text


def test_where_a_run_writes_is_no_difference(write_run: WriteRun, tmp_path: Path) -> None:
    system = {"system": {"runs_dir": "elsewhere", "concurrent_runs": 1}}
    other = kit.runs.write_run(tmp_path / "elsewhere", BN, **system)
    assert "config: the same" in diff(write_run(BN), other)


def test_seconds_of_a_shared_machine_are_shown_and_not_compared(write_run: WriteRun) -> None:
    text = diff(write_run(BN), write_run(GN, concurrent_runs=2))
    seconds = next(line for line in text.splitlines() if "median_train_seconds" in line)
    assert seconds.split() == ["median_train_seconds", "11.50", "s", "11.50", "s"]
    assert "  concurrent_runs " in text
    assert text.endswith("Seconds are not compared: a run shared the machine.")


def test_a_run_without_figures_is_compared_as_far_as_it_goes(write_run: WriteRun) -> None:
    begun = write_run(GN, (), state="failed", reason="early")
    (begun / "env.json").unlink()
    lines = diff(write_run(BN), begun).splitlines()
    assert next(line for line in lines if "test_accuracy" in line).split() == [
        "test_accuracy",
        "75.00",
        "%",
        "-",
    ]
    assert next(line for line in lines if "git.commit" in line).split() == [
        "git.commit",
        "0123456789abcdef",
        "-",
    ]


def test_what_neither_run_has_recorded_is_not_called_the_same(write_run: WriteRun) -> None:
    paths = [write_run(name, (), state="failed") for name in (BN, GN)]
    for path in paths:
        (path / "env.json").unlink()
        (path / "config.yaml").write_text("damaged: [")
    text = diff(*paths)
    assert "config: not recorded" in text
    assert "environment: not recorded" in text
    assert "damaged" in text


def test_values_are_cut_to_100_columns_but_never_to_look_alike(write_run: WriteRun) -> None:
    long = [
        {"data": {"name": "x" * 70 + end, "root": "y" * 70 * copies}}
        for copies, end in ((1, "a"), (2, "b"))
    ]
    first, second = write_run(BN, **long[0]), write_run(GN, **long[1])
    lines = diff(first, second).splitlines()[2:]
    name, augment = (
        next(line for line in lines if key in line) for key in ("data.name", "data.root")
    )
    assert "x" * 70 + "a" in name
    assert "x" * 70 + "b" in name
    assert len([line for line in lines if len(line) > 100]) <= 2
    assert augment.split()[1] != augment.split()[2]


def test_a_value_of_several_lines_stays_in_its_line_and_column(write_run: WriteRun) -> None:
    first = write_run(BN, norm={"name": "bn", "note": "a\nb\x1b[2J"})
    second = write_run(GN, norm={"name": "bn", "note": "plain"})
    (line,) = [line for line in diff(first, second).splitlines() if "norm.note" in line]
    assert line.split() == ["norm.note", r"a\nb\x1b[2J", "plain"]
    heading = next(line for line in diff(first, second).splitlines() if line[:6] == "config")
    assert line.index("plain") == heading.index("second")
