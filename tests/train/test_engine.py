"""The training loop against a plain PyTorch loop, and against itself when it is stopped, split or accumulated."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normbench.data.augment import FlipAndCrop
from normbench.data.loader import DeviceLoader
from normbench.data.source import Split
from normbench.models import Layers, models
from normbench.norms import norms
from normbench.seeds import stream
from normbench.train.engine import (
    EVAL_BATCH_SIZE,
    Diverged,
    EpochResult,
    Metrics,
    StepLog,
    Stopped,
    Trainer,
    check_finite,
    evaluate,
)
from normbench.train.optim import cosine, optimizers, parameter_groups, schedule
from normbench.train.runtime import Runtime

CPU = torch.device("cpu")
RUNTIME = Runtime(CPU, "fp32", channels_last=False, compile=False)
HALF = (0.5, 0.5, 0.5)
NUM_IMAGES = 50
SEED = 3


def split_of(num_images: int = NUM_IMAGES, seed: int = 0) -> Split:
    generator = np.random.default_rng(seed)
    brightness = generator.uniform(
        0.1, 1, (num_images, 3, 1, 1)
    )  # so that a batch's statistics depend on who is in it
    images = (generator.integers(0, 256, (num_images, 3, 8, 8)) * brightness).astype(np.uint8)
    return Split.of(images=images, labels=generator.integers(0, 10, num_images))


def model_of(norm: str) -> nn.Module:
    return models.build(
        "normresnet", Layers(norms.build(norm), SEED), 10, options={"widths": (4, 8)}
    )


def loader_of(split: Split, *, augment: bool = False) -> DeviceLoader:
    augmentation = FlipAndCrop(len(split), SEED, CPU) if augment else None
    return DeviceLoader(split, mean=HALF, std=HALF, device=CPU, augment=augmentation)


def trainer_of(
    norm: str = "bn",
    optim: str = "sgd",
    *,
    lr: float = 0.05,
    split: Split | None = None,
    augment: bool = False,
    **given: Any,
) -> Trainer:
    model = model_of(norm)
    settings: dict[str, Any] = {
        "batch_size": 8,
        "epochs": 3,
        "log_every": 1,
        "schedule": schedule("constant", 0.0),
    }
    return Trainer(
        model=model,
        optimizer=optimizers.build(optim)(parameter_groups(model), lr),
        loader=loader_of(split or split_of(), augment=augment),
        runtime=RUNTIME,
        lr=lr,
        seed=SEED,
        **settings | given,
    )


def never() -> bool:
    return False


def train(
    trainer: Trainer, should_stop: Callable[[], bool] = never
) -> tuple[list[StepLog], list[EpochResult]]:
    """Every log and every epoch's result until the end."""
    logs: list[StepLog | None] = []
    results = []
    while not trainer.is_done:
        results.append(trainer.train_epoch(logs.append, should_stop))
    return [log for log in logs if log is not None], results


def assert_same_weights(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    for key, value in one.state_dict().items():
        torch.testing.assert_close(
            value, other.state_dict()[key], **tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )


# Against a plain loop

Batch = tuple[Tensor, Tensor]


def plain_batches(epoch: int, batch_size: int) -> list[Batch]:
    split = split_of()
    images = (torch.from_numpy(split["images"]).float() / 255 - 0.5) / 0.5
    labels = torch.from_numpy(split["labels"])
    order = torch.randperm(NUM_IMAGES, generator=stream(SEED, "order", epoch))
    return [(images[chosen], labels[chosen]) for chosen in order.split(batch_size)]


def plain_optimizer(model: nn.Module, name: str, lr: float) -> torch.optim.Optimizer:
    """torch's unfused optimizer with our defaults written out."""
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr, (0.9, 0.999), 1e-8, 0.0, foreach=False)
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr, 0.9, nesterov=True, foreach=False)


@pytest.mark.parametrize("norm", ["bn", "gn"])
@pytest.mark.parametrize(("optim", "lr"), [("adam", 1e-3), ("sgd", 0.05)])
def test_losses_metrics_and_weights_are_those_of_a_plain_loop(
    norm: str, optim: str, lr: float
) -> None:
    model = model_of(norm).train()
    optimizer = plain_optimizer(model, optim, lr)
    losses: list[float] = []
    epochs: list[tuple[float, float]] = []
    for epoch in range(3):  # 21 steps, of which every seventh has 2 images
        loss_sum, num_correct = 0.0, 0
        for images, labels in plain_batches(epoch, 8):
            optimizer.zero_grad()
            logits = model(images)
            loss = cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            loss_sum += loss.item() * len(labels)
            num_correct += int((logits.argmax(1) == labels).sum())
        epochs.append((loss_sum / NUM_IMAGES, num_correct / NUM_IMAGES))

    trainer = trainer_of(norm, optim, lr=lr)
    logs, results = train(trainer)

    assert len(losses) == 21
    np.testing.assert_allclose([log.loss for log in logs], losses, rtol=2e-4)
    np.testing.assert_allclose(
        [result.loss for result in results], [loss for loss, _ in epochs], rtol=2e-4
    )
    assert [result.accuracy for result in results] == [accuracy for _, accuracy in epochs]
    assert [result.num_images for result in results] == [NUM_IMAGES] * 3
    assert_same_weights(trainer.model, model, rtol=1e-2, atol=1e-4)


def test_label_smoothing_mixes_the_loss_with_the_mean_over_all_classes() -> None:
    images, labels = plain_batches(0, NUM_IMAGES)[0]
    log_probabilities = model_of("gn")(images).log_softmax(1)
    target, mean = -log_probabilities[torch.arange(NUM_IMAGES), labels], -log_probabilities.mean(1)
    logs, results = train(trainer_of("gn", batch_size=NUM_IMAGES, epochs=1, label_smoothing=0.2))
    assert logs[0].loss == pytest.approx((0.8 * target + 0.2 * mean).mean().item(), rel=1e-5)
    assert results[0].loss == pytest.approx(logs[0].loss, rel=1e-6)


# Gradient accumulation


@pytest.mark.parametrize("norm", ["ln", "in", "gn", "none"])
def test_accumulating_under_a_batch_free_norm_equals_the_larger_batch(norm: str) -> None:
    parts, whole = trainer_of(norm, batch_size=4, accumulate=4), trainer_of(norm, batch_size=16)
    (part_logs, part_results), (whole_logs, whole_results) = (
        train(parts),
        train(whole),
    )  # steps of 16, 16, 16 and 2
    assert len(part_logs) == len(whole_logs) == 12
    np.testing.assert_allclose(
        [log.loss for log in part_logs], [log.loss for log in whole_logs], rtol=2e-4
    )
    np.testing.assert_allclose(
        [r.loss for r in part_results], [r.loss for r in whole_results], rtol=2e-4
    )
    assert_same_weights(parts.model, whole.model, rtol=1e-3, atol=1e-5)


def test_a_step_of_an_uneven_group_weighs_every_image_alike() -> None:
    # 50 images in batches of 12: a step of 4 batches, then one of 2 images; with accumulate=5 a single 12,12,12,12,2.
    parts, whole = (
        trainer_of("gn", batch_size=12, accumulate=5),
        trainer_of("gn", batch_size=NUM_IMAGES),
    )
    part_logs, whole_logs = train(parts)[0], train(whole)[0]
    np.testing.assert_allclose(
        [log.loss for log in part_logs], [log.loss for log in whole_logs], rtol=1e-5
    )
    assert_same_weights(parts.model, whole.model, rtol=1e-3, atol=1e-6)


def test_accumulating_under_batch_norm_is_not_the_larger_batch() -> None:
    parts = train(trainer_of("bn", batch_size=4, accumulate=4))[0]
    whole = train(trainer_of("bn", batch_size=16))[0]
    assert abs(parts[0].loss - whole[0].loss) > 1e-3


def test_accumulating_gathers_statistics_for_each_batch_by_itself() -> None:
    trainer = trainer_of("bn", batch_size=4, accumulate=4, epochs=1)
    train(trainer)
    counts = {
        int(v)
        for key, v in trainer.model.state_dict().items()
        if key.endswith("num_batches_tracked")
    }
    assert counts == {math.ceil(NUM_IMAGES / 4)}


# Steps, logs and ends


@pytest.mark.parametrize("log_every", [1, 3, 7, 100])
def test_steps_are_logged_at_the_start_of_an_epoch_and_every_so_many_after(log_every: int) -> None:
    logs, _ = train(trainer_of(log_every=log_every))
    due = [(step, step // 7 + 1) for step in range(21) if step % 7 % log_every == 0]
    assert [(log.step, log.epoch) for log in logs] == due
    complete, _ = train(trainer_of(log_every=1))
    assert logs == [complete[step] for step, _ in due]


def test_every_step_is_announced_with_a_log_only_where_one_is_due() -> None:
    announced: list[StepLog | None] = []
    trainer_of(log_every=3).train_epoch(announced.append, never)
    assert [log is not None for log in announced] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("max_steps", "steps"), [(1, [1]), (7, [7]), (10, [7, 3]), (21, [7, 7, 7]), (99, [7, 7, 7])]
)
def test_max_steps_ends_the_run_in_the_middle_of_an_epoch(max_steps: int, steps: list[int]) -> None:
    trainer = trainer_of(max_steps=max_steps)
    assert trainer.num_steps == sum(steps)
    logs, results = train(trainer)
    assert len(logs) == trainer.step == sum(steps)
    assert trainer.epoch == len(results)
    assert [result.num_images for result in results] == [
        min(8 * count, NUM_IMAGES) for count in steps
    ]
    assert trainer.is_done


def test_the_learning_rate_of_a_step_follows_progress_over_all_steps() -> None:
    trainer, used = trainer_of(schedule=cosine, max_steps=10), []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append([group["lr"] for group in optimizer.param_groups])
    )
    logs, _ = train(trainer)
    expected = [0.05 * (1 + math.cos(math.pi * (step + 0.5) / 10)) / 2 for step in range(10)]
    np.testing.assert_allclose(used, [[lr, lr] for lr in expected])
    assert (
        [log.lr for log in logs]
        == [trainer.lr_at(step) for step in range(10)]
        == pytest.approx(expected)
    )


def test_an_epoch_s_seconds_are_its_own_and_go_on_after_a_stop() -> None:
    clock = iter(range(100))

    class Ticking(Runtime):
        def now(self) -> float:
            return float(next(clock))

    trainer = trainer_of()
    trainer.runtime = Ticking(CPU, "fp32", False, False)
    with pytest.raises(Stopped):
        trainer.train_epoch(lambda log: None, lambda: trainer.step == 3)
    assert trainer.seconds == 1
    assert trainer.train_epoch(lambda log: None, never).seconds == 2
    assert trainer.train_epoch(lambda log: None, never).seconds == 1


# Stopping and going on


def saved(trainer: Trainer) -> dict[str, Any]:
    """The state after a journey to the disk and back."""
    buffer = io.BytesIO()
    torch.save(trainer.state_dict(), buffer)
    buffer.seek(0)
    state: dict[str, Any] = torch.load(buffer, weights_only=True)
    return state


def stop_after(trainer: Trainer, step: int, logs: list[StepLog | None]) -> None:
    try:
        while True:
            trainer.train_epoch(logs.append, lambda: trainer.step == step)
    except Stopped:
        return


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("norm", "optim"), [("bn", "adam"), ("gn", "sgd")])
def test_stopped_after_any_step_and_resumed_equals_uninterrupted_bit_for_bit(
    norm: str, optim: str, accumulate: int
) -> None:
    def fresh() -> Trainer:
        given: dict[str, Any] = {
            "epochs": 2,
            "max_steps": 12 // accumulate,
            "augment": True,
            "schedule": cosine,
        }
        return trainer_of(norm, optim, accumulate=accumulate, **given)

    uninterrupted = fresh()
    logs, results = train(uninterrupted)
    for stop_at in range(1, uninterrupted.num_steps + 1):
        first, heard = fresh(), []
        stop_after(first, stop_at, heard)
        assert first.step == stop_at
        resumed = fresh()
        resumed.load_state_dict(saved(first))
        assert not resumed.is_done
        later_logs, later_results = train(resumed)
        assert heard + later_logs == logs
        both = [(result.loss, result.accuracy, result.num_images) for result in later_results]
        assert both == [
            (result.loss, result.accuracy, result.num_images) for result in results[-len(both) :]
        ]
        assert_same_weights(resumed.model, uninterrupted.model, rtol=0, atol=0)


def test_a_stop_comes_after_the_step_under_way_and_its_log() -> None:
    trainer, logs = trainer_of(), []
    with pytest.raises(Stopped):
        trainer.train_epoch(logs.append, lambda: True)
    assert trainer.step == len(logs) == 1
    assert trainer.metrics.count == 8


# Divergence


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_a_divergence(loss: float) -> None:
    with pytest.raises(Diverged, match=f"^somewhere is {loss}$"):
        check_finite(loss, "somewhere")
    check_finite(1e300, "somewhere")


@pytest.mark.parametrize(
    ("log_every", "where"),
    [(1, "the loss of step [1-9] in epoch 1"), (100, "the mean loss of epoch 1")],
)
def test_a_run_that_diverges_stops_and_says_where(log_every: int, where: str) -> None:
    logs: list[StepLog | None] = []
    trainer = trainer_of("none", lr=1e25, log_every=log_every)
    with pytest.raises(Diverged, match=f"^{where} is (nan|inf)$"):
        trainer.train_epoch(logs.append, never)
    # The step that shows it is logged before the run ends.
    assert logs[-1] is None or not math.isfinite(logs[-1].loss)


# Metrics and evaluation


def test_metrics_are_sums_over_images_whatever_the_batches() -> None:
    logits = torch.randn(11, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(11) % 10
    labels[:4] = logits[:4].argmax(1)
    metrics = Metrics(CPU)
    for part in torch.arange(11).split(4):
        metrics.add(cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    loss, accuracy = metrics.read()
    assert loss == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-6)
    assert accuracy == int((logits.argmax(1) == labels).sum()) / 11
    again = Metrics(CPU)
    again.load_state_dict(metrics.state_dict())
    assert tuple(again.read()) == (loss, accuracy)
    assert again.state_dict() == metrics.state_dict()


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_evaluate_is_the_mean_over_all_images_in_evaluation_mode_and_changes_nothing(
    norm: str,
) -> None:
    split = split_of(EVAL_BATCH_SIZE + 1)  # the last batch has a single image
    trainer = trainer_of(norm, split=split, epochs=1, max_steps=3)
    train(trainer)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.model.train()
    loss, accuracy = evaluate(trainer.model, loader_of(split), RUNTIME)

    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    reference = model_of(norm)
    reference.load_state_dict(before)
    images = (torch.from_numpy(split["images"]).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        logits = reference.eval()(images)
    labels = torch.from_numpy(split["labels"])
    assert loss == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
    assert accuracy == int((logits.argmax(1) == labels).sum()) / len(labels)


def test_evaluating_between_epochs_does_not_change_the_training() -> None:
    alone, evaluated = trainer_of("bn"), trainer_of("bn")
    train(alone)
    while not evaluated.is_done:
        evaluated.train_epoch(lambda log: None, never)
        evaluate(evaluated.model, loader_of(split_of(20, seed=1)), RUNTIME)
    assert_same_weights(alone.model, evaluated.model, rtol=0, atol=0)
