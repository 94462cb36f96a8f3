"""normbench stylize: an image of any size in the style of a run; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.styles import image_file, style_run_in
from PIL import Image

from normbench.perceptual.pictures import read_image, to_bytes, to_floats
from normbench.perceptual.preparation import style_run
from normbench.training.run import Outcome


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return style_run_in(tmp_path_factory.mktemp("runs"), "epochs=1")


def test_a_file_holds_what_the_network_makes_of_the_image(
    outcome: Outcome, normbench: Any, tmp_path: Path
) -> None:
    image = image_file(tmp_path / "own.png", 20, 28)
    code, out, err = normbench("stylize", str(outcome.path), "own.png", "-o", "made.png")
    assert (code, out, err) == (0, "made.png\n", "")
    with torch.no_grad():
        made = style_run("RUN", str(outcome.path)).network(to_floats(read_image(image)[None]))
    assert np.array_equal(read_image(tmp_path / "made.png"), to_bytes(made)[0])


@pytest.mark.parametrize(("height", "width"), [(17, 23), (8, 9), (50, 64)])
def test_the_size_is_kept_whatever_it_is(
    height: int, width: int, outcome: Outcome, normbench: Any, tmp_path: Path
) -> None:
    image_file(tmp_path / "own.png", height, width)
    code, _, err = normbench("stylize", str(outcome.path), "own.png", "-o", "made.jpg")
    assert code == 0, err
    with Image.open(tmp_path / "made.jpg") as made:
        assert (made.format, made.size) == ("JPEG", (width, height))


def test_contents_are_prepared_as_in_training(normbench: Any, tmp_path: Path) -> None:
    first = style_run_in(tmp_path / "first", "epochs=1", "seed=1")
    second = style_run_in(tmp_path / "second", "epochs=1", f"task.prepare={first.path}")
    image_file(tmp_path / "own.png", 16, 16)
    for run, image, made in (
        (first, "own.png", "once.png"),
        (second, "own.png", "prepared.png"),
    ):
        assert normbench("stylize", str(run.path), image, "-o", made)[0] == 0
    network = style_run("RUN", str(second.path)).network
    with torch.no_grad():
        expected = to_bytes(network(to_floats(read_image(tmp_path / "once.png")[None])))
    assert np.array_equal(read_image(tmp_path / "prepared.png"), expected[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "own.png"], "RUN: there is no folder 'none'"),
        ([".", "own.png"], "RUN: '.' holds 0 runs; name the folder of one"),
        (["RUN", "none.png"], "'none.png' cannot be read: No such file or directory"),
        (["RUN", "notes.txt"], "'notes.txt' is damaged: it cannot be decoded as a PNG or JPEG"),
        (["RUN", "small.png"], "'small.png' is 30x4 pixels; at least 8 a side"),
        (["RUN", "own.png", "-o", "made.gif"], "-o made.gif: allowed are files whose names end in"),
        (["RUN", "own.png", "-o", "none/made.png"], "-o none/made.png: it needs to be a file in a"),
        (["RUN", "own.png", "-o", "folder.png"], "-o folder.png: it needs to be a file in a"),
    ],
)
def test_what_cannot_work_is_refused_in_a_line_and_nothing_is_written(
    arguments: list[str], message: str, outcome: Outcome, normbench: Any, tmp_path: Path
) -> None:
    image_file(tmp_path / "own.png")
    image_file(tmp_path / "small.png", 4, 30)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.iterdir())
    given = [str(outcome.path) if one == "RUN" else one for one in arguments]
    code, out, err = normbench("stylize", *given)
    assert (code, out) == (2, "")
    assert err.startswith(f"normbench: {message}")
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_image_too_large_for_the_memory_is_refused(
    outcome: Outcome, normbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_file(tmp_path / "own.png", 64, 64)
    monkeypatch.setattr("normbench.perceptual.stylize.available_memory_gib", lambda: 0.001)
    code, _, err = normbench("stylize", str(outcome.path), "own.png")
    assert code == 2
    assert "'own.png' is 64x64 pixels, which take about 0.0 GiB of memory: make it smaller" in err
