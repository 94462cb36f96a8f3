"""The style task: losses, runs that resume, ids by content, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.launchers import assert_same_numbers, at_step
from kit.norms import normal
from kit.styles import image_file, style_run_in, tiny_style
from kit.training import SOURCE, split_of
from PIL import Image

from normbench.config.compose import compose
from normbench.errors import NormbenchError
from normbench.perceptual.pictures import to_bytes, to_floats
from normbench.perceptual.preparation import style_run
from normbench.runs.files import read_run
from normbench.tasks.registry import tasks
from normbench.training.resolve import resolve


def task_of(**options: Any) -> Any:
    return tasks.build("style", SOURCE, options={"size": 16, **options})


def images(number: int = 3) -> torch.Tensor:
    return normal(number, 3, 16, 16).float().clamp(-1, 1)


def run_id(*settings: str) -> str:
    config, _ = resolve(compose(tiny_style(*settings)))
    return config.run_id


# Losses


def test_of_contents_left_as_they_are_the_content_loss_is_0() -> None:
    _, sums = task_of().assess(images(), {"images": images()}, training=True)
    assert sums["content_loss"] == 0
    assert sums["style_loss"] > 0


def test_of_the_style_image_the_style_loss_is_0() -> None:
    task = task_of(style="dots")
    outputs = to_floats(task.style).repeat(3, 1, 1, 1)
    loss, sums = task.assess(outputs, {"images": images()}, training=True)
    assert sums["style_loss"] == pytest.approx(0, abs=1e-6)
    assert loss == pytest.approx(float(sums["content_loss"]) / 3)


def test_the_loss_is_the_mean_over_images_of_both_losses_weighted() -> None:
    outputs, batch = images().flip(0).clone(), {"images": images()}
    loss, sums = task_of(style_weight=2.5).assess(outputs, batch, training=True)
    expected = (sums["content_loss"] + 2.5 * sums["style_loss"]) / 3
    torch.testing.assert_close(loss, expected)
    each = [
        task_of().assess(outputs[i : i + 1], {"images": images()[i : i + 1]}, training=True)[1]
        for i in range(3)
    ]
    for name, total in sums.items():
        torch.testing.assert_close(total, torch.stack([one[name] for one in each]).sum())


def test_a_split_is_resized_and_keeps_its_other_arrays() -> None:
    split = split_of(5)
    found = task_of().prepare(split)
    assert found["images"].shape == (5, 3, 16, 16)
    assert np.array_equal(found["labels"], split["labels"])


def test_random_arrays_are_images_as_the_network_takes_them() -> None:
    arrays = task_of().random_arrays(7, np.random.default_rng(0))
    assert arrays["images"].shape == (7, 3, 16, 16)
    assert arrays["images"].dtype == np.uint8


def test_a_picture_has_the_style_and_contents_above_what_was_made() -> None:
    task = task_of()
    contents, made = to_floats(to_bytes(images(2))), to_floats(to_bytes(-images(2)))
    picture = task.picture(made, {"images": contents}).transpose(2, 0, 1)
    assert picture.shape == (3, 32, 48)
    assert np.array_equal(picture[:, :16, :16], task.style[0])
    assert np.array_equal(picture[:, :16, 32:], to_bytes(contents)[1])
    assert np.array_equal(picture[:, 16:, 16:32], to_bytes(made)[0])


# Runs


def test_a_run_learns_and_records_its_metrics_and_a_picture(tmp_path: Path) -> None:
    path = style_run_in(tmp_path, "epochs=8", "optim.lr=0.01").path
    run = read_run(path)
    assert run.damaged == {}
    assert run.environment["task"]["primary"] == "style_loss"
    assert run.environment["network"] == {"takes": [3, 16, 16], "makes": [3, 16, 16]}
    for name in ("loss", "content_loss", "style_loss"):
        assert f"test_{name}" in run.metrics
    assert run.metrics["train_loss"][-1] < run.metrics["train_loss"][0]
    assert run.metrics["test_style_loss"][-1] < run.metrics["test_style_loss"][0]
    assert run.correct is None
    assert run.picture is not None
    (path / "picture.png").write_bytes(run.picture[:-1] + b"0")
    assert read_run(path).damaged == {"picture.png": "was changed after the run"}


def test_the_picture_shows_what_the_network_makes_of_the_contents(tmp_path: Path) -> None:
    path = style_run_in(tmp_path).path
    with Image.open(path / "picture.png") as image:
        picture = np.asarray(image).transpose(2, 0, 1)
    contents, made = picture[:, :16, 16:], picture[:, 16:, 16:]
    network = style_run("RUN", str(path)).network
    for place in range(0, contents.shape[2], 16):
        with torch.no_grad():
            expected = to_bytes(network(to_floats(contents[None, :, :, place : place + 16])))
        # A batch of several images may be rounded in another way than one image.
        assert np.abs(expected[0].astype(int) - made[:, :, place : place + 16]).max() <= 1


@pytest.mark.parametrize("step", [1, 7])
def test_a_run_killed_at_a_step_ends_with_the_same_numbers(step: int, tmp_path: Path) -> None:
    class Killed(BaseException):
        """As a kill, which runs no handler for exceptions."""

    def die() -> None:
        raise Killed

    whole = style_run_in(tmp_path / "whole")
    with pytest.raises(Killed), at_step(step, die):
        style_run_in(tmp_path / "killed")
    resumed = style_run_in(tmp_path / "killed")
    assert_same_numbers(whole.path, resumed.path)
    pictures = [(one.path / "picture.png").read_bytes() for one in (whole, resumed)]
    assert pictures[0] == pictures[1]
    weights = [
        torch.load(io.BytesIO((one.path / "checkpoint.pt").read_bytes()), weights_only=True)
        for one in (whole, resumed)
    ]
    for name, value in weights[0]["model"].items():
        assert torch.equal(value, weights[1]["model"][name])


# Ids


def test_a_style_is_known_by_its_content_and_not_by_its_place(tmp_path: Path) -> None:
    first = image_file(tmp_path / "first.png")
    copy = tmp_path / "copy.png"
    copy.write_bytes(first.read_bytes())
    other = image_file(tmp_path / "other.png", seed=1)
    of = {name: run_id(f"task.style={name}") for name in (first, copy, other, "dots", "stripes")}
    assert of[first] == of[copy]
    assert len(set(of.values())) == 4


def test_a_configuration_is_for_the_style_that_it_was_made_for(tmp_path: Path) -> None:
    path = image_file(tmp_path / "own.png")
    config, _ = resolve(compose(tiny_style(f"task.style={path}")))
    assert resolve(config)[0].run_id == config.run_id
    image_file(path, seed=1)
    with pytest.raises(NormbenchError, match=r"task.style: '.*own.png' is not the one that"):
        resolve(config)


def test_a_preparation_is_known_by_the_weights_of_its_run(tmp_path: Path) -> None:
    first, other = (style_run_in(tmp_path / n, "epochs=1", f"norm={n}") for n in ("in", "gn"))
    moved = tmp_path / "moved" / first.path.name
    moved.parent.mkdir()
    ids = [run_id(f"task.prepare={one.path}") for one in (first, other)]
    first.path.rename(moved)
    assert run_id(f"task.prepare={moved}") == ids[0] != ids[1]
    assert run_id() not in ids


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=normresnet"], "model normresnet: it makes (2, 3) of 2 images, and needs to make "),
        (["task.size=18"], "task.size: should be a multiple of 4, not 18"),
        (["task.style=dotts"], "unknown task.style 'dotts': did you mean 'dots'?"),
        (["task.loss_network=vgg"], "unknown task.loss_network 'vgg'"),
        (["task.prepare=equal"], "task.prepare: there is no folder 'equal'"),
        (["task.prepare=contrast"], "task.prepare=contrast: images of task.size=16 have too few"),
        (["task.style_weight=0"], "task.style_weight: should be greater than 0"),
        (["data.std=[0.2,0.5,0.5]"], "data.mean, data.std: task style compares images with those"),
        (["train.appearance=true"], "train.appearance=true: the network has no linear layer"),
    ],
)
def test_what_cannot_work_is_refused_in_a_line_before_any_work(
    settings: list[str], message: str, normbench: Any, tmp_path: Path
) -> None:
    given = tiny_style(*settings)
    if "model=normresnet" in settings:
        given = [one for one in given if not one.startswith("model.")]
    code, out, err = normbench("train", *given, "--runs-dir", "runs")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_classifier_s_task_refuses_the_style_network(normbench: Any) -> None:
    given = ["model=style_transfer", "data=synthetic", "model.width=0.125"]
    code, _, err = normbench("train", *given)
    assert code == 2
    assert "it makes (2, 10, 32, 32) of 2 images, and needs to make (2, 10)" in err
