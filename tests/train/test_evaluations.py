"""BatchNorm's three evaluations: exact whatever the split into batches, and without a trace in the model."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normbench.config.compose import compose
from normbench.data.loader import DeviceLoader
from normbench.data.source import Split
from normbench.errors import NormbenchError
from normbench.models import Layers, materialize, models
from normbench.norms import NormSpec, norms
from normbench.train import evaluations
from normbench.train.evaluations import (
    batch_accuracy,
    batch_statistics,
    precise_accuracy,
    precise_statistics,
    tracking_layers,
)
from normbench.train.run import execute
from normbench.train.runtime import Runtime

CPU = torch.device("cpu")
RUNTIME = Runtime(CPU, "fp32", channels_last=False, compile=False)
TRACKING = [
    "bn",
    "bn_custom",
    "lazy_bn",
    "ghost_bn",
    "batch_renorm",
    "sync_bn",
    "switchable",
    "ibn",
    "evonorm_b0",
    "ws_bn",
]
TINY = [
    "data=synthetic",
    "data.num_train=60",
    "data.num_test=21",
    "model.widths=[4,8]",
    "batch_size=8",
    "epochs=1",
]


def loader(num_images: int = 50, seed: int = 0, *, by_label: bool = False) -> DeviceLoader:
    generator = np.random.default_rng(seed)
    brightness = generator.uniform(0.1, 1, (num_images, 3, 1, 1))
    images = (generator.integers(0, 256, (num_images, 3, 8, 8)) * brightness).astype(np.uint8)
    labels = generator.integers(0, 10, num_images)
    split = Split.of(images=images, labels=np.sort(labels) if by_label else labels)
    return DeviceLoader(split, mean=(0.5,) * 3, std=(0.5,) * 3, device=CPU)


def trained(norm: str, **options: object) -> nn.Module:
    """A float64 network whose running statistics, scales and shifts are not those of a new one."""
    layers = Layers(norms.build(norm, options=options), seed=3)
    model = materialize(
        models.build("normresnet", layers, 10, options={"widths": (8, 16)}), (3, 8, 8)
    ).double()
    generator = torch.Generator().manual_seed(1)
    for layer in tracking_layers(model):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, 1.0, 0.5, generator=generator)
    for batch in loader(seed=9).in_order(10):
        model.train()(batch["images"].double())
    return model


def in_double(model: nn.Module) -> nn.Module:
    """The model on the float32 images of a loader."""
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    wrapper = nn.Sequential(nn.Identity(), model)
    return wrapper.train()


def running(model: nn.Module) -> list[Tensor]:
    return [
        value.clone()
        for layer in tracking_layers(model)
        for name in evaluations.RUNNING
        if (value := getattr(layer, name, None)) is not None
    ]


def everything(model: nn.Module) -> tuple[dict[str, Tensor], list[bool], list[int]]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modules = list(model.modules())
    return (
        state,
        [module.training for module in modules],
        [len(module._forward_pre_hooks) for module in modules],
    )


def assert_untouched(
    model: nn.Module, before: tuple[dict[str, Tensor], list[bool], list[int]]
) -> None:
    state, modes, hooks = everything(model)
    assert (modes, hooks) == before[1:]
    assert all(torch.equal(value, before[0][name]) for name, value in state.items())


@pytest.mark.parametrize("norm", TRACKING)
def test_precise_statistics_do_not_depend_on_the_split_into_batches(norm: str) -> None:
    model = in_double(trained(norm))
    found = []
    for batch_size in (50, 7, 1):
        with torch.no_grad(), precise_statistics(model, loader(), RUNTIME, batch_size):
            found.append(running(model))
    assert len(found[0]) == (2 if norm == "evonorm_b0" else 4)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, same, rtol=1e-6, atol=1e-9)


def test_precise_statistics_are_the_moments_of_what_reaches_each_layer_in_evaluation() -> None:
    model = trained("bn")
    images = loader().gather(torch.arange(50))["images"]
    first = model.stage1.conv(images.double())
    with torch.no_grad(), precise_statistics(in_double(model), loader(), RUNTIME):
        found = running(model)
        y = model.stage1.norm_act(first)  # in evaluation, with the new statistics
        second = model.stage2.conv(y)
    for mean, var, x in ((*found[:2], first), (*found[2:], second)):
        values = x.detach().transpose(0, 1).flatten(1).numpy()
        np.testing.assert_allclose(mean, values.mean(1), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(var, values.var(1, ddof=1), rtol=1e-9)


def test_of_an_instance_norm_they_are_the_averages_over_samples_that_it_keeps_itself() -> None:
    model = trained("in", track_running_stats=True, momentum=1.0)
    images = loader().gather(torch.arange(50))["images"]
    itself = copy.deepcopy(model.stage1.norm_act[0]).train()
    itself(model.stage1.conv(images.double()))
    for batch_size in (50, 7):
        with torch.no_grad(), precise_statistics(in_double(model), loader(), RUNTIME, batch_size):
            found = running(model)
        torch.testing.assert_close(found[0], itself.running_mean)
        torch.testing.assert_close(found[1], itself.running_var)


@pytest.mark.parametrize("norm", TRACKING)
@pytest.mark.parametrize("was_training", [True, False])
def test_the_model_is_left_as_it_was(norm: str, was_training: bool) -> None:
    model = in_double(trained(norm)).train(was_training)
    before = everything(model)
    precise_accuracy(model, loader(), loader(seed=1), RUNTIME)
    assert_untouched(model, before)
    batch_accuracy(model, loader(seed=1), RUNTIME, 8)
    assert_untouched(model, before)


@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize("call", [1, 2, 4])
def test_the_model_is_left_as_it_was_also_on_an_error(precise: bool, call: int) -> None:
    model = in_double(trained("bn"))
    before = everything(model)
    calls = []

    def fail(images: Tensor, original: Callable[[Tensor], Tensor] = model.forward) -> Tensor:
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("out of memory")
        return original(images)

    model.forward = fail  # type: ignore[method-assign]
    test = loader(seed=1)
    with pytest.raises(RuntimeError, match="out of memory"):
        precise_accuracy(model, loader(), test, RUNTIME) if precise else batch_accuracy(
            model, test, RUNTIME, 8
        )
    assert_untouched(model, before)


class TextbookNorm(nn.Module):
    """Keeps its statistics as (1, c, 1, 1), and puts new tensors in their place."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(1, num_features, 1, 1))
        self.register_buffer("running_var", torch.ones(1, num_features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True)
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
            self.running_var = 0.9 * self.running_var + 0.1 * var.detach()
        return (x - mean) / (var + 1e-5).sqrt()


def test_a_textbook_norm_is_evaluated_and_left_as_it_was_like_any_other() -> None:
    layers = Layers(NormSpec("batch", TextbookNorm), seed=3)
    model = in_double(models.build("normresnet", layers, 10, options={"widths": (8, 16)}).double())
    before = everything(model)
    assert 0 <= precise_accuracy(model, loader(), loader(seed=1), RUNTIME) <= 1
    assert 0 <= batch_accuracy(model, loader(seed=1), RUNTIME, 8) <= 1
    assert_untouched(model, before)


def test_statistics_that_are_not_one_value_per_channel_are_refused_in_a_line() -> None:
    class Single(TextbookNorm):
        def __init__(self, num_features: int) -> None:
            super().__init__(1)

        def forward(self, x: Tensor) -> Tensor:
            return x

    layers = Layers(NormSpec("batch", Single), seed=3)
    model = models.build("normresnet", layers, 10, options={"widths": (8, 16)}).double()
    before = everything(model)
    with pytest.raises(
        NormbenchError,
        match=r"running statistics of shape \(1, 1, 1, 1\) are not one value per channel",
    ):
        precise_accuracy(in_double(model), loader(), loader(seed=1), RUNTIME)
    assert before[0].keys() == model.state_dict().keys()


@pytest.mark.parametrize("norm", TRACKING)
def test_one_test_batch_leaves_nothing_for_the_next(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of a batch are the same whichever batches came before it: batch_renorm counts them, for one."""
    options = {"warmup_steps": 2, "ramp_steps": 4} if norm == "batch_renorm" else {}
    model, given = in_double(trained(norm, **options)), []
    shown = evaluations._logits

    def twice(model: nn.Module, images: Tensor, runtime: Runtime) -> Tensor:
        given.append((images, shown(model, images, runtime)))
        return given[-1][1]

    monkeypatch.setattr(evaluations, "_logits", twice)
    batch_accuracy(model, loader(seed=1), RUNTIME, 10)
    for images, logits in given[::-1]:
        with torch.no_grad(), batch_statistics(model):
            torch.testing.assert_close(shown(model, images, RUNTIME), logits, rtol=0, atol=0)


def test_batch_statistics_normalize_as_training_does() -> None:
    model = trained("bn")
    images = loader().gather(torch.arange(8))["images"]
    with torch.no_grad(), batch_statistics(model):
        found = model(images.double())
    torch.testing.assert_close(found, model.train()(images.double()))


@pytest.mark.parametrize("num_images", [50, 48, 5])
def test_batch_accuracy_counts_every_image_once_in_full_batches(
    num_images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, test, sizes = in_double(trained("bn")), loader(num_images), []
    shown = evaluations._logits

    def watch(model: nn.Module, images: Tensor, runtime: Runtime) -> Tensor:
        sizes.append(len(images))
        return shown(model, images, runtime)

    monkeypatch.setattr(evaluations, "_logits", watch)
    accuracy = batch_accuracy(model, test, RUNTIME, 8)
    assert set(sizes) == {min(8, num_images)}
    assert accuracy * num_images == pytest.approx(round(accuracy * num_images))


def test_batch_accuracy_is_that_of_random_batches_even_where_the_images_lie_by_label() -> None:
    order: list[int] = []
    test = loader(by_label=True)
    gather = test.gather
    test.gather = lambda indices: (order.extend(indices.tolist()), gather(indices))[1]  # type: ignore[method-assign]
    batch_accuracy(in_double(trained("bn")), test, RUNTIME, 10)
    assert sorted(order) == list(range(50))
    assert order != sorted(order)


def rows(folder: Path, *settings: str) -> list[dict[str, str]]:
    kept = [
        text
        for text in TINY
        if text.partition("=")[0] not in {key.partition("=")[0] for key in settings}
    ]
    outcome = execute(
        compose([*kept, *settings], {"system.runs_dir": str(folder), "system.progress": "none"})
    )
    with (outcome.path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_a_run_reports_them_where_the_norm_keeps_statistics_and_trains_as_without(
    norm: str, tmp_path: Path
) -> None:
    [plain] = rows(tmp_path / "plain", f"norm={norm}")
    [more] = rows(tmp_path / "more", f"norm={norm}", "train.bn_evaluations=true")
    added = {"test_accuracy_precise", "test_accuracy_batch"} if norm == "bn" else set()
    assert more.keys() - plain.keys() == added
    assert all(0 <= float(more[name]) <= 1 for name in added)
    assert all(more[name] == plain[name] for name in ("train_loss", "test_loss", "test_accuracy"))


def test_at_batch_1_without_a_map_to_average_over_the_last_test_batch_is_not_of_one(
    tmp_path: Path,
) -> None:
    """21 test images in batches of 4 leave one, which bn could not normalize on a 1x1 map."""
    [row] = rows(
        tmp_path, "batch_size=4", "model.widths=[4,4,4,4,4,4]", "train.bn_evaluations=true"
    )
    assert 0 <= float(row["test_accuracy_batch"]) <= 1
