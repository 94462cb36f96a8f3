"""Run directories as three tidy tables: runs, metrics (a row per run and epoch), steps (a row per run and logged step).

Every table has the columns that say which run a row belongs to, so that it can be read on its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

KEYS = ("run", "model", "norm", "batch_size", "seed")
METRICS = ("epoch", "steps", "train_loss", "test_loss", "test_accuracy", "train_seconds")
STEPS = ("step", "epoch", "loss", "lr")


@dataclass(frozen=True)
class Frames:
    """The tables of a set of runs, and each run's environment by its id."""

    runs: pd.DataFrame
    metrics: pd.DataFrame
    steps: pd.DataFrame
    environments: dict[str, dict[str, Any]]


def read_frames(paths: Iterable[Path]) -> Frames:
    """Reads run directories, in the order given."""
    runs, metrics, steps, environments = [], [], [], {}
    for path in paths:
        config = yaml.safe_load((path / "config.yaml").read_text())
        environment = json.loads((path / "env.json").read_text())
        status = json.loads((path / "status.json").read_text())
        keys = _keys(path.name, config)
        own_metrics = _table(path / "metrics.csv", keys)
        runs.append(keys | _run_row(config, environment, status, own_metrics))
        metrics.append(own_metrics)
        steps.append(_table(path / "steps.csv", keys))
        environments[path.name] = environment
    return Frames(pd.DataFrame(runs), _concat(metrics, METRICS), _concat(steps, STEPS), environments)


def _keys(run: str, config: dict[str, Any]) -> dict[str, Any]:
    values = (run, config["model"]["name"], config["norm"]["name"], config["batch_size"], config["seed"])
    return dict(zip(KEYS, values, strict=True))


def _run_row(
    config: dict[str, Any], environment: dict[str, Any], status: dict[str, Any], metrics: pd.DataFrame
) -> dict[str, Any]:
    """One row of the table of runs: how it ended, the last epoch's figures, and where it was made."""
    last: dict[str, Any] = {} if metrics.empty else dict(metrics.iloc[-1])
    return {
        "lr": config["optim"]["lr"],
        "status": status["state"],
        "reason": status["reason"],
        "epochs": int(last.get("epoch", 0)),
        "train_loss": last.get("train_loss"),
        "test_loss": last.get("test_loss"),
        "test_accuracy": last.get("test_accuracy"),
        "median_train_seconds": None if metrics.empty else float(metrics["train_seconds"].median()),
        "num_test": config["data"]["limit_test"] or environment["data"]["num_test"],
        "data": environment["data"]["name"],
        "device": environment["hardware"]["device_name"],
        "threads": environment["hardware"]["threads"],
        "precision": config["runtime"]["precision"],
        "concurrent_runs": max(one.get("concurrent_runs", 1) for one in (environment, *environment["resumed"])),
        "torch": environment["versions"]["torch"],
        "commit": environment["git"]["commit"],
        "dirty": environment["git"]["dirty"],
    }


def _table(path: Path, keys: dict[str, Any]) -> pd.DataFrame:
    table = pd.read_csv(path) if path.exists() else pd.DataFrame()
    for position, (name, value) in enumerate(keys.items()):
        table.insert(position, name, value)
    return table


def _concat(tables: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    """One table; with at least its `columns` where no run has a row."""
    filled = [table for table in tables if not table.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=[*KEYS, *columns])
