"""The training loop against a plain PyTorch loop, and against itself: stopped or accumulated."""

from __future__ import annotations

import copy
import io
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from kit.training import (
    CPU,
    PLAIN,
    SEED,
    floats_of,
    loader_of,
    model_of,
    never,
    split_of,
    task_of,
    trainer_of,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normbench.seeds import stream
from normbench.training.engine import (
    Diverged,
    EpochResult,
    StepLog,
    Stopped,
    Trainer,
    check_finite,
)
from normbench.training.evaluate import EVAL_BATCH_SIZE, evaluate
from normbench.training.optim import cosine
from normbench.training.runtime import Runtime
from normbench.training.sums import Sums

NUM_IMAGES = 50


def train(trainer: Trainer) -> tuple[list[StepLog], list[EpochResult]]:
    """Every log and every epoch's result until the end."""
    logs: list[StepLog | None] = []
    results = []
    while not trainer.is_done:
        results.append(trainer.train_epoch(logs.append, never))
    return [log for log in logs if log is not None], results


def losses_of(logs: list[StepLog]) -> list[float]:
    return [log.loss for log in logs]


def assert_same_weights(model: nn.Module, expected: nn.Module, **tolerance: float) -> None:
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, **tolerance)


# Against a plain loop


def plain_batches(epoch: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    images, labels = floats_of(split_of())
    order = torch.randperm(NUM_IMAGES, generator=stream(SEED, "order", epoch))
    return [(images[chosen], labels[chosen]) for chosen in order.split(batch_size)]


def plain_optimizer(model: nn.Module, name: str, lr: float) -> torch.optim.Optimizer:
    """torch's unfused optimizer with the project's defaults written out."""
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr, (0.9, 0.999), 1e-8, 0.0, foreach=False)
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr, 0.9, nesterov=True, foreach=False)


@pytest.mark.parametrize("norm", ["bn", "gn"])
@pytest.mark.parametrize(("optim", "lr"), [("adam", 1e-3), ("sgd", 0.05)])
def test_losses_and_weights_are_those_of_a_plain_loop(norm: str, optim: str, lr: float) -> None:
    model = model_of(norm).train()
    optimizer = plain_optimizer(model, optim, lr)
    losses: list[float] = []
    epochs: list[tuple[float, float]] = []
    for epoch in range(3):
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

    # The last of every seven steps has 2 images.
    assert len(losses) == 21
    np.testing.assert_allclose(losses_of(logs), losses, rtol=2e-4)
    means = [result.means["loss"] for result in results]
    np.testing.assert_allclose(means, [loss for loss, _ in epochs], rtol=2e-4)
    accuracies = [result.means["accuracy"] for result in results]
    assert accuracies == [accuracy for _, accuracy in epochs]
    assert [result.num_images for result in results] == [NUM_IMAGES] * 3
    assert_same_weights(trainer.model, model, rtol=1e-2, atol=1e-4)


def test_label_smoothing_mixes_the_loss_with_the_mean_over_all_classes() -> None:
    images, labels = plain_batches(0, NUM_IMAGES)[0]
    log_probabilities = model_of("gn")(images).log_softmax(1)
    target = -log_probabilities[torch.arange(NUM_IMAGES), labels]
    expected = (0.8 * target - 0.2 * log_probabilities.mean(1)).mean().item()
    logs, results = train(trainer_of("gn", batch_size=NUM_IMAGES, epochs=1, label_smoothing=0.2))
    assert logs[0].loss == pytest.approx(expected, rel=1e-5)
    assert results[0].means["loss"] == pytest.approx(logs[0].loss, rel=1e-6)


# Gradient accumulation


@pytest.mark.parametrize("norm", ["ln", "in", "gn", "none"])
def test_accumulating_under_a_batch_free_norm_equals_the_larger_batch(norm: str) -> None:
    # Steps of 16, 16, 16 and 2 images.
    parts = trainer_of(norm, batch_size=4, accumulate=4)
    whole = trainer_of(norm, batch_size=16)
    part_logs, part_results = train(parts)
    whole_logs, whole_results = train(whole)
    assert len(part_logs) == len(whole_logs) == 12
    np.testing.assert_allclose(losses_of(part_logs), losses_of(whole_logs), rtol=2e-4)
    for part, expected in zip(part_results, whole_results, strict=True):
        assert part.means["loss"] == pytest.approx(expected.means["loss"], rel=2e-4)
    assert_same_weights(parts.model, whole.model, rtol=1e-3, atol=1e-5)


def test_a_step_of_an_uneven_group_weighs_every_image_alike() -> None:
    # A single step of 12, 12, 12, 12 and 2 images.
    parts = trainer_of("gn", batch_size=12, accumulate=5)
    whole = trainer_of("gn", batch_size=NUM_IMAGES)
    part_logs, whole_logs = train(parts)[0], train(whole)[0]
    np.testing.assert_allclose(losses_of(part_logs), losses_of(whole_logs), rtol=1e-5)
    assert_same_weights(parts.model, whole.model, rtol=1e-3, atol=1e-6)


def test_accumulating_under_batch_norm_takes_statistics_of_each_batch_by_itself() -> None:
    trainer = trainer_of("bn", batch_size=4, accumulate=4, epochs=1)
    parts, whole = train(trainer)[0], train(trainer_of("bn", batch_size=16))[0]
    assert abs(parts[0].loss - whole[0].loss) > 1e-3
    state = trainer.model.state_dict()
    counts = {int(state[key]) for key in state if key.endswith("num_batches_tracked")}
    assert counts == {math.ceil(NUM_IMAGES / 4)}


# Steps, logs and ends


@pytest.mark.parametrize("log_every", [1, 3, 7, 100])
def test_steps_are_logged_at_the_start_of_an_epoch_and_every_so_many_after(log_every: int) -> None:
    logs, _ = train(trainer_of(log_every=log_every))
    due = [(step, step // 7 + 1) for step in range(21) if step % 7 % log_every == 0]
    assert [(log.step, log.epoch) for log in logs] == due
    complete, _ = train(trainer_of(log_every=1))
    assert logs == [complete[step] for step, _ in due]


def test_a_log_holds_the_means_of_the_epoch_so_far() -> None:
    logs, (result, *_) = train(trainer_of())
    for log in logs[:6]:
        so_far = [logs[step].loss for step in range(log.step + 1)]
        assert log.means["loss"] == pytest.approx(np.mean(so_far))
    assert logs[6].means == result.means
    assert logs[7].means["loss"] == pytest.approx(logs[7].loss)


def test_every_step_is_announced_with_a_log_only_where_a_log_is_due() -> None:
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
    num_images = [result.num_images for result in results]
    assert num_images == [min(8 * count, NUM_IMAGES) for count in steps]


def test_the_learning_rate_of_a_step_follows_progress_over_all_steps() -> None:
    trainer = trainer_of(schedule=cosine, max_steps=10)
    used: list[list[float]] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        used.append([group["lr"] for group in optimizer.param_groups])

    trainer.optimizer.register_step_pre_hook(note)
    logs, _ = train(trainer)
    expected = [0.05 * (1 + math.cos(math.pi * (step + 0.5) / 10)) / 2 for step in range(10)]
    np.testing.assert_allclose(used, [[lr, lr] for lr in expected])
    assert [log.lr for log in logs] == [trainer.lr_at(step) for step in range(10)]
    assert [log.lr for log in logs] == pytest.approx(expected)


def test_an_epoch_s_seconds_are_its_own_and_go_on_after_a_stop() -> None:
    clock = iter(range(100))

    class Ticking(Runtime):
        def now(self) -> float:
            return float(next(clock))

    trainer = trainer_of(runtime=Ticking(CPU, "fp32", False, False))
    with pytest.raises(Stopped):
        trainer.train_epoch(lambda log: None, lambda: trainer.step == 3)
    assert trainer.seconds == 1
    assert trainer.train_epoch(lambda log: None, never).seconds == 2
    assert trainer.train_epoch(lambda log: None, never).seconds == 1


# Stopping and going on


def saved(trainer: Trainer) -> dict[str, Any]:
    """The state, written to disk and read again."""
    buffer = io.BytesIO()
    torch.save(trainer.state_dict(), buffer)
    buffer.seek(0)
    state: dict[str, Any] = torch.load(buffer, weights_only=True)
    return state


def stop_after(trainer: Trainer, step: int) -> list[StepLog | None]:
    """Trains until stopped after `step`; returns the logs."""
    logs: list[StepLog | None] = []
    with suppress(Stopped):
        while True:
            trainer.train_epoch(logs.append, lambda: trainer.step == step)
    return logs


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("norm", "optim"), [("bn", "adam"), ("gn", "sgd"), ("ln", "adamw")])
def test_stopped_after_any_step_and_resumed_equals_uninterrupted_bit_for_bit(
    norm: str, optim: str, accumulate: int
) -> None:
    given: dict[str, Any] = {
        "accumulate": accumulate,
        "epochs": 2,
        "max_steps": 12 // accumulate,
        "augment": True,
        "schedule": cosine,
        "label_smoothing": 0.1,
    }
    uninterrupted = trainer_of(norm, optim, **given)
    logs, results = train(uninterrupted)
    for stop_at in range(1, uninterrupted.num_steps + 1):
        first = trainer_of(norm, optim, **given)
        heard = stop_after(first, stop_at)
        assert first.step == stop_at
        resumed = trainer_of(norm, optim, **given)
        resumed.load_state_dict(saved(first))
        assert not resumed.is_done
        later_logs, later_results = train(resumed)
        assert heard + later_logs == logs
        for later, expected in zip(later_results[::-1], results[::-1], strict=False):
            assert (later.means, later.num_images) == (expected.means, expected.num_images)
        assert_same_weights(resumed.model, uninterrupted.model, rtol=0, atol=0)


def test_a_stop_comes_after_the_step_under_way_and_its_log() -> None:
    trainer, logs = trainer_of(), []
    with pytest.raises(Stopped):
        trainer.train_epoch(logs.append, lambda: True)
    assert trainer.step == len(logs) == 1
    assert trainer.sums.count == 8


# Divergence


def test_a_loss_that_is_not_finite_is_a_divergence() -> None:
    check_finite(1e300, "somewhere")
    for loss in (math.nan, math.inf, -math.inf):
        with pytest.raises(Diverged, match=f"^somewhere is {loss}$"):
            check_finite(loss, "somewhere")


@pytest.mark.parametrize(
    ("log_every", "where"),
    [(1, "the loss of step [1-9] in epoch 1"), (100, "the mean loss of epoch 1")],
)
def test_a_run_that_diverges_stops_and_says_where(log_every: int, where: str) -> None:
    logs: list[StepLog | None] = []
    trainer = trainer_of("none", lr=1e25, log_every=log_every)
    with pytest.raises(Diverged, match=f"^{where} is (nan|inf)$"):
        trainer.train_epoch(logs.append, never)
    # The diverging step is logged before the run ends.
    assert logs[-1] is None or not math.isfinite(logs[-1].loss)


# Metrics and evaluation


def test_metrics_are_sums_over_images_whatever_the_batches() -> None:
    logits = torch.randn(11, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(11) % 10
    labels[:4] = logits[:4].argmax(1)
    sums = Sums(task_of(), CPU)
    for part in torch.arange(11).split(4):
        loss = cross_entropy(logits[part], labels[part])
        num_correct = (logits[part].argmax(1) == labels[part]).sum()
        sums.add(loss, {"accuracy": num_correct}, len(part))
    expected = cross_entropy(logits, labels).item()
    num_correct = int((logits.argmax(1) == labels).sum())
    assert sums.means() == {"loss": pytest.approx(expected, rel=1e-6), "accuracy": num_correct / 11}
    again = Sums(task_of(), CPU)
    again.load_state_dict(sums.state_dict())
    assert again.means() == sums.means()
    assert again.state_dict() == sums.state_dict()
    means, (count, own) = sums.means_with(sums.count, torch.tensor(0.5))
    assert (means, count, own) == (sums.means(), 11, 0.5)
    again.reset()
    assert again.state_dict() == {"totals": {"loss": 0.0, "accuracy": 0.0}, "count": 0}


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_evaluate_is_the_mean_over_all_images_and_changes_nothing(norm: str) -> None:
    # The last batch has a single image.
    split = split_of(EVAL_BATCH_SIZE + 1)
    # Label smoothing is for training alone.
    trainer = trainer_of(norm, split=split, epochs=1, max_steps=3, label_smoothing=0.2)
    train(trainer)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.model.train()
    metrics = evaluate(trainer.model, loader_of(split), trainer.task, PLAIN).means

    for key, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    reference = model_of(norm)
    reference.load_state_dict(before)
    images, labels = floats_of(split)
    with torch.no_grad():
        logits = reference.eval()(images)
    assert metrics["loss"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics["accuracy"] == int((logits.argmax(1) == labels).sum()) / len(labels)


def test_evaluating_between_epochs_does_not_change_the_training() -> None:
    alone, evaluated = trainer_of("bn"), trainer_of("bn")
    train(alone)
    while not evaluated.is_done:
        evaluated.train_epoch(lambda log: None, never)
        evaluate(evaluated.model, loader_of(split_of(20, seed=1)), evaluated.task, PLAIN)
    assert_same_weights(alone.model, evaluated.model, rtol=0, atol=0)
