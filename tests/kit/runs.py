"""Fake runs, in memory and on disk, and fake rounds of a bench: no training, any numbers."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from normbench.analysis.loading import read_runs, with_bench
from normbench.analysis.study import Study
from normbench.checksums import digest_of
from normbench.config.schema import COST_KEYS, RunConfig, flatten, validate
from normbench.runs.columns import Columns
from normbench.runs.files import RunFiles
from normbench.runs.records import parse_record, write_record
from normbench.runs.rundir import SEALED, open_run
from normbench.tasks.metric import Metric, TaskRecord
from normbench.text import visible, visible_in
from normbench.timing.rounds import as_rounds

LOSS = Metric("loss", "nats", "smaller", low=0)
ACCURACY = Metric(
    "accuracy", "%", "larger", scale=100, decimals=1, difference_unit="points", low=0, high=1
)
CLASSIFICATION = TaskRecord("classification", ACCURACY, (LOSS, ACCURACY))
# A second task, whose primary metric has no unit, no upper bound, and is better when smaller.
SQUARED_ERROR = Metric("squared_error", "", "smaller", decimals=4, low=0)
STYLE_LOSS = Metric("style_loss", unit="", better="smaller", low=0.0)
REGRESSION = TaskRecord("regression", SQUARED_ERROR, (LOSS, SQUARED_ERROR))
STYLE = TaskRecord("style", STYLE_LOSS, (LOSS, STYLE_LOSS))

IMAGE = [3, 32, 32]
NUM_TRAIN = 50_000
COMMAND = "normbench sweep --norm bn,gn"
COMMIT = "0123456789abcdef"
TIMED_ON = {
    "device": "another processor",
    "threads": 1,
    "torch": "2.16.0",
    "python": "3.13.1",
    "commit": "fedcba9876543210",
    "dirty": False,
}
BYTES = {
    "compile_seconds": 0.0,
    "peak_bytes": 3 * 2**20,
    "saved_bytes": 2 * 2**20,
    "state_bytes": 2**20,
}
Ending = tuple[str, str]  # a state and its reason
# Seconds of a step, by round: of a norm, or of a norm at a batch size.
Seconds = Mapping[str | tuple[str, int], Sequence[float]]


def one_run(
    norm: str = "bn",
    batch_size: int = 64,
    seed: int = 0,
    reached: float = 0.5,
    *,
    lr: float = 0.001,
    state: str = "done",
    reason: str | None = None,
    seconds: float | Sequence[float] = 10.0,
    held_out: float | None = None,
    concurrent_runs: int = 1,
    task: TaskRecord = CLASSIFICATION,
    run: str | None = None,
    broken: Sequence[str] = (),
    **settings: Any,
) -> RunFiles:
    """A run of as many epochs as there are seconds, whose primary metric ends at `reached`.

    settings: by dotted key, as `**{"norm.g": 4}`. Only a run that is done or interrupted has rows;
    a refused run has no environment either. broken: defects that training found in the norm.
    """
    config = _config(norm, batch_size, seed, lr, concurrent_runs, task)
    each = np.array([seconds] if isinstance(seconds, float | int) else seconds, dtype=float)
    config["epochs"] = len(each)
    for key, value in settings.items():
        _set(config, key, value)
    extra = "-".join(f"{key}={value}" for key, value in sorted(settings.items()))
    environment = _environment(config, concurrent_runs, task) | {"broken": [*broken]}
    return RunFiles(
        run or f"normresnet-{norm}-b{batch_size}-s{seed}-{lr:g}{extra}",
        config,
        {} if state == "refused" else environment,
        {"state": state, "reason": reason},
        _metrics(each, lr, reached, held_out, task) if state in ("done", "interrupted") else {},
    )


def with_figures(run: RunFiles, **figures: float) -> RunFiles:
    """The run with further columns of metrics.csv, measured after the last epoch alone."""
    more = {}
    for name, value in figures.items():
        more[name] = np.full(len(run.metrics["epoch"]), np.nan)
        more[name][-1] = value
    return replace(run, metrics={**run.metrics, **more})


def in_study(*runs: RunFiles) -> Study:
    """The study of these runs, whose texts are made visible as by reading them."""
    return read_runs((), map(_visible, runs))


def _visible(files: RunFiles) -> RunFiles:
    return replace(
        files,
        run=visible(files.run),
        config=visible_in(files.config),
        environment=visible_in(files.environment),
        status=visible_in(files.status, lines=True),
    )


def id_of(name: str = "normresnet-bn-b64-s0", **settings: Any) -> str:
    """The id of the run that `write_run` writes with the same arguments and two epochs."""
    return validate(_named_config(name, settings)).run_id


def write(folder: Path, files: RunFiles, steps: Columns | None = None) -> Path:
    """Writes the directory of a run, as training leaves it, under the id of its configuration."""
    path = folder / validate(files.config).run_id
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(files.config, sort_keys=False))
    write_record(path / "env.json", files.environment)
    for name, columns in (("metrics.csv", files.metrics), ("steps.csv", steps)):
        if columns:
            (path / name).write_text(pd.DataFrame(columns).to_csv(index=False))
    write_record(path / "status.json", files.status)
    if files.is_over:
        seal(path)
    return path


def seal(path: Path, **changed: Any) -> None:
    """Lets status.json vouch for the files as they are now, with changes of its own."""
    status = parse_record((path / "status.json").read_text()) | changed
    present = [name for name in SEALED if (path / name).exists()]
    status["sha256"] = {name: digest_of(path / name) for name in present}
    write_record(path / "status.json", status)


def write_run(
    folder: Path,
    name: str = "normresnet-bn-b64-s0",
    reached: Sequence[float] = (0.5, 0.75),
    *,
    state: str = "done",
    reason: str | None = None,
    concurrent_runs: int = 1,
    task: TaskRecord = CLASSIFICATION,
    torch: str = "2.15.0",
    **settings: Any,
) -> Path:
    """Writes the run that an id tells but for its hash, an epoch for each value of its metric.

    Losses are 1 / epoch, seconds 10 + epoch. A run that is done was to take the epochs that it
    has, any other run two. settings: by dotted key, or a whole section.
    """
    epochs = {"epochs": len(reached)} if state == "done" else {}
    concurrent = {"system.concurrent_runs": concurrent_runs, "task.name": task.name}
    config = _named_config(name, {**epochs, **concurrent, **settings})
    environment = _environment(config, concurrent_runs, task)
    environment["versions"]["torch"] = torch
    times = {"started": "2026-01-01T00:00:00+00:00", "finished": None}
    status = {"state": state, "reason": reason, **times}
    metrics: Columns = {}
    if reached:
        epochs = np.arange(1, len(reached) + 1)
        metrics = {"epoch": epochs, "steps": 10 * epochs, "lr": np.full(len(epochs), 0.001)}
        splits = ["train", "test", *(["val"] if config["data"]["val_fraction"] else [])]
        for split, metric in itertools.product(splits, task.metrics):
            values = np.array(reached) if metric == task.primary else 1 / epochs
            metrics[f"{split}_{metric.name}"] = values
        metrics |= _clocks(10.0 + epochs)
    return write(folder, RunFiles(name, config, environment, status, metrics))


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
    ended: Mapping[tuple[str, int], Ending] | None = None,
    shared: Sequence[str] = (),
    settings: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    task: TaskRecord = CLASSIFICATION,
) -> Path:
    """Writes a run for each choice, with random figures and `logged` logged steps.

    ended: state and reason by norm and batch size, after one epoch; all other runs are done.
    shared: norms whose runs shared the machine. settings: by norm, sections of the configuration,
    with a run for each of them.
    """
    choices = list(itertools.product(norms, batch_sizes, seeds, rates))
    index = 0
    for norm, batch_size, seed, rate in choices:
        for sections in (settings or {}).get(norm, [{}]):
            state, reason = (ended or {}).get((norm, batch_size), ("done", None))
            concurrent = 2 if norm in shared else 1
            config = _config(norm, batch_size, seed, rate, concurrent, task)
            config["epochs"] = epochs
            config["data"]["val_fraction"] = 0.1 if held_out else 0.0
            for section, values in sections.items():
                _merge(config, section, values)
            reached = config["epochs"] if state == "done" else 1
            generator = np.random.default_rng(index)
            metrics, steps = _random(generator, reached, logged, held_out, task)
            has_rows = state != "failed"
            files = RunFiles(
                f"normresnet-{norm}-b{batch_size}-s{seed}-{index:012x}",
                config,
                _environment(config, concurrent, task),
                {"state": state, "reason": reason},
                metrics if has_rows else {},
            )
            write(folder, files, steps if has_rows else None)
            index += 1
    return folder


def leave_run(
    config: RunConfig,
    state: str = "done",
    reason: str | None = None,
    *,
    epochs: int | None = None,
    reached: float = 0.5,
    train_seconds: float = 3.0,
    task: TaskRecord = CLASSIFICATION,
) -> Path:
    """Leaves the directory of a run that ended in `state`, written by the real RunDir.

    epochs: that were trained; by default all that the configuration asks for.
    """
    environment = {
        "task": task.to_json(),
        "data": {"name": "synthetic", "num_test": 20},
        "concurrent_runs": config.system.concurrent_runs,
        "hardware": {"device_name": "a processor", "threads": 1},
        "versions": {"torch": "2.15.0"},
        "git": {"commit": COMMIT, "dirty": False},
    }
    splits = ["train", "test", *(["val"] if config.data.val_fraction else [])]
    row: dict[str, float] = {"lr": 0.1}
    for split, metric in itertools.product(splits, task.metrics):
        is_result = metric == task.primary and split != "train"
        row[f"{split}_{metric.name}"] = reached if is_result else 1.0
    row |= {name: float(value[0]) for name, value in _clocks(np.array([train_seconds])).items()}
    with open_run(config.run_path) as run:
        run.begin(config.to_yaml(), environment)
        run.discard_rows()
        for epoch in range(1, (config.epochs if epochs is None else epochs) + 1):
            run.append_step({"step": 7 * epoch - 1, "epoch": epoch, "loss": 1.0, "lr": 0.1})
            run.append_metrics({"epoch": epoch, "steps": 7 * epoch, **row})
        if state != "running":
            run.finish(state, reason)
    return config.run_path


def some_seconds(*norms: str, rounds: int = 9) -> Seconds:
    """Seconds of a step of each norm, different in every round."""
    found = {}
    for index, norm in enumerate(norms):
        found[norm] = np.random.default_rng(index).uniform(0.05, 0.15, rounds).tolist()
    return found


def cost_id(config: Mapping[str, Any]) -> str:
    """A hash of the settings that a step's cost depends on; `config` has dotted keys."""
    text = json.dumps(_costly(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def rows_of(
    config: Mapping[str, Any], seconds: Sequence[float], race: str = "", **facts: Any
) -> list[dict[str, Any]]:
    """The rows of a configuration with dotted keys, a round for each of these seconds.

    facts: columns in place of those of our machine and images.
    """
    known = {
        "cost_id": cost_id(config),
        **_costly(config),
        "image": "x".join(map(str, IMAGE)),
        "outputs": 10,
        **TIMED_ON,
        **BYTES,
        "race": race or f"2026-01-02T03:04:05+00:00 batch {config['batch_size']}",
        **facts,
    }
    return [known | {"round": number, "seconds": value} for number, value in enumerate(seconds)]


def rows_by_processes(
    config: Mapping[str, Any], seconds: Sequence[float], processes: int, **facts: Any
) -> list[dict[str, Any]]:
    """The rows of a configuration whose rounds so many processes took in turns."""
    rows = []
    for first in range(processes):
        race = f"2026-01-02T03:04:05+00:00 process {first + 1} batch {config['batch_size']}"
        rows += rows_of(config, seconds[first::processes], race, **facts)
    return rows


def rounds_of(study: Study, seconds: Seconds, processes: int = 1) -> pd.DataFrame:
    """The rounds of all settings of these runs for which there are seconds, whatever the seed.

    The processes take them in turns: process 2 of 5 has the rounds 1, 6, 11.
    """
    timed: dict[str, list[dict[str, Any]]] = {}
    for config in study.configs.values():
        norm, batch_size = config["norm.name"], config["batch_size"]
        found = seconds.get((norm, batch_size), seconds.get(norm))
        if found is not None:
            timed[cost_id(config)] = rows_by_processes(config, found, processes)
    return as_rounds([row for rows in timed.values() for row in rows])


def timed(study: Study, seconds: Seconds, processes: int = 1) -> Study:
    """The study with a bench of its settings, whose steps took these seconds."""
    return with_bench(study, rounds_of(study, seconds, processes))


def _config(
    norm: str, batch_size: int, seed: int, lr: float, concurrent_runs: int, task: TaskRecord
) -> dict[str, Any]:
    return {
        "task": {"name": task.name},
        "norm": {"name": norm},
        "model": {"name": "normresnet"},
        "data": {
            "name": "cifar10_parquet",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "augment": "none",
            "limit_train": None,
            "limit_test": None,
            "subset_seed": 0,
            "val_fraction": 0.0,
        },
        "optim": {
            "name": "adam",
            "lr": lr,
            "lr_scaling": "none",
            "reference_batch_size": 64,
            "schedule": "constant",
            "warmup_fraction": 0.0,
            "weight_decay": 0.0,
        },
        "train": {"accumulate": 1, "max_steps": None, "log_every": 100, "bn_evaluations": False},
        "runtime": {
            "device": "cpu",
            "precision": "fp32",
            "channels_last": False,
            "compile": False,
            "cuda_graphs": False,
        },
        "batch_size": batch_size,
        "epochs": 2,
        "seed": seed,
        "system": {
            "runs_dir": "results/runs",
            "cache_dir": None,
            "mirrors": [],
            "workers": None,
            "threads": None,
            "concurrent_runs": concurrent_runs,
            "progress": "none",
        },
    }


def _named_config(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration told by the parts of an id, with settings by dotted key or section."""
    model, norm, batch, seed, *_ = name.split("-")
    config = _config(norm, int(batch[1:]), int(seed[1:]), 0.001, 1, CLASSIFICATION)
    config["model"] = {"name": model, "widths": [4, 8]}
    for key, value in settings.items():
        _set(config, key, value)
    return config


def _clocks(seconds: np.ndarray) -> Columns:
    """The measured columns of metrics.csv for epochs that took these seconds."""
    ones = np.ones(len(seconds))
    return {
        "train_seconds": seconds,
        "eval_seconds": ones,
        "compile_seconds": 0 * ones,
        "images_per_second": 1000 / seconds,
        "peak_memory_mib": 500 * ones,
    }


def _environment(
    config: Mapping[str, Any], concurrent_runs: int, task: TaskRecord
) -> dict[str, Any]:
    return {
        "task": task.to_json(),
        "cost_id": cost_id(flatten(config)),
        "data": {
            "name": "cifar10-jpeg",
            "image_shape": IMAGE,
            "num_train": NUM_TRAIN,
            "num_test": 10_000,
        },
        "concurrent_runs": concurrent_runs,
        "hardware": {"device": "cpu", "device_name": "a processor", "threads": 2},
        "versions": {"torch": "2.15.0"},
        "git": {"commit": COMMIT, "dirty": False},
        "command": COMMAND,
        "resumed": [],
    }


def _metrics(
    seconds: np.ndarray, lr: float, reached: float, held_out: float | None, task: TaskRecord
) -> Columns:
    """The primary metric grows to `reached`, in training to half of it; losses fall."""
    epochs = np.arange(1, len(seconds) + 1)
    grown = epochs / len(seconds)
    primary = task.primary.name
    return {
        "epoch": epochs,
        "steps": 10 * epochs,
        "lr": np.full(len(epochs), lr),
        "train_loss": 2.0 / epochs,
        f"train_{primary}": reached * grown / 2,
        "test_loss": 1.0 + reached / epochs,
        f"test_{primary}": reached * grown,
        **({} if held_out is None else {f"val_{primary}": held_out * grown}),
        **_clocks(seconds),
    }


def _random(
    generator: np.random.Generator, epochs: int, logged: int, held_out: bool, task: TaskRecord
) -> tuple[Columns, Columns]:
    """The rows of metrics.csv and steps.csv, 100 steps an epoch."""
    names = []
    for split in ("train", "test", "val") if held_out else ("train", "test"):
        names += [f"{split}_{metric.name}" for metric in task.metrics]
    drawn = generator.uniform(0.1, 0.9, (epochs, len(names)))
    epoch = np.arange(1, epochs + 1)
    metrics = {"epoch": epoch, "steps": 100 * epoch, "lr": np.full(epochs, 0.001)}
    metrics |= dict(zip(names, drawn.T, strict=True))
    metrics |= _clocks(generator.uniform(0.1, 0.9, epochs))
    step = np.arange(logged) * 100 * epochs // max(logged, 1)
    loss = 2.3 * 0.9 ** np.arange(logged) + generator.uniform(0, 0.5, logged)
    steps = {"step": step, "epoch": 1 + step // 100, "loss": loss, "lr": np.full(logged, 0.001)}
    return metrics, steps


def _costly(config: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in config.items() if key.startswith(COST_KEYS)}


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key, or merges a section."""
    section, _, name = key.partition(".")
    _merge(config, section, {name: value} if name else value)


def _merge(config: dict[str, Any], section: str, values: Any) -> None:
    is_section = isinstance(values, Mapping)
    config[section] = {**config.get(section, {}), **values} if is_section else values
