"""Damaged runs and studies: no traceback, and nothing is counted that differs."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.damage import OF_BYTES, OF_FILES, Damage, odd_value
from kit.launchers import assert_same_numbers, at_step, tiny_sweep
from kit.training import run_in

from normbench.analysis.family import every_pair
from normbench.analysis.loading import load_study, read_runs
from normbench.analysis.report import write_report
from normbench.analysis.study import Study
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.rendering import FORMS
from normbench.checksums import sealed_bytes
from normbench.errors import NormbenchError, RunFailure
from normbench.runs.files import run_dirs
from normbench.runs.listing import list_runs, to_json, to_text
from normbench.runs.standing import standing
from normbench.sweeps.plan import make_plan

Run = Callable[..., tuple[int, str, str]]
OF_RUN = ("config.yaml", "env.json", "status.json", "metrics.csv", "steps.csv")
OF_STUDY = ("runs.csv", "metrics.csv", "steps.csv", "env.json", "configs.json", "SHA256SUMS")
CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
CELLS = [(norm, seed) for norm in ("bn", "gn") for seed in (0, 1)]
# The table of the docs has the figures of NORMBENCH_KILLS.
QUICK, THOROUGH = 40, 200 if "NORMBENCH_KILLS" in os.environ else 80
# Damages by number: each is tried once.
MORE = pytest.param(range(QUICK, THOROUGH), id="more", marks=pytest.mark.slow)
some_damages = pytest.mark.parametrize("numbers", [pytest.param(range(QUICK), id="quick"), MORE])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four finished runs, and their report."""
    folder = tmp_path_factory.mktemp("whole")
    for norm, seed in CELLS:
        run_in(folder / "runs", f"norm={norm}", f"seed={seed}", "train.log_every=3")
    write_report(load_study([folder / "runs"]), folder / "studies" / "study", "a command")
    shutil.copytree(folder / "studies" / "study", folder / "studies" / "other")
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was asked to stop in its last epoch, with two checkpoints."""
    folder = tmp_path_factory.mktemp("interrupted")
    with at_step(17, lambda: signal.raise_signal(signal.SIGINT)):
        assert run_in(folder, "epochs=3").state == "interrupted"
    return folder


def damages(numbers: range, names: tuple[str, ...], kinds: tuple[Damage, ...]) -> Iterator[Any]:
    """For each number a file's name, a kind of damage, and its random numbers."""
    for index in numbers:
        draw = random.Random(index)
        yield names[index % len(names)], draw.choice(kinds), draw


def figures(study: Study) -> dict[str, Any]:
    """All that a study says of its finished runs, by run."""
    done = study.done
    found: dict[str, Any] = {}
    for row in done.runs.to_dict("records"):
        found[row["run"]] = {key: str(row[key]) for key in row}
        for name, table in (("metrics", done.metrics), ("steps", done.steps)):
            rows = table[table["run"] == row["run"]]
            found[row["run"]][name] = rows.to_csv(index=False)
    return found


def assert_nothing_else(found: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for run, told in found.items():
        assert told == known[run], run


def one_answer(folder: Path, study: Study) -> None:
    """The list, the plan and the tables agree on which runs are done."""
    listing = list_runs(folder)
    assert to_text(listing)
    json.loads(to_json(listing))
    done = {row["run"] for row in listing.rows if row["status"] == "done"}
    assert done == {*study.done.runs["run"]}
    for norm, seed in CELLS:
        settings = (f"norm={norm}", f"seed={seed}", "train.log_every=3")
        (run,) = make_plan(tiny_sweep(*settings), {"system.runs_dir": str(folder)}).runs
        assert (run.state == "done") == (run.config.run_id in done)


@some_damages
def test_a_damaged_run_is_named_and_never_counted(
    whole: Path, tmp_path: Path, numbers: range
) -> None:
    known = figures(load_study([whole / "runs"]))
    for name, damage, draw in damages(numbers, OF_RUN, OF_BYTES + OF_FILES):
        folder = tmp_path / "runs"
        shutil.copytree(whole / "runs", folder)
        path = draw.choice(sorted(folder.iterdir()))
        damage(path / name, draw)
        study = load_study([folder])
        found = figures(study)
        assert_nothing_else(found, known)
        if len(found) < len(CELLS):
            unfinished = {*study.unfinished.runs["run"]}
            assert path.name in " ".join([*study.notes, *unfinished]), (name, damage)
        one_answer(folder, study)
        comparison_table(study)
        every_pair(study)
        shutil.rmtree(folder)


@some_damages
def test_values_of_a_wrong_type_under_a_right_checksum_are_no_traceback(
    whole: Path, tmp_path: Path, numbers: range
) -> None:
    for name, damage, draw in damages(numbers, OF_RUN[:3], (odd_value,)):
        folder = tmp_path / "runs"
        shutil.copytree(whole / "runs", folder)
        damage(draw.choice(sorted(folder.iterdir())) / name, draw)
        study = load_study([folder])
        one_answer(folder, study)
        for form in FORMS.values():
            form(comparison_table(study))
        shutil.rmtree(folder)


@some_damages
def test_a_damaged_study_is_named_and_never_counted(
    whole: Path, tmp_path: Path, numbers: range
) -> None:
    known = figures(load_study([whole / "studies" / "study"]))
    for name, damage, draw in damages(numbers, OF_STUDY, OF_BYTES + OF_FILES):
        folder = tmp_path / "studies"
        shutil.copytree(whole / "studies", folder)
        damage(folder / "study" / name, draw)
        try:
            study = load_study([folder / "study"])
        except NormbenchError as error:
            message = str(error)
            assert "\n" not in message
            assert str(folder) in message
        else:
            assert_nothing_else(figures(study), known)
        shutil.rmtree(folder)


@some_damages
def test_values_of_a_wrong_type_in_a_study_without_checksums_are_no_traceback(
    whole: Path, tmp_path: Path, numbers: range
) -> None:
    for name, damage, draw in damages(numbers, OF_STUDY[3:5], (odd_value,)):
        folder = tmp_path / "study"
        shutil.copytree(whole / "studies" / "study", folder)
        (folder / "SHA256SUMS").unlink()
        damage(folder / name, draw)
        try:
            study = load_study([folder])
            comparison_table(study)
            every_pair(study)
        except NormbenchError as error:
            message = str(error)
            assert "\n" not in message
        shutil.rmtree(folder)


@some_damages
def test_a_damaged_run_that_goes_on_reaches_the_same_numbers_or_says_why_not(
    interrupted: Path, tmp_path: Path, numbers: range
) -> None:
    reference = tmp_path / "reference"
    whole = run_in(reference, "epochs=3").path
    resumed = 0
    for name, damage, draw in damages(numbers, OF_RUN + CHECKPOINTS, OF_BYTES + OF_FILES):
        folder = tmp_path / "runs"
        shutil.copytree(interrupted, folder)
        (path,) = folder.iterdir()
        damage(path / name, draw)
        try:
            outcome = run_in(folder, "epochs=3")
        except RunFailure as error:
            message = str(error)
            assert "\n" not in message
            assert str(path) in message
        else:
            resumed += 1
            assert outcome.state == "done"
            assert standing(path).state == "done"
            assert_same_numbers(path, whole)
            assert len(load_study([folder]).done.runs) == 1
        shutil.rmtree(folder)
    assert resumed > len(numbers) / 8, (
        "damage to one of two checkpoints, and to config.yaml, is no loss"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("cache_dir")
def test_every_command_answers_a_damaged_folder_in_lines(
    whole: Path, normbench: Run, tmp_path: Path
) -> None:
    commands = (
        ("runs", "--runs-dir", "runs"),
        ("runs", "--runs-dir", "runs", "--json"),
        ("table", "runs"),
        ("compare", "bn", "gn", "runs"),
        ("plot", "loss", "runs", "-o", "figure.svg"),
        ("report", "runs", "-o", "report"),
        ("runs", "rm", "--failed", "--runs-dir", "runs"),
    )
    for name, damage, draw in damages(range(30), OF_RUN, (*OF_BYTES, *OF_FILES, odd_value)):
        if damage is odd_value and name.endswith(".csv"):
            continue
        shutil.copytree(whole / "runs", "runs")
        damage(draw.choice(sorted(Path("runs").iterdir())) / name, draw)
        for command in commands:
            code, _, errors = normbench(*command)
            assert code in (0, 1, 2, 3), (command, errors)
            assert "Traceback" not in errors
        shutil.rmtree("runs")
        shutil.rmtree("report", ignore_errors=True)


def test_a_copied_run_is_not_counted_and_no_failure_is_removed_with_it(
    whole: Path, tmp_path: Path, normbench: Run
) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(whole / "runs", folder)
    run, *_ = sorted(folder.iterdir())
    copy = folder / f"{run.name}.bak"
    shutil.copytree(run, copy)
    study = load_study([folder])
    assert len(study.done.runs) == len(CELLS)
    (note,) = study.notes
    assert f"{copy}: its configuration is that of {run.name}" in note
    listed = {row["run"]: row["status"] for row in list_runs(folder).rows}
    assert listed[copy.name] == "misnamed"
    for name in ("metrics.csv", "config.yaml"):  # whatever becomes of the copy
        assert normbench("runs", "rm", "--failed", "--runs-dir", str(folder))[0] == 0
        assert copy.exists(), "a person's copy is no failed run"
        (copy / name).write_text("changed")


def test_a_link_is_not_removed_nor_the_run_of_its_targets_name(
    whole: Path, tmp_path: Path, normbench: Run
) -> None:
    folder, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    shutil.copytree(whole / "runs", folder)
    run, *_ = sorted(folder.iterdir())
    shutil.copytree(run, elsewhere / run.name)
    (elsewhere / run.name / "metrics.csv").write_text("changed")
    (folder / "link").symlink_to(elsewhere / run.name)
    assert normbench("runs", "rm", "--failed", "--runs-dir", str(folder))[0] == 0
    assert len(list(folder.iterdir())) == len(CELLS) + 1
    assert (elsewhere / run.name).exists()


def test_a_run_of_an_older_schema_with_other_columns_is_foreign_and_stays(
    whole: Path, tmp_path: Path, normbench: Run
) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(whole / "runs", folder)
    run, *_ = sorted(folder.iterdir())
    for name in ("env.json", "status.json"):
        content = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps(content | {"schema_version": 1}))
    for name in ("metrics.csv", "steps.csv"):
        (run / name).write_text((run / name).read_text().replace("loss", "losses"))
    assert standing(run).state == "foreign"
    assert normbench("runs", "rm", "--failed", "--runs-dir", str(folder))[0] == 0
    assert run.exists()


@pytest.mark.parametrize("name", OF_RUN)
def test_a_file_that_the_disk_does_not_give_is_no_damage(
    whole: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run, *_ = sorted((whole / "runs").iterdir())
    read_bytes = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self.name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    stands = standing(run)
    assert stands.state == "unreachable"
    assert stands.reason == f"'{run / name}' cannot be read: Input/output error"


def test_a_run_that_goes_on_under_anothers_name_is_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        with at_step(10, lambda: signal.raise_signal(signal.SIGINT)):
            assert run_in(tmp_path / str(seed), f"seed={seed}").state == "interrupted"
    (first,), (second,) = (list((tmp_path / seed).iterdir()) for seed in ("0", "1"))
    shutil.rmtree(second)
    first.rename(second)
    with pytest.raises(RunFailure, match=rf"its configuration is that of {first.name}"):
        run_in(tmp_path / "1", "seed=1")
    (second / "config.yaml").unlink()
    with pytest.raises(RunFailure, match=rf"the checkpoint in '.*' is of {first.name}: begin"):
        run_in(tmp_path / "1", "seed=1")
    assert run_in(tmp_path / "1", "seed=1", restart=True).state == "done"


def test_files_without_a_line_in_the_sums_are_named(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole / "studies" / "study", folder)
    assert load_study([folder]).notes == ()
    sums = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text(sums.replace("steps.csv", "stepz.csv"))
    (note,) = load_study([folder]).notes
    assert note.startswith(f"'{folder}': steps.csv are not in SHA256SUMS")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_checkpoints_place_lets_the_older_one_go_on(
    interrupted: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    shutil.copytree(interrupted, tmp_path / "runs")
    (path,) = (tmp_path / "runs").iterdir()
    (path / "checkpoint.pt").unlink()
    make(path / "checkpoint.pt")
    assert run_in(tmp_path / "runs", "epochs=3").state == "done"


def test_an_older_checkpoint_goes_on_and_says_so_where_the_last_is_damaged(
    interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(interrupted, tmp_path / "runs")
    (path,) = (tmp_path / "runs").iterdir()
    content = bytearray((path / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "checkpoint.pt").write_bytes(content)
    assert run_in(tmp_path / "runs", "epochs=3").state == "done"
    told = capsys.readouterr().err
    assert f"'{path / 'checkpoint.pt'}' is damaged: going on from the checkpoint before" in told


def test_two_damaged_checkpoints_are_kept_and_named(interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path / "runs")
    (path,) = (tmp_path / "runs").iterdir()
    for name in CHECKPOINTS:
        (path / name).write_bytes(b"no checkpoint")
    for _ in range(2):
        with pytest.raises(RunFailure, match="is damaged: begin the run anew with --restart"):
            run_in(tmp_path / "runs", "epochs=3")
    assert run_in(tmp_path / "runs", "epochs=3", restart=True).state == "done"


def load_study_notes(folder: Path) -> str:
    (note,) = read_runs(run_dirs(folder)).notes
    return note


def without_weights(state: dict[str, Any]) -> None:
    del state["model"]


def of_another_width(state: dict[str, Any]) -> None:
    weights = state["model"]
    name = next(name for name in weights if name.endswith("weight"))
    weights[name] = weights[name][:1]


def of_another_optimizer(state: dict[str, Any]) -> None:
    for moments in state["optimizer"]["state"].values():
        moments["exp_avg"] = moments["exp_avg"].flatten()[:1].repeat(3, 2)


def beyond_the_end(state: dict[str, Any]) -> None:
    state["step"] = 10**6


def before_the_start(state: dict[str, Any]) -> None:
    state["epoch"] = -1


def of_words(state: dict[str, Any]) -> None:
    state["step"] = "many"


@pytest.mark.parametrize(
    "change",
    [
        without_weights,
        of_another_width,
        of_another_optimizer,
        beyond_the_end,
        before_the_start,
        of_words,
    ],
)
def test_a_whole_checkpoint_of_another_run_is_named(
    interrupted: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    shutil.copytree(interrupted, tmp_path / "runs")
    (path,) = (tmp_path / "runs").iterdir()
    state = torch.load(path / "checkpoint.pt", weights_only=True)
    change(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (path / "checkpoint.pt").write_bytes(sealed_bytes(buffer.getvalue()))
    message = rf"the checkpoint in '.*{path.name}' is not of this run \(.+\): begin"
    with pytest.raises(RunFailure, match=message) as caught:
        run_in(tmp_path / "runs", "epochs=3")
    assert "\n" not in str(caught.value)


def test_a_configuration_damaged_while_the_run_was_interrupted_is_written_anew(
    interrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(interrupted, tmp_path / "runs")
    (path,) = (tmp_path / "runs").iterdir()
    (path / "config.yaml").write_text("seed: 7\n")
    (row,) = list_runs(tmp_path / "runs").rows
    told = "config.yaml is damaged: written anew when the run goes on"
    assert (row["status"], row["reason"]) == ("interrupted", told)
    assert load_study_notes(tmp_path / "runs") == f"left out: {path}: {told}"
    assert run_in(tmp_path / "runs", "epochs=3").state == "done"
    assert len(load_study([tmp_path / "runs"]).done.runs) == 1


def test_rows_removed_while_the_run_trains_fail_it(tmp_path: Path) -> None:
    def remove() -> None:
        (file,) = tmp_path.glob("*/metrics.csv")
        file.unlink()

    with at_step(10, remove), pytest.raises(RunFailure, match=r"metrics\.csv' was changed while"):
        run_in(tmp_path)
    (path,) = tmp_path.iterdir()
    stands = standing(path)
    assert stands.state == "failed"
    assert "begin the run anew with --restart" in str(stands.reason)
