"""BatchNorm's three evaluations: exact whatever the batches, and without a trace in the model."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kit.training import PLAIN, loader_of, model_of, run_in, split_of, task_of
from torch import Tensor, nn

from normbench.data.loader import DeviceLoader
from normbench.data.source import Split
from normbench.errors import NormbenchError
from normbench.models import Layers, models
from normbench.norms import NormSpec
from normbench.tasks.task import Batch
from normbench.training import evaluations
from normbench.training.evaluations import (
    batch_statistics,
    evaluate_batchwise,
    evaluate_precisely,
    precise_statistics,
    tracking_layers,
)
from normbench.training.runtime import Runtime

TASK = task_of()
WIDTHS = (8, 16)
# Kinds of layers with running statistics: BatchNorm, counted batches, mixtures, variance alone,
# mean squares, whitening, one variance for all channels.
KINDS = ["bn", "batch_renorm", "switchable", "evonorm_b0", "mabn", "iternorm", "ebn"]
OTHERS = [
    *("bn_custom", "lazy_bn", "ghost_bn", "sync_bn", "ibn", "ws_bn", "bcn", "bin", "online"),
    *("evonorm_b1", "evonorm_b2"),
]
ALONE = ("evonorm_b0", "evonorm_b1", "evonorm_b2", "mabn")  # have no mean
tracking_norms = pytest.mark.parametrize(
    "norm", [*KINDS, *(pytest.param(norm, marks=pytest.mark.slow) for norm in OTHERS)]
)
TRAIN = loader_of(split_of(50))
TEST = loader_of(split_of(50, seed=1))


def trained(norm: str, **options: object) -> nn.Module:
    """A float64 network with running statistics, scales and shifts away from their defaults."""
    model = model_of(norm, WIDTHS, **options).double()
    generator = torch.Generator().manual_seed(1)
    for layer in tracking_layers(model):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, 1.0, 0.5, generator=generator)
    for batch in loader_of(split_of(50, seed=9)).in_order(10):
        model.train()(batch["images"].double())
    return model


def in_double(model: nn.Module) -> nn.Module:
    """The model on the float32 images of a loader."""
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    return nn.Sequential(nn.Identity(), model).train()


def with_layers_of(make: type[nn.Module]) -> nn.Module:
    layers = Layers(NormSpec("batch", make), seed=3)
    return in_double(models.build("normresnet", layers, 10, options={"widths": WIDTHS}).double())


def precisely(model: nn.Module) -> float:
    return evaluate_precisely(model, TRAIN, TEST, TASK, PLAIN)


def batchwise(model: nn.Module, test: DeviceLoader = TEST, batch_size: int = 8) -> float:
    return evaluate_batchwise(model, test, TASK, PLAIN, batch_size)


def running(model: nn.Module) -> list[Tensor]:
    found = []
    for layer in tracking_layers(model):
        buffers = [getattr(layer, name, None) for name in evaluations.RUNNING]
        found += [buffer.clone() for buffer in buffers if buffer is not None]
    return found


Everything = tuple[dict[str, Tensor], list[tuple[bool, int]]]


def everything(model: nn.Module) -> Everything:
    """The state; the mode and the number of hooks of each module."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state, [(part.training, len(part._forward_pre_hooks)) for part in model.modules()]


def assert_untouched(model: nn.Module, before: Everything) -> None:
    state, modules = everything(model)
    assert modules == before[1]
    for name, value in state.items():
        assert torch.equal(value, before[0][name]), name


# Statistics over all images


@tracking_norms
def test_precise_statistics_do_not_depend_on_the_split_into_batches(norm: str) -> None:
    model = in_double(trained(norm))
    found = []
    for batch_size in (50, 7, 1):
        with torch.no_grad(), precise_statistics(model, TRAIN, PLAIN, batch_size):
            found.append(running(model))
    assert len(found[0]) == (2 if norm in ALONE else 4)
    for split in found[1:]:
        torch.testing.assert_close(split, found[0], rtol=1e-6, atol=1e-9)


def test_precise_statistics_are_the_moments_of_each_layer_s_inputs_in_evaluation() -> None:
    model = trained("bn")
    images = TRAIN.gather(torch.arange(50))["images"]
    first = model.stage1.conv(images.double())
    with torch.no_grad(), precise_statistics(in_double(model), TRAIN, PLAIN):
        found = running(model)
        # In evaluation, with the new statistics.
        second = model.stage2.conv(model.stage1.norm_act(first))
    for mean, var, x in ((*found[:2], first), (*found[2:], second)):
        values = x.detach().transpose(0, 1).flatten(1).numpy()
        np.testing.assert_allclose(mean, values.mean(1), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(var, values.var(1, ddof=1), rtol=1e-9)


def test_precise_statistics_of_an_instance_norm_are_averages_over_images() -> None:
    model = trained("in", track_running_stats=True, momentum=1.0)
    images = TRAIN.gather(torch.arange(50))["images"]
    # With a momentum of 1 the layer keeps the averages over the images of the last batch.
    itself = copy.deepcopy(model.stage1.norm_act[0]).train()
    itself(model.stage1.conv(images.double()))
    for batch_size in (50, 7):
        with torch.no_grad(), precise_statistics(in_double(model), TRAIN, PLAIN, batch_size):
            found = running(model)
        torch.testing.assert_close(found[0], itself.running_mean)
        torch.testing.assert_close(found[1], itself.running_var)


@pytest.mark.parametrize(
    ("norm", "names"),
    [
        ("iternorm", ("running_mean", "running_whitening")),
        ("mabn", ("running_mean_square",)),
        ("ebn", ("running_mean", "running_var")),
    ],
)
def test_precise_statistics_are_those_of_a_single_batch_of_all_images(
    norm: str, names: tuple[str, ...]
) -> None:
    model = trained(norm, momentum=1.0)
    images = TRAIN.gather(torch.arange(50))["images"]
    itself = copy.deepcopy(model.stage1.norm_act[0]).train()
    itself(model.stage1.conv(images.double()))
    with torch.no_grad(), precise_statistics(in_double(model), TRAIN, PLAIN, 7):
        for name in names:
            found = model.stage1.norm_act[0].get_buffer(name)
            torch.testing.assert_close(found, itself.get_buffer(name), rtol=1e-6, atol=1e-9)


# The model afterwards


@tracking_norms
@pytest.mark.parametrize("was_training", [True, False])
def test_the_model_is_left_as_it_was(norm: str, was_training: bool) -> None:
    model = in_double(trained(norm)).train(was_training)
    before = everything(model)
    precisely(model)
    assert_untouched(model, before)
    batchwise(model)
    assert_untouched(model, before)


@pytest.mark.parametrize("evaluate", [precisely, batchwise])
@pytest.mark.parametrize("call", [1, 2, 4])
def test_an_error_leaves_the_model_alone(evaluate: Callable[[nn.Module], float], call: int) -> None:
    model = in_double(trained("bn"))
    before = everything(model)
    forward = model.forward
    calls = []

    def fail(images: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("out of memory")
        result: Tensor = forward(images)
        return result

    model.forward = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(model)
    assert_untouched(model, before)


class TextbookNorm(nn.Module):
    """Statistics of shape (1, c, 1, 1), replaced by new tensors in every step."""

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
    model = with_layers_of(TextbookNorm)
    before = everything(model)
    assert 0 <= precisely(model) <= 1
    assert 0 <= batchwise(model) <= 1
    assert_untouched(model, before)


def test_statistics_that_are_not_one_value_per_channel_are_refused_in_a_line() -> None:
    class Single(TextbookNorm):
        def __init__(self, num_features: int) -> None:
            super().__init__(1)

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = with_layers_of(Single)
    before = everything(model)
    message = r"running statistics of shape \(1, 1, 1, 1\) are not one value per channel"
    with pytest.raises(NormbenchError, match=message):
        precisely(model)
    assert_untouched(model, before)


# Statistics of a test batch


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Batch, Tensor]]:
    """The batches shown to a model, with the outputs."""
    found: list[tuple[Batch, Tensor]] = []
    show = evaluations.outputs_of

    def note(model: nn.Module, batch: Batch, runtime: Runtime) -> Tensor:
        outputs = show(model, batch, runtime)
        found.append((batch, outputs))
        return outputs

    monkeypatch.setattr(evaluations, "outputs_of", note)
    return found


@tracking_norms
def test_no_batch_leaves_anything_behind(norm: str, shown: list[tuple[Batch, Tensor]]) -> None:
    """batch_renorm counts batches: a first batch must not change the outputs of a second."""
    options = {"warmup_steps": 2, "ramp_steps": 4} if norm == "batch_renorm" else {}
    model = in_double(trained(norm, **options))
    batchwise(model, batch_size=10)
    for batch, outputs in shown[::-1]:
        with torch.no_grad(), batch_statistics(model):
            again = model(batch["images"]).float()
        torch.testing.assert_close(again, outputs, rtol=0, atol=0)


def test_batch_statistics_normalize_as_training_does() -> None:
    model = trained("bn")
    images = TRAIN.gather(torch.arange(8))["images"]
    with torch.no_grad(), batch_statistics(model):
        found = model(images.double())
    torch.testing.assert_close(found, model.train()(images.double()))


@pytest.mark.parametrize("num_images", [50, 48, 5])
def test_every_image_counts_once(num_images: int, shown: list[tuple[Batch, Tensor]]) -> None:
    accuracy = batchwise(in_double(trained("bn")), loader_of(split_of(num_images)))
    assert {len(outputs) for _, outputs in shown} == {min(8, num_images)}
    num_correct = 0
    for number, (batch, outputs) in enumerate(shown):
        right = outputs.argmax(1) == batch["labels"]
        num_correct += int(right[: num_images - 8 * number].sum())
    assert accuracy == pytest.approx(num_correct / num_images)


def test_batchwise_batches_are_random_even_where_the_images_lie_by_label() -> None:
    split = split_of(50)
    test = loader_of(Split.of(images=split["images"], labels=np.sort(split["labels"])))
    order: list[int] = []
    gather = test.gather

    def note(indices: Tensor) -> Batch:
        order.extend(indices.tolist())
        return gather(indices)

    test.gather = note  # type: ignore[method-assign]
    batchwise(in_double(trained("bn")), test, 10)
    assert sorted(order) == list(range(50))
    assert order != sorted(order)


# In a run


def row_of(folder: Path, *settings: str) -> dict[str, str]:
    sizes = ("epochs=1", "batch_size=4", "data.num_train=60", "data.num_test=21")
    path = run_in(folder, *sizes, *settings).path
    (row,) = csv.DictReader((path / "metrics.csv").read_text().splitlines())
    return row


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_a_run_with_them_trains_as_without(norm: str, tmp_path: Path) -> None:
    plain = row_of(tmp_path / "plain", f"norm={norm}")
    more = row_of(tmp_path / "more", f"norm={norm}", "train.bn_evaluations=true")
    measured = {"test_accuracy_precise", "test_accuracy_batch", "test_accuracy_weighed"}
    added = measured | {"example_weight"} if norm == "bn" else set()
    assert more.keys() - plain.keys() == added
    assert all(0 <= float(more[name]) <= 1 for name in added)
    assert all(more[name] == plain[name] for name in ("train_loss", "test_loss", "test_accuracy"))


def test_the_last_test_batch_of_a_run_is_filled_up(tmp_path: Path) -> None:
    # 21 test images in batches of 4 leave a single image: too few for bn on a 1x1 map.
    widths = "model.widths=[4,4,4,4,4,4]"
    row = row_of(tmp_path, widths, "train.max_steps=1", "train.bn_evaluations=true")
    assert 0 <= float(row["test_accuracy_batch"]) <= 1
