"""Which test images a run gets right: bits that agree with its accuracy, or damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.runs import seal
from kit.training import run_in

from normbench.analysis.loading import read_runs
from normbench.analysis.study_files import write_study
from normbench.analysis.study_reader import read_study
from normbench.runs.correct import FILE, check, pack, unpack
from normbench.runs.files import read_run
from normbench.runs.rundir import open_run
from normbench.runs.standing import standing

Mend = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("run"), "epochs=2").path


@given(st.lists(st.booleans(), max_size=70))
def test_bits_are_unpacked_as_they_were_packed(images: list[bool]) -> None:
    bits = pack(np.array(images, bool))
    assert unpack(bits, len(images)).tolist() == images
    assert len(bits) == (len(images) + 7) // 8


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_one_image_more_or_less_is_another_share(images: list[bool]) -> None:
    number, right = len(images), sum(images)
    bits = pack(np.array(images, bool))
    check(bits, number, right / number)
    for other in {right - 1, right + 1}:
        with pytest.raises(ValueError, match=r"metrics\.csv"):
            check(bits, number, other / number)


def test_a_run_keeps_the_images_of_its_last_epoch(run: Path) -> None:
    files = read_run(run)
    number = files.environment["data"]["num_test"]
    right = unpack((run / FILE).read_bytes(), files.config["data"]["limit_test"] or number)
    assert right.mean() == files.metrics["test_accuracy"][-1]
    # The images are told apart: the network has not one answer for all.
    assert 0 < right.mean() < 1


@pytest.mark.parametrize(
    ("mend", "told"),
    [
        (lambda bits: bytes([bits[0] ^ 1]) + bits[1:], "does not agree"),
        (lambda bits: bits[:-1], "bytes for"),
        (lambda bits: bits + b"\0", "bytes for"),
    ],
)
def test_bits_that_cannot_be_the_run_s_are_damage(
    run: Path, tmp_path: Path, mend: Mend, told: str
) -> None:
    path = shutil.copytree(run, tmp_path / run.name)
    (path / FILE).write_bytes(mend((run / FILE).read_bytes()))
    assert f"{FILE} was changed after the run" in str(standing(path).reason)
    seal(path)
    assert standing(path).state == "damaged"
    assert told in str(standing(path).reason)


def test_bits_that_are_gone_are_missed_and_runs_that_never_had_any_are_done(
    run: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(run, tmp_path / run.name)
    (path / FILE).unlink()
    assert standing(path).reason == f"{FILE} is missing"
    seal(path)
    assert standing(path).state == "done"


def test_a_study_holds_the_bits_of_its_runs(run: Path, tmp_path: Path) -> None:
    study = read_runs([run])
    assert study.correct == {run.name: (run / FILE).read_bytes()}
    write_study(study, tmp_path)
    assert read_study(tmp_path / "runs.csv").correct == study.correct


def test_a_run_that_begins_anew_and_diverges_keeps_no_bits_of_before(tmp_path: Path) -> None:
    path = run_in(tmp_path, "epochs=1").path
    (path / "status.json").unlink()
    for checkpoint in path.glob("checkpoint*"):
        checkpoint.unlink()
    with open_run(path) as opened:
        opened.discard_rows()
        opened.finish("diverged", "the loss is nan")
    assert not (path / FILE).exists()
