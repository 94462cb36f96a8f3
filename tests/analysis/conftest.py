"""Run directories written by hand, as small as the real ones allow."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

WriteRun = Callable[..., Path]
COLUMNS = (
    "epoch,steps,lr,train_loss,train_accuracy,test_loss,test_accuracy,train_seconds,eval_seconds"
)


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes runs/`name` with one epoch per accuracy: losses 1 / epoch, 10 + epoch seconds.

    A run that is done was to take as many epochs as it has, another one two.
    """

    def write(
        name: str = "normresnet-bn-b64-s0-0123456789ab",
        accuracies: tuple[float, ...] = (0.5, 0.75),
        *,
        state: str = "done",
        reason: str | None = None,
        config: dict[str, Any] | None = None,
        concurrent_runs: int = 1,
        torch: str = "2.15.0",
    ) -> Path:
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        taken = len(accuracies) if state == "done" else 0
        changed = {"epochs": taken or 2} | (config or {})
        (path / "config.yaml").write_text(
            yaml.safe_dump(configuration(name, **changed), sort_keys=False)
        )
        environment = {
            "data": {"name": "cifar10-jpeg", "num_test": 10_000},
            "concurrent_runs": concurrent_runs,
            "hardware": {"device": "cpu", "device_name": "a processor", "threads": 2},
            "versions": {"torch": torch},
            "git": {"commit": "0123456789abcdef", "dirty": False},
            "resumed": [],
        }
        (path / "env.json").write_text(json.dumps(environment))
        status = {
            "state": state,
            "reason": reason,
            "started": "2026-01-01T00:00:00+00:00",
            "finished": None,
        }
        (path / "status.json").write_text(json.dumps(status))
        rows = [
            f"{epoch},{10 * epoch},0.001,{1 / epoch},{accuracy},{1 / epoch},{accuracy},{10.0 + epoch},1.0"
            for epoch, accuracy in enumerate(accuracies, start=1)
        ]
        if rows:
            (path / "metrics.csv").write_text("\n".join([COLUMNS, *rows, ""]))
        return path

    return write


def configuration(name: str, **changed: Any) -> dict[str, Any]:
    """The configuration that the run's id tells, with sections changed."""
    model, norm, batch, seed, _ = name.split("-")
    return {
        "norm": {"name": norm},
        "model": {"name": model, "widths": [4, 8]},
        "data": {"name": "cifar10_parquet", "limit_train": None, "limit_test": None},
        "optim": {"name": "adam", "lr": 0.001},
        "runtime": {"device": "cpu", "precision": "fp32"},
        "batch_size": int(batch[1:]),
        "epochs": 2,
        "seed": int(seed[1:]),
        "system": {"runs_dir": "results/runs", "concurrent_runs": 1},
    } | changed


@pytest.fixture
def count_calls() -> Callable[[Callable[[], object]], int]:
    """Counts the calls of Python functions that a piece of work makes: how it grows, without a clock."""

    def count(work: Callable[[], object]) -> int:
        calls = 0

        def profile(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            work()
        finally:
            sys.setprofile(before)
        return calls

    return count
