"""Runs in memory, as their files would be read: for tables, whose cells are checked and not their reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from made_up_rounds import COSTS, IMAGE, NUM_TRAIN

from normbench.analysis.frames import Frames, read_frames
from normbench.runs.files import RunFiles


def one_run(
    norm: str = "bn",
    batch_size: int = 64,
    seed: int = 0,
    accuracy: float = 0.5,
    *,
    lr: float = 0.001,
    state: str = "done",
    reason: str | None = None,
    seconds: float | Sequence[float] = 10.0,
    held_out: float | None = None,
    concurrent_runs: int = 1,
    **settings: Any,
) -> RunFiles:
    """A run of as many epochs as there are seconds, the last one's accuracy as given; `settings` by dotted key."""
    each = np.array([seconds] if isinstance(seconds, float | int) else seconds, dtype=float)
    epochs = np.arange(1, len(each) + 1)
    metrics = {
        "epoch": epochs,
        "steps": 10 * epochs,
        "lr": np.full(len(each), lr),
        "train_loss": 2.0 / epochs,
        "train_accuracy": accuracy * epochs / len(each) / 2,
        "test_loss": 1.0 + accuracy / epochs,
        "test_accuracy": accuracy * epochs / len(each),
        "train_seconds": each,
        "images_per_second": 1000 / each,
    }
    if held_out is not None:
        metrics["val_accuracy"] = held_out * epochs / len(each)
    config: dict[str, Any] = {
        "norm": {"name": norm},
        "model": {"name": "normresnet"},
        "data": {"name": "cifar10_parquet", **COSTS["data"], "limit_test": None},
        "optim": {"name": "adam", "lr": lr},
        "train": COSTS["train"],
        "runtime": {"precision": "fp32"},
        "batch_size": batch_size,
        "epochs": len(each),
        "seed": seed,
        "system": {"concurrent_runs": concurrent_runs},
    }
    for key, value in settings.items():
        section, _, name = key.partition(".")
        config[section] = {**config.get(section, {}), name: value} if name else value
    environment = {
        "data": {
            "name": "cifar10-jpeg",
            "image_shape": IMAGE,
            "num_train": NUM_TRAIN,
            "num_test": 10_000,
        },
        "concurrent_runs": concurrent_runs,
        "hardware": {"device_name": "a processor", "threads": 2},
        "versions": {"torch": "2.15.0"},
        "git": {"commit": "0123456789abcdef", "dirty": False},
    }
    extra = "-".join(f"{key}={value}" for key, value in sorted(settings.items()))
    name = f"normresnet-{norm}-b{batch_size}-s{seed}-{lr:g}{extra}"
    has_rows = state in ("done", "interrupted")
    began = state != "refused"
    return RunFiles(
        name,
        config,
        environment if began else {},
        {"state": state, "reason": reason},
        metrics if has_rows else {},
        {},
    )


def in_frames(*runs: RunFiles) -> Frames:
    """The tables of these runs."""
    return read_frames((), runs)
