"""The row of metrics.csv after an epoch: training, evaluations, clocks and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from normbench.data.loader import DeviceLoader
from normbench.norms.shares import mean_shares
from normbench.runs.columns import EXAMPLE_WEIGHT, SHARES, SKIPPED, appearance_columns
from normbench.training.appearance import evaluate_appearance
from normbench.training.engine import EpochResult, Trainer, check_finite
from normbench.training.evaluate import evaluate
from normbench.training.evaluations import evaluate_batchwise, evaluate_precisely
from normbench.training.weighing import can_be_weighed, evaluate_weighed


def epoch_row(
    trainer: Trainer,
    result: EpochResult,
    evaluated: Mapping[str, DeviceLoader],
    statistics: DeviceLoader | None,
    seconds_compiling: float,
    *,
    appearance: bool = False,
) -> tuple[dict[str, float], Tensor | None]:
    """The row of the epoch just trained, and which test images are right, booleans (n,).

    evaluated: the splits to evaluate, `test` among them. statistics: training images without
    augmentation, for BatchNorm's other evaluations; None without these. appearance: whether to
    evaluate under changed appearance after the last epoch; its columns are nan before.
    Raises Diverged for a loss that is not finite.
    """
    runtime = trainer.runtime
    row: dict[str, float] = {
        "epoch": trainer.epoch,
        "steps": trainer.step,
        "lr": trainer.lr_at(trainer.step - 1),  # of the epoch's last step
    }
    row |= {f"train_{name}": mean for name, mean in result.means.items()}
    start = runtime.now()
    correct = None
    for split, loader in evaluated.items():
        evaluation = evaluate(trainer.model, loader, trainer.task, runtime, trainer.processes)
        means = evaluation.means
        check_finite(means["loss"], f"the {split} loss after epoch {trainer.epoch}")
        row |= {f"{split}_{name}": mean for name, mean in means.items()}
        if split == "test":
            correct = evaluation.correct
    eval_seconds = runtime.now() - start
    if statistics is not None:
        row |= _other_evaluations(trainer, statistics, evaluated)
    if appearance:
        row |= _under_appearance(trainer, evaluated["test"])
    if trainer.scaler.is_on:
        row[SKIPPED] = result.num_skipped
    shares = mean_shares(trainer.model)
    row |= {f"{SHARES}{name}": share for name, share in shares.items()}
    # Clocks and memory, at the row's end, are not reproducible.
    row |= {
        "train_seconds": result.seconds,
        "eval_seconds": eval_seconds,
        "compile_seconds": seconds_compiling,
        "images_per_second": result.num_images / result.seconds,
        "peak_memory_mib": runtime.peak_memory_mib(),
    }
    return row, correct


def _other_evaluations(
    trainer: Trainer, statistics: DeviceLoader, evaluated: Mapping[str, DeviceLoader]
) -> dict[str, float]:
    """The primary metric under BatchNorm's other evaluations, by column of metrics.csv.

    Each process computes them as a whole. The example's weight is chosen on the held-out images,
    where there are any, else on training images.
    """
    test = evaluated["test"]
    model, task, runtime = trainer.model, trainer.task, trainer.runtime
    primary = task.primary.name
    precise = evaluate_precisely(model, statistics, test, task, runtime)
    batch_size = trainer.images_together if trainer.is_synced else trainer.batch_size
    batchwise = evaluate_batchwise(model, test, task, runtime, batch_size)
    row = {f"test_{primary}_precise": precise, f"test_{primary}_batch": batchwise}
    if can_be_weighed(model):
        choosing = evaluated.get("val", statistics)
        row[f"test_{primary}_weighed"], row[EXAMPLE_WEIGHT] = evaluate_weighed(
            model, choosing, test, task, runtime, batch_size
        )
    return row


def _under_appearance(trainer: Trainer, test: DeviceLoader) -> dict[str, float]:
    """The evaluation under changed appearance, by column of metrics.csv."""
    if trainer.step < trainer.num_steps:
        return dict.fromkeys(appearance_columns(trainer.task.primary.name), math.nan)
    model, task, processes = trainer.model, trainer.task, trainer.processes
    return evaluate_appearance(model, test, task, trainer.runtime, processes)
