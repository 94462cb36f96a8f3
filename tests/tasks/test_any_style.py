"""Networks that take any style: what they compute, learn and are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.norms import normal
from kit.styles import image_file, tiny_style
from kit.training import SOURCE
from PIL import Image

from normbench.config.compose import compose
from normbench.models import Layers, models
from normbench.norms import norms
from normbench.perceptual.losses import gram
from normbench.perceptual.pictures import resized, style_image, to_bytes, to_floats
from normbench.perceptual.preparation import style_run
from normbench.perceptual.stylize import stylize_file
from normbench.tasks.registry import tasks
from normbench.tasks.style import Style
from normbench.training.run import Outcome, execute


def settings(*changed: str) -> list[str]:
    """Those of a tiny run of the network `adain`."""
    given = tiny_style("model=adain", "norm=none", "task.any_style=true", *changed)
    return [setting for setting in given if not setting.startswith("model.num_blocks")]


def run_in(folder: Path, *changed: str) -> Outcome:
    places = (f"system.runs_dir={folder}", "system.progress=none")
    return execute(compose(settings(*changed, *places)))


def network(image_size: int = 16, width: float = 0.125) -> Any:
    layers = Layers(norms.build("none"), seed=0, image_shape=(3, image_size, image_size))
    return models.build("adain", layers, 3, options={"width": width})


def task(**options: Any) -> Style:
    made: Any = tasks.build("style", SOURCE, options={"size": 16, "any_style": True, **options})
    return made


def images(number: int) -> torch.Tensor:
    return normal(number, 3, 16, 16).float().clamp(-1, 1)


def moments(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x.mean((2, 3)), x.std((2, 3), correction=0)])


def test_shapes_and_parameters_are_those_of_the_page() -> None:
    whole = network(image_size=64, width=1.0)
    assert sum(parameter.numel() for parameter in whole.parameters()) == 347_779
    assert whole.eval()(torch.zeros(1, 3, 256, 192)).shape == (1, 3, 256, 192)


def test_what_is_decoded_has_the_moments_of_the_style_s_features() -> None:
    made = network()
    task(style="dots").join(made)
    seen: list[torch.Tensor] = []
    made.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        made.eval()(images(3))
        style = moments(made.encoder(to_floats(task(style="dots").style)))
        made.train()(images(3))
        mates = moments(made.encoder(images(3))).roll(1, 1)
    # A channel that its ReLU leaves constant in a content has no deviation to be changed.
    alive = moments(made.encoder(images(3)))[1] > 0.05
    for found, wanted in ((seen[0], style.expand(2, 3, -1)), (seen[1], mates)):
        torch.testing.assert_close(moments(found)[:, alive], wanted[:, alive], atol=0.01, rtol=0.01)


def test_each_loss_is_against_the_style_of_the_image_before() -> None:
    outputs, batch = images(3).flip(0).clone(), {"images": images(3)}
    _, sums = task().assess(outputs, batch, training=True)
    expected = 0.0
    for place in range(3):
        one = task()
        one.grams = [gram(of_layer) for of_layer in one.network(images(3)[place - 1][None])]
        alone = {"images": images(3)[place][None]}
        _, found = one.assess(outputs[place][None], alone, training=False)
        expected += float(found["style_loss"])
    assert float(sums["style_loss"]) == pytest.approx(expected, rel=1e-4)
    _, evaluated = task().assess(outputs, batch, training=False)
    assert float(evaluated["style_loss"]) != pytest.approx(expected, rel=1e-2)


def test_a_run_learns_and_its_network_takes_another_style(normbench: Any, tmp_path: Path) -> None:
    path = run_in(tmp_path / "runs", "epochs=4", "optim.lr=0.01").path
    content, style = image_file(tmp_path / "photo.png"), image_file(tmp_path / "style.png", seed=1)
    made = {}
    styles = {"own": [], "dots": ["--style", "dots"], "file": ["--style", str(style)]}
    for name, given in styles.items():
        output = tmp_path / f"{name}.png"
        arguments = ["stylize", str(path), str(content), "-o", str(output), *given]
        assert normbench(*arguments) == (0, f"{output}\n", "")
        with Image.open(output) as image:
            made[name] = np.asarray(image)
    assert len({each.tobytes() for each in made.values()}) == 3
    again = tmp_path / "again.png"
    stylize_file(str(path), content, again)
    assert np.array_equal(np.asarray(Image.open(again)), made["own"])
    trained = style_run("RUN", str(path)).network
    trained.style.copy_(to_floats(resized(style_image("dots")[None], 16)))
    pixels = np.asarray(Image.open(content)).transpose(2, 0, 1)
    with torch.no_grad():
        expected = to_bytes(trained(to_floats(pixels[None])))[0].transpose(1, 2, 0)
    assert np.abs(expected.astype(int) - made["dots"]).max() <= 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (settings("task.any_style=false"), "task.any_style=false: the network takes any style"),
        (settings("batch_size=1"), "batch_size=1: task style takes an image's style from another"),
        (tiny_style("task.any_style=true"), "task.any_style=true: the network has one style"),
    ],
)
def test_network_and_task_have_to_agree(given: list[str], told: str, normbench: Any) -> None:
    code, _, err = normbench("train", *given)
    assert code == 2
    assert told in err
    assert err.count("\n") == 1


def test_a_network_of_one_style_takes_no_other(normbench: Any, tmp_path: Path) -> None:
    path = execute(compose(tiny_style("epochs=1", f"system.runs_dir={tmp_path / 'runs'}"))).path
    photo = image_file(tmp_path / "photo.png")
    code, _, err = normbench("stylize", str(path), str(photo), "--style", "dots")
    assert code == 2
    assert "--style: the network of this run has one style" in err
