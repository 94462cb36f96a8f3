"""A study's run directories with made-up numbers: any norms, batch sizes, seeds, learning rates, endings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from made_up_rounds import COSTS, IMAGE, NUM_TRAIN

Where = tuple[str, int]  # a norm at a batch size
COMMAND = "normbench sweep --norm bn,gn"


def write_runs(
    folder: Path,
    norms: Sequence[str] = ("bn", "gn"),
    batch_sizes: Sequence[int] = (64,),
    seeds: Sequence[int] = (0,),
    rates: Sequence[float] = (0.001,),
    *,
    epochs: int = 3,
    logged: int = 12,
    held_out: bool = False,
    ended: Mapping[Where, tuple[str, str]] | None = None,
    shared: Sequence[str] = (),
    settings: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Path:
    """One run for each choice, done but where `ended` says otherwise, after one epoch; norms in `shared` ran two at a
    time. settings: by norm, sections of the configuration; a run for each of them.
    """
    choices = itertools.product(norms, batch_sizes, seeds, rates)
    cases = [(*one, also) for one in choices for also in (settings or {}).get(one[0], [{}])]
    for index, (norm, batch_size, seed, rate, also) in enumerate(cases):
        state, reason = (ended or {}).get((norm, batch_size), ("done", None))
        path = folder / f"normresnet-{norm}-b{batch_size}-s{seed}-{index:012x}"
        path.mkdir(parents=True)
        config = {
            "norm": {"name": norm},
            "model": {"name": "normresnet"},
            "data": {
                "name": "cifar10_parquet",
                **COSTS["data"],
                "val_fraction": 0.1 if held_out else 0.0,
            },
            "optim": {"name": "adam", "lr": rate, "weight_decay": 0.0},
            "train": COSTS["train"],
            "runtime": {"precision": "fp32"},
            "batch_size": batch_size,
            "epochs": epochs,
            "seed": seed,
            "system": {"concurrent_runs": 2 if norm in shared else 1},
        }
        for section, values in also.items():
            config[section] = (
                {**config[section], **values} if isinstance(values, Mapping) else values
            )
        environment = {
            "data": {
                "name": "cifar10-jpeg",
                "image_shape": IMAGE,
                "num_train": NUM_TRAIN,
                "num_test": 10_000,
            },
            "concurrent_runs": 2 if norm in shared else 1,
            "hardware": {"device_name": "a processor", "threads": 2},
            "versions": {"torch": "2.15.0"},
            "git": {"commit": "0123456789abcdef", "dirty": False},
            "command": COMMAND,
        }
        (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (path / "env.json").write_text(json.dumps(environment))
        (path / "status.json").write_text(json.dumps({"state": state, "reason": reason}))
        reached = config["epochs"] if state == "done" else 1
        if state != "failed":
            _write_figures(path, np.random.default_rng(index), reached, logged, held_out)
    return folder


def _write_figures(
    path: Path, generator: np.random.Generator, epochs: int, logged: int, held_out: bool
) -> None:
    names = [
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        *["val_loss", "val_accuracy"][: 2 * held_out],
    ]
    metrics = [",".join(["epoch", "steps", "lr", *names, "train_seconds", "eval_seconds"])]
    for epoch in range(1, epochs + 1):
        values = generator.uniform(0.1, 0.9, len(names) + 2).tolist()
        metrics.append(",".join(map(str, [epoch, 100 * epoch, 0.001, *values])))
    steps = ["step,epoch,loss,lr"]
    for i in range(logged):
        at = i * 100 * epochs // logged
        steps.append(f"{at},{1 + at // 100},{2.3 * 0.9**i + generator.uniform(0, 0.5)},0.001")
    (path / "metrics.csv").write_text("\n".join([*metrics, ""]))
    (path / "steps.csv").write_text("\n".join([*steps, ""]))
