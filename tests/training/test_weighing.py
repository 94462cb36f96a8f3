"""Example weighing: the usual evaluation at alpha 0, instance norm at 1, two moments between."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from kit.training import PLAIN, loader_of, model_of, run_in, split_of, task_of
from torch import Tensor, nn

from normbench.models import Layers, models
from normbench.norms import norms
from normbench.training.evaluations import tracking_layers
from normbench.training.weighing import (
    ALPHAS,
    best_alpha,
    can_be_weighed,
    evaluate_weighed,
    weighed,
)

TASK = task_of()
BATCH_NORMS = ["bn", "bn_custom", "ghost_bn", "batch_renorm", "sync_bn", "lazy_bn", "ibn", "bcn"]
CHOOSING, TEST = loader_of(split_of(40)), loader_of(split_of(30, seed=1))


def trained(norm: str, **options: object) -> nn.Module:
    """A float64 network with statistics, scales and shifts away from their defaults."""
    model = model_of(norm, (8, 16), **options).double()
    generator = torch.Generator().manual_seed(1)
    for layer in tracking_layers(model):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, 1.0, 0.5, generator=generator)
    for batch in loader_of(split_of(50, seed=9)).in_order(10):
        model.train()(batch["images"].double())
    return model.eval()


def images() -> Tensor:
    return TEST.gather(torch.arange(30))["images"].double()


@torch.no_grad()
def outputs(model: nn.Module, alpha: float, x: Tensor) -> Tensor:
    with weighed(model, alpha):
        result: Tensor = model(x)
    return result


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_a_weight_of_0_is_the_usual_evaluation(norm: str) -> None:
    model = trained(norm)
    assert can_be_weighed(model)
    torch.testing.assert_close(outputs(model, 0.0, images()), model(images()))
    assert not torch.allclose(outputs(model, 0.3, images()), model(images()))


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_a_weight_of_1_is_instance_normalization(norm: str) -> None:
    """Whatever the running statistics are; of bn it is in_affine with the same parameters."""
    model, x = trained(norm), images()
    found = outputs(model, 1.0, x)
    for layer in tracking_layers(model):
        layer.running_mean.add_(1.0)
        layer.running_var.mul_(2.0)
    torch.testing.assert_close(outputs(model, 1.0, x), found)
    if norm == "bn":
        instance = model_of("in_affine", (8, 16)).double().eval()
        instance.load_state_dict(model.state_dict(), strict=False)
        torch.testing.assert_close(found, instance(x))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
def test_mean_and_mean_square_of_the_example_are_weighed_with_the_running_ones(
    alpha: float,
) -> None:
    """arXiv:1906.03548, section 3.1, as it is written."""
    layer = nn.BatchNorm2d(3, eps=1e-3).double().eval()
    generator = torch.Generator().manual_seed(0)
    for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
        nn.init.uniform_(values, 0.5, 2, generator=generator)
    x = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    values = x.numpy()
    running = (
        layer.running_mean.numpy(),
        layer.running_var.numpy() + layer.running_mean.numpy() ** 2,
    )
    mean = alpha * values.mean((2, 3)) + (1 - alpha) * running[0]
    mean_square = alpha * (values**2).mean((2, 3)) + (1 - alpha) * running[1]
    std = np.sqrt(mean_square - mean**2 + 1e-3)
    wanted = (values - mean[..., None, None]) / std[..., None, None]
    weight, bias = (p.detach().numpy()[:, None, None] for p in (layer.weight, layer.bias))
    np.testing.assert_allclose(outputs(layer, alpha, x), wanted * weight + bias, rtol=1e-9)


def test_no_image_sees_another() -> None:
    model, x = trained("bn"), images()
    together = outputs(model, 0.3, x)
    torch.testing.assert_close(outputs(model, 0.3, x[7:8]), together[7:8])


@pytest.mark.parametrize("norm", ["switchable", "bin", "ebn", "iternorm", "online", "gn", "none"])
def test_a_norm_with_another_formula_is_not_weighed(norm: str) -> None:
    assert not can_be_weighed(trained(norm))


def test_the_weight_is_chosen_on_other_images_and_the_model_left_as_it_was() -> None:
    model = nn.Sequential(trained("bn")).train()
    model[0].register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    # A single module in another mode than its parents.
    model[0].stage1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    losses = {}
    choosing = CHOOSING.gather(torch.arange(40))
    for alpha in sorted({*ALPHAS, 1 / 8}):
        model.eval()
        scores = outputs(model, alpha, choosing["images"])
        losses[alpha] = float(TASK.assess(scores, choosing, training=False)[0])
    model.train()[0].stage1.eval()
    found, alpha = evaluate_weighed(model, CHOOSING, TEST, TASK, PLAIN, 8)
    assert alpha == min(losses, key=lambda key: losses[key])
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    reached = outputs(model.eval(), alpha, images()).argmax(1)
    labels = TEST.gather(torch.arange(30))["labels"]
    assert found == pytest.approx(float((reached == labels).double().mean()))


def test_the_smallest_of_equal_weights_is_chosen_and_none_with_a_loss_that_is_not_finite() -> None:
    assert best_alpha({0.0: 2.0, 0.1: 1.0, 0.3: 1.0}) == 0.1
    assert best_alpha({0.0: math.nan, 0.1: math.inf, 0.3: 5.0}) == 0.3
    assert best_alpha({0.0: math.nan, 0.1: math.nan}) == 0.0


def test_the_statistics_of_each_step_of_an_lstm_are_weighed() -> None:
    layers = Layers(norms.build("bn"), 0, (3, 4, 4))
    model = models.build("lstm", layers, 10, options={"hidden": 8}).double()
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model(x)
    assert can_be_weighed(model.eval())
    torch.testing.assert_close(outputs(model, 0.0, x), model(x))
    assert not torch.allclose(outputs(model, 0.3, x), model(x))


# In a run


@pytest.mark.parametrize(
    ("norm", "held_out", "has"),
    [("bn", 0.0, True), ("bn", 0.2, True), ("switchable", 0.0, False), ("gn", 0.0, False)],
)
def test_a_run_has_the_columns_where_the_norm_can_be_weighed(
    norm: str, held_out: float, has: bool, tmp_path: Path
) -> None:
    sizes = ("epochs=1", "batch_size=4", "data.num_train=60", "data.num_test=21")
    settings = ("train.bn_evaluations=true", f"data.val_fraction={held_out}", f"norm={norm}")
    path = run_in(tmp_path, *sizes, *settings).path
    (row,) = csv.DictReader((path / "metrics.csv").read_text().splitlines())
    assert ("test_accuracy_weighed" in row) == ("example_weight" in row) == has
    if has:
        assert 0 <= float(row["test_accuracy_weighed"]) <= 1
        assert float(row["example_weight"]) in {*ALPHAS, 0.25}
