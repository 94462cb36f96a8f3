"""Evaluation under changed appearance: by hand, with networks that do not see it, and in a run."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from kit.training import PLAIN, floats_of, loader_of, model_of, run_in, split_of, task_of
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from normbench.config.compose import compose
from normbench.errors import NormbenchError
from normbench.runs.columns import APPEARANCES, appearance_columns
from normbench.runs.files import read_run
from normbench.training.appearance import STRENGTHS, check_appearance, evaluate_appearance
from normbench.training.evaluate import evaluate
from normbench.training.run import execute
from normbench.training.runtime import Runtime

TASK = task_of()
NUMBER = 600  # batches of 250, 250 and 100
SPLIT = split_of(NUMBER)
TEST = loader_of(SPLIT)
CHANGES = {
    "brightness": functional.adjust_brightness,
    "contrast": functional.adjust_contrast,
    "saturation": functional.adjust_saturation,
    "hue": functional.adjust_hue,
}


class Grey(nn.Module):
    """Turns normalized images into their luminance: what saturation leaves alone."""

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
        return ((x * 0.5 + 0.5) * weights).sum(1, keepdim=True)


class Directions(nn.Module):
    """Features that a factor of brightness multiplies: means of quarters of a nonnegative map."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def found(model: nn.Module, runtime: Runtime = PLAIN) -> dict[str, float]:
    return evaluate_appearance(model, TEST, TASK, runtime)


def test_every_kind_has_its_columns() -> None:
    assert (*STRENGTHS,) == APPEARANCES == (*CHANGES,)
    assert [*found(model_of("bn"))] == appearance_columns("accuracy")


@pytest.mark.parametrize("kind", STRENGTHS)
def test_figures_are_means_over_images_and_both_strengths(kind: str) -> None:
    model = model_of("gn").eval()
    row = found(model)
    images, labels = torch.from_numpy(SPLIT["images"]), torch.from_numpy(SPLIT["labels"])
    body, linear = nn.Sequential(*model[:-1], model[-1][:-1]), model[-1][-1]
    right, shifts = [], []
    with torch.no_grad():
        before = body(floats_of(SPLIT)[0])
        for strength in STRENGTHS[kind]:
            changed = CHANGES[kind](images, strength)
            features = body((changed.float() / 255 - 0.5) / 0.5)
            right.append(linear(features).argmax(1) == labels)
            lengths = before.norm(dim=1) * features.norm(dim=1)
            shifts.append(1 - (before * features).sum(1) / lengths)
    accuracy = float(torch.stack(right).double().mean())
    assert row[f"test_accuracy_{kind}"] == pytest.approx(accuracy, abs=1.01 / NUMBER)
    shift = float(torch.stack(shifts).double().mean())
    assert shift > 1e-4
    assert row[f"feature_shift_{kind}"] == pytest.approx(shift, rel=1e-3)


def test_a_network_that_sees_only_direction_in_grey_ignores_brightness_and_saturation() -> None:
    model = nn.Sequential(Grey(), Directions(), nn.Linear(4, 10))
    row = found(model)
    # But for rounding to bytes and clipping at white.
    shift = {kind: row[f"feature_shift_{kind}"] for kind in APPEARANCES}
    assert max(shift["brightness"], shift["saturation"]) < 0.2 * min(
        shift["contrast"], shift["hue"]
    )


def test_a_network_that_gives_one_answer_keeps_its_accuracy() -> None:
    model = model_of("bn")
    with torch.no_grad():
        model[-1][-1].weight.zero_()
        model[-1][-1].bias.copy_(torch.arange(10.0))
    reached = evaluate(model, TEST, TASK, PLAIN).means["accuracy"]
    row = found(model)
    for kind in APPEARANCES:
        assert row[f"test_accuracy_{kind}"] == pytest.approx(reached, rel=1e-12)


def test_the_model_is_left_as_it_was_but_for_its_mode() -> None:
    model = model_of("bn")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_bf16_in_channels_last_is_near_fp32() -> None:
    model = model_of("gn")
    exact = found(model)
    runtime = Runtime(torch.device("cpu"), "bf16", channels_last=True, compile=False)
    row = found(runtime.prepare(model), runtime)
    for kind in APPEARANCES:
        name = f"feature_shift_{kind}"
        assert row[name] == pytest.approx(exact[name], rel=0.1, abs=1e-3)


def test_what_has_no_colour_and_what_has_no_features_is_refused() -> None:
    with pytest.raises(NormbenchError, match=r"images of 1 channels .* allowed: 3"):
        check_appearance(model_of("bn"), (1, 8, 8))
    with pytest.raises(NormbenchError, match="the network has no linear layer"):
        check_appearance(nn.Conv2d(3, 10, 8), (3, 8, 8))


# In a run

SMALL = ("data.num_train=60", "data.num_test=30", "epochs=2", "batch_size=8")


def rows_of(folder: Path, *settings: str) -> list[dict[str, str]]:
    path = run_in(folder, *SMALL, *settings).path
    assert read_run(path).damaged == {}
    return list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))


def test_a_run_with_it_trains_as_without_and_has_its_columns_after_the_last_epoch(
    tmp_path: Path,
) -> None:
    plain = rows_of(tmp_path / "plain")
    more = rows_of(tmp_path / "more", "train.appearance=true")
    added = appearance_columns("accuracy")
    assert [name for name in more[0] if name not in plain[0]] == added
    for before, after in zip(plain, more, strict=True):
        same = ("train_loss", "test_loss", "test_accuracy")
        assert [before[name] for name in same] == [after[name] for name in same]
    assert all(math.isnan(float(more[0][name])) for name in added)
    last = {name: float(more[1][name]) for name in added}
    assert all(0 <= value <= 1 for value in last.values())
    assert last["feature_shift_brightness"] > 0


def test_a_network_without_features_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def Net(num_classes):\n"
        "    conv = nn.Conv2d(3, num_classes, 32)\n"
        "    return nn.Sequential(nn.BatchNorm2d(3), conv, nn.Flatten())\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = ["model=nets.py:Net", "data=synthetic", "norm=none", "train.appearance=true"]
    with pytest.raises(NormbenchError, match="appearance=true: the network has no linear layer"):
        execute(compose(settings))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] in ([], ["__pycache__"])
