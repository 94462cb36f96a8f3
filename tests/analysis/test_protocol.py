"""Protocols in words: from a run's configuration, and what differs between two."""

from __future__ import annotations

from typing import Any

import pytest

from normbench.analysis.protocol import Protocol, common, differences, protocol_of, unknown_of
from normbench.analysis.tables.tutorial import CLAIMS, protocol_for
from normbench.config.compose import compose
from normbench.config.schema import flatten

CIFAR10 = {"data": {"name": "cifar10", "num_train": 50_000}}


def of_run(norm: str = "bn", environment: dict[str, Any] = CIFAR10, **settings: Any) -> Protocol:
    """The protocol of a run under the default configuration but for these settings."""
    values = {"norm": norm, "runtime.precision": "fp32", **settings}
    return protocol_of(flatten(compose([], values).identity()), environment)


@pytest.mark.parametrize("norm", CLAIMS)
def test_the_default_configuration_is_the_tutorial_s_protocol(norm: str) -> None:
    there = protocol_for(norm)
    assert differences(of_run(norm), there) == ""
    assert unknown_of(there, of_run(norm)) == "weight decay, label smoothing, which epoch"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epochs": 2}, "2 epochs, not 5"),
        ({"epochs": 1}, "1 epoch, not 5"),
        ({"optim.lr": 3e-4}, "rate 0.0003, not 0.001"),
        ({"optim.lr_scaling": "linear"}, "rate 0.001 * batch / 64, not 0.001"),
        ({"optim.lr_scaling": "sqrt"}, "rate 0.001 * sqrt(batch / 64), not 0.001"),
        ({"optim.betas": [0.9, 0.95]}, "adam, betas [0.9, 0.95], not adam"),
        ({"optim.agc": 0.01}, "adam, gradients clipped to 0.01 of the weights, not adam"),
        ({"optim.decay_norm": True}, "adam, norms decay, too, not adam"),
        ({"train.accumulate": 4}, "adam, 4 batches a step, not adam"),
        (
            {"optim": "sgd", "optim.lr": 0.001},
            "sgd, momentum 0.9, nesterov, not adam",
        ),
        (
            {"optim.schedule": "cosine", "optim.warmup_fraction": 0.05},
            "schedule cosine, warm-up 5 %, not constant",
        ),
        ({"train.max_steps": 100}, "schedule constant, at most 100 steps, not constant"),
        ({"data.augment": "standard"}, "augmentation flip and crop, not none"),
        ({"data.limit_train": 5000}, "5,000 of 50,000 training images"),
        (
            {"data.limit_train": 20_000, "data.val_fraction": 0.2},
            "16,000 of 50,000 training images",
        ),
        ({"data.val_fraction": 0.1}, "45,000 of 50,000 training images"),
        ({"runtime.precision": "bf16"}, "bf16, not fp32"),
        (
            {"model.widths": [16, 32]},
            "normresnet, widths 16, 32, not normresnet, widths 64, 128, 256, 512",
        ),
    ],
)
def test_a_setting_that_differs_from_the_tutorial_s_is_told_with_both_values(
    settings: dict[str, Any], told: str
) -> None:
    assert differences(of_run(**settings), protocol_for("bn")) == told


def test_a_copy_of_the_images_and_other_groups_are_told() -> None:
    jpeg = {"data": CIFAR10["data"] | {"name": "cifar10-jpeg"}}
    assert differences(of_run(environment=jpeg), protocol_for("bn")) == "JPEG copy"
    groups = of_run("gn", **{"norm.num_groups": 8})
    assert differences(groups, protocol_for("gn")) == "8 groups, not 4"


def test_all_that_differs_is_told_at_once() -> None:
    settings = {"epochs": 2, "optim.lr": 0.01, "data.limit_train": 5000}
    told = "2 epochs, not 5; rate 0.01, not 0.001; 5,000 of 50,000 training images"
    assert differences(of_run(**settings), protocol_for("bn")) == told


def test_of_another_network_the_optimizer_and_its_like_are_only_named() -> None:
    there = Protocol(network="ResNet-56", epochs="100", lr="0.1", weight_decay="0.0001")
    told = "normresnet, not ResNet-56; 5 epochs, not 100; also rate, weight decay"
    assert differences(of_run(), there) == told


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model": "resnet", "model.depth": 56}, "ResNet-56"),
        (
            {"model": "resnet", "model.shortcut": "projection"},
            "ResNet-20 with projection shortcuts",
        ),
        ({"model": "vgg", "model.depth": 16}, "VGG-16"),
    ],
)
def test_networks_are_named_as_in_publications(settings: dict[str, Any], named: str) -> None:
    assert of_run(**settings).network == named


def test_what_is_not_known_of_a_source_is_no_difference_and_is_named() -> None:
    there = Protocol(epochs="5", lr="0.001")
    assert differences(of_run(), there) == ""
    unknown = unknown_of(there, of_run())
    assert unknown.startswith("network, optimizer, schedule, weight decay, label smoothing, aug")
    assert unknown_of(of_run(), of_run()) == ""


def test_what_protocols_have_in_common_is_what_none_contradicts() -> None:
    protocols = [of_run(), of_run(epochs=2), of_run("gn")]
    shared = common(protocols)
    assert shared.known.keys() == of_run().known.keys() - {"epochs"}
    assert str(shared).startswith("normresnet, widths 64, 128, 256, 512; adam; rate 0.001; sch")
