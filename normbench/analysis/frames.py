"""Run directories as three tidy tables: runs, metrics (a row per run and epoch), steps (a row per run and logged step).

Every table has the columns that say which run a row belongs to, so that it can be read on its own. `read_run` and
`run_row` are also what `normbench runs` is made of, which must show every run, whatever state its files are in.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import yaml

from normbench.config import LOADER
from normbench.errors import RunFailure

KEYS = ("run", "model", "norm", "batch_size", "seed")
RUNS = (
    *KEYS,
    *("lr", "status", "reason", "epochs", "train_loss", "test_loss", "test_accuracy", "val_accuracy"),
    *("median_train_seconds", "num_test", "data", "device", "threads", "precision", "concurrent_runs"),
    *("torch", "commit", "dirty"),
)
METRICS = ("epoch", "steps", "train_loss", "test_loss", "test_accuracy", "train_seconds")
STEPS = ("step", "epoch", "loss", "lr")
NO_SETTING = ("system.", "seed", "batch_size", "optim.lr", "model.name", "data.root", "data.name", "data.content")
COUNTS = ("num_test", "threads")  # unknown where a run failed before it knew its environment


@dataclass(frozen=True)
class Frames:
    """The tables of a set of runs, and each run's environment by its id."""

    runs: pd.DataFrame
    metrics: pd.DataFrame
    steps: pd.DataFrame
    environments: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds. A file that is not there says nothing; `damaged` names those that cannot be read."""

    run: str
    config: dict[str, Any]
    environment: dict[str, Any]
    status: dict[str, Any]
    metrics: list[dict[str, float]]
    damaged: tuple[str, ...]


def read_frames(paths: Iterable[Path], refused: Iterable[RunFiles] = (), damaged: list[Path] | None = None) -> Frames:
    """Reads run directories, in the order given; one that failed early has its status, its reason and empty figures.

    `refused` runs, which have no directory, follow as rows of the runs table. Damaged files are put into the list
    `damaged` and their runs left out; without one they raise RunFailure.
    """
    runs, metrics, steps, environments, configs = [], [], [], {}, []
    for path in paths:
        files = read_run(path)
        if files.damaged and damaged is not None:
            damaged.append(path / files.damaged[0])
            continue
        if files.damaged:
            raise _damaged(path / files.damaged[0])
        row = run_row(files)
        keys = {key: row[key] for key in KEYS}
        runs.append(row)
        metrics.append(_table(keys, files.metrics))
        steps.append(_table(keys, _read_steps(path / "steps.csv")))
        environments[path.name] = files.environment
        configs.append(files.config)
    for files in refused:
        runs.append(run_row(files))
        configs.append(files.config)
    return Frames(
        _runs_table(runs, _settings_that_vary(configs)), _concat(metrics, METRICS), _concat(steps, STEPS), environments
    )


def refused_run(run: str, config: dict[str, Any], reason: str) -> RunFiles:
    """A run that was planned and cannot be trained, as what its files would say."""
    return RunFiles(run, config, {}, {"state": "refused", "reason": reason}, [], ())


def run_dirs(folder: Path) -> list[Path]:
    """The run directories in `folder`, by name: those with a config.yaml."""
    return sorted(path.parent for path in folder.glob("*/config.yaml") if not path.parent.name.startswith("."))


def read_run(path: Path) -> RunFiles:
    """The files of a run, each as far as it can be read; never raises for what is in them."""
    found: dict[str, Any] = {}
    damaged: list[str] = []
    for name, parse in PARSERS.items():
        try:
            found[name] = parse((path / name).read_text())
        except FileNotFoundError:
            pass
        except (ValueError, OSError, RecursionError, csv.Error, yaml.YAMLError):
            damaged.append(name)
    status = found.get("status.json", {})
    needed = ("config.yaml", "metrics.csv") if status.get("state") == "done" else ("config.yaml",)
    damaged += [name for name in needed if not found.get(name) and name not in damaged]
    return RunFiles(
        run=path.name,
        config=found.get("config.yaml", {}),
        environment=found.get("env.json", {}),
        status=status,
        metrics=found.get("metrics.csv", []),
        damaged=tuple(damaged),
    )


def run_row(files: RunFiles) -> dict[str, Any]:
    """One row of the table of runs: how it ended, the last epoch's figures, and where it was made. None is unknown."""
    config, environment = files.config, files.environment
    last = files.metrics[-1] if files.metrics else {}
    seconds = [row["train_seconds"] for row in files.metrics if "train_seconds" in row]
    return {
        "run": files.run,
        "model": at(config, "model.name"),
        "norm": at(config, "norm.name"),
        "batch_size": at(config, "batch_size"),
        "seed": at(config, "seed"),
        "lr": at(config, "optim.lr"),
        "status": files.status.get("state", "new"),
        "reason": files.status.get("reason"),
        "epochs": last.get("epoch", 0),
        "train_loss": last.get("train_loss"),
        "test_loss": last.get("test_loss"),
        "test_accuracy": last.get("test_accuracy"),
        "val_accuracy": last.get("val_accuracy"),
        "median_train_seconds": median(seconds) if seconds else None,
        "num_test": at(config, "data.limit_test") or at(environment, "data.num_test"),
        "data": at(environment, "data.name"),
        "device": at(environment, "hardware.device_name"),
        "threads": at(environment, "hardware.threads"),
        "precision": at(config, "runtime.precision"),
        "concurrent_runs": _concurrent_runs(config, environment),
        "torch": at(environment, "versions.torch"),
        "commit": at(environment, "git.commit"),
        "dirty": at(environment, "git.dirty"),
    }


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def at(content: Any, key: str) -> Any:
    """The value under a dotted key; None where there is none."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def _concurrent_runs(config: dict[str, Any], environment: dict[str, Any]) -> int:
    """The most runs that shared the machine in any session of this one; by the configuration before the first."""
    resumed = environment.get("resumed")
    sessions = [environment, *(resumed if isinstance(resumed, list) else [])]
    counts = [at(session, "concurrent_runs") for session in sessions] + [at(config, "system.concurrent_runs")]
    return max((count for count in counts if isinstance(count, int)), default=1)


def _parse_config(text: str) -> dict[str, Any]:
    """Half a config.yaml can be valid YAML: what names the run must be in it."""
    config: dict[str, Any] = yaml.load(text, LOADER)
    if any(at(config, key) is None for key in ("model.name", "norm.name", "batch_size", "seed")):
        raise ValueError("half a configuration")
    return config


def _parse_environment(text: str) -> dict[str, Any]:
    environment = json.loads(text)
    if not isinstance(environment, dict):
        raise ValueError("no mapping")
    return environment


def _parse_status(text: str) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(text)
    if not isinstance(at(status, "state"), str):
        raise ValueError("no state")
    return status


def _parse_rows(text: str) -> list[dict[str, float]]:
    """The rows of a CSV file, without a last one that a power cut has left unfinished."""
    whole_lines, _, _ = text.rpartition("\n")
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(whole_lines)))
    if any(None in row or None in row.values() or not row.get("epoch", "").isdigit() for row in rows):
        raise ValueError("a row without its epoch, or of another length than the header")
    return [{key: _number(value) for key, value in row.items()} for row in rows]


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text or "nan")


PARSERS: dict[str, Callable[[str], Any]] = {
    "config.yaml": _parse_config,
    "env.json": _parse_environment,
    "status.json": _parse_status,
    "metrics.csv": _parse_rows,
}


def _read_steps(path: Path) -> list[dict[str, float]]:
    try:
        return _parse_rows(path.read_text()) if path.exists() else []
    except (ValueError, csv.Error):
        raise _damaged(path) from None


def _table(keys: dict[str, Any], rows: list[dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame([keys | row for row in rows])


def _settings_that_vary(configs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Settings besides those with a column of their own in which runs of one norm differ: a column each, as text."""
    flat = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config if not key.startswith(NO_SETTING))
    values = {key: [str(config.get(key, "")) for config in flat] for key in keys}
    norms = [config["norm.name"] for config in flat]
    varying = {key: column for key, column in values.items() if len({*zip(norms, column, strict=True)}) > len({*norms})}
    return {{"epochs": "planned_epochs"}.get(key, key): column for key, column in varying.items()}


def _runs_table(rows: list[dict[str, Any]], settings: dict[str, list[Any]]) -> pd.DataFrame:
    """The table of runs; `val_accuracy` is in it where any run held images out."""
    table = pd.DataFrame(rows, columns=list(RUNS)).assign(**settings)
    if table["val_accuracy"].isna().all():
        table = table.drop(columns="val_accuracy")
    return table.astype({name: "Int64" for name in COUNTS if table[name].isna().any()})


def _concat(tables: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    """One table; with at least its `columns` where no run has a row."""
    filled = [table for table in tables if not table.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=[*KEYS, *columns])


def _damaged(path: Path) -> RunFailure:
    return RunFailure(f"'{path}' is damaged: begin the run anew with --restart")
