"""Preparations: equal contrast, one style; and the runs that they are made by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kit.styles import style_run_in
from kit.training import run_in
from PIL import Image

from normbench.errors import NormbenchError
from normbench.perceptual.pictures import Bytes, to_bytes, to_floats
from normbench.perceptual.preparation import equalized, preparation_content, prepared, style_run
from normbench.perceptual.trained import content_of


def images(number: int = 3, height: int = 32, width: int = 32) -> Bytes:
    draw = np.random.default_rng(0)
    return draw.integers(60, 120, (number, 3, height, width), dtype=np.uint8)


def luminance(images: Bytes) -> Bytes:
    pictures = [Image.fromarray(image.transpose(1, 2, 0).copy()) for image in images]
    return np.stack([np.asarray(picture.convert("L")) for picture in pictures])


def test_images_as_they_are_are_not_touched() -> None:
    given = images()
    assert prepared(given, "none") is given
    assert preparation_content("none") is preparation_content("contrast") is None


def test_equal_contrast_spreads_each_luminance_over_the_whole_range() -> None:
    given = images()
    found = prepared(given, "contrast")
    assert found.shape == given.shape
    before, after = (np.ptp(luminance(of_all), (1, 2)) for of_all in (given, found))
    assert (before < 60).all()
    assert (after > 200).all()


def test_contrast_and_brightness_of_an_image_leave_no_trace_in_the_luminance() -> None:
    grey = np.repeat(images()[:, :1], 3, axis=1)
    changed = (2 * (grey.astype(int) - 60) + 20).astype(np.uint8)
    # Colours are rounded on the way to luminance and back, which moves a few pixels.
    difference = luminance(equalized(grey)).astype(int) - luminance(equalized(changed))
    assert np.abs(difference).mean() < 1
    assert np.abs(luminance(grey).astype(int) - luminance(changed)).mean() > 10


def test_a_style_run_gives_contents_its_style_whatever_their_size(tmp_path: Path) -> None:
    outcome = style_run_in(tmp_path, "epochs=1")
    run = style_run("task.prepare", str(outcome.path))
    with torch.no_grad():
        made = run.network(to_floats(images()))
    assert np.array_equal(prepared(images(), str(outcome.path)), to_bytes(made))
    odd = images(1, 17, 22)
    assert prepared(odd, str(outcome.path)).shape == odd.shape
    # The folder of this run alone means the run.
    assert np.array_equal(prepared(odd, str(outcome.path.parent)), prepared(odd, str(outcome.path)))


def test_a_run_is_known_by_its_weights(tmp_path: Path) -> None:
    first, other = (style_run_in(tmp_path / str(s), "epochs=1", f"seed={s}") for s in (0, 1))
    again = style_run_in(tmp_path / "again", "epochs=1", "seed=0")
    known = preparation_content(str(first.path))
    assert known == preparation_content(str(again.path))
    assert known != preparation_content(str(other.path))


def test_a_hash_is_of_names_values_types_and_shapes() -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.ones(1).int()},
        {"a": torch.zeros(2, 3), "b": -torch.ones(1)},
    ]
    assert content_of(state) == content_of(dict(reversed(state.items())))
    assert len({content_of(one) for one in [state, *others]}) == 5


@pytest.mark.parametrize("damage", ["no checkpoint", "cut", "interrupted", "another task", "none"])
def test_a_folder_without_a_finished_style_run_is_refused_in_a_line(
    damage: str, tmp_path: Path
) -> None:
    expected = {
        "no checkpoint": "is missing or damaged",
        "cut": "is missing or damaged",
        "interrupted": "and not done",
        "another task": "is of task classification, and not of style",
        "none": "there is no folder",
    }
    train = run_in if damage == "another task" else style_run_in
    path = train(tmp_path, "epochs=1").path
    checkpoint = path / "checkpoint.pt"
    if damage == "no checkpoint":
        checkpoint.unlink()
    elif damage == "cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    elif damage == "interrupted":
        (path / "status.json").unlink()
    elif damage == "none":
        path = path / "none"
    with pytest.raises(NormbenchError, match=expected[damage]) as refusal:
        prepared(images(), str(path))
    assert str(refusal.value).startswith("task.prepare: ")
    assert "\n" not in str(refusal.value)
