"""One run, as a story: resolve what was asked, load the data, open the run's directory, train, and say how it ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from normbench import environment
from normbench.config.schema import RunConfig
from normbench.data import Dataset, Source, Split
from normbench.data.cache import load
from normbench.data.loader import DeviceLoader
from normbench.data.subset import hold_out, limit
from normbench.errors import NormbenchError
from normbench.runs.rundir import STEP_COLUMNS, RunDir, open_run
from normbench.train.build import build_loader, build_trainer, runtime_of
from normbench.train.compilation import compile_seconds
from normbench.train.engine import (
    Diverged,
    EpochResult,
    StepLog,
    Stopped,
    Trainer,
    check_finite,
    evaluate,
)
from normbench.train.evaluations import batch_accuracy, precise_accuracy, tracking_layers
from normbench.train.progress import Progress
from normbench.train.resolve import Resolver, data_home
from normbench.train.signals import stop_signals

StopAsked = Callable[[], bool]
Splits = dict[str, Split]  # train, then what is evaluated every epoch: val if there is one, test


@dataclass(frozen=True)
class Outcome:
    """How a run stands: its directory, state (done, diverged, interrupted), reason, and last epoch's row."""

    path: Path
    state: str
    reason: str | None
    metrics: dict[str, float]


def execute(config: RunConfig, *, restart: bool = False, patience: float = 0.5) -> Outcome:
    """Trains what `config` describes, or goes on with it, or reports it if it is over.

    patience: seconds to wait for another process that is training the same run, or is about to let go of it.

    Raises NormbenchError for wrong input, before anything is written; RunFailure where the disk is full or another
    process is training the same run. Whatever else goes wrong is recorded as `failed` and raised.
    """
    resolver = Resolver()
    config, source = resolver.resolve(config)
    path = config.run_path
    if not restart and RunDir(path).is_over:
        return _outcome(RunDir(path))
    dataset = limit(
        load(source, data_home(config)),
        config.data.limit_train,
        config.data.limit_test,
        config.seed,
    )
    splits = _splits(dataset, config)
    resolver.check_supported(config, source, len(splits["train"]))
    with open_run(path, restart=restart, patience=patience) as run:
        if not run.is_over:  # another process may have finished it meanwhile
            _train(run, config, source, splits)
        return _outcome(run)


def _splits(dataset: Dataset, config: RunConfig) -> Splits:
    if config.data.val_fraction == 0:
        return {"train": dataset.train, "test": dataset.test}
    train, val = hold_out(dataset.train, config.data.val_fraction, config.seed)
    return {"train": train, "val": val, "test": dataset.test}


def _train(run: RunDir, config: RunConfig, source: Source, splits: Splits) -> None:
    """Trains and records how it ended, whatever happens."""
    with runtime_of(config) as runtime, stop_signals() as should_stop:
        run.begin(config.to_yaml(), _environment(config, source))
        try:
            trainer = build_trainer(config, splits["train"], len(source.classes), runtime)
            run.finish(*_train_to_an_end(run, trainer, config, splits, should_stop))
        except KeyboardInterrupt:
            run.finish("interrupted", "stopped at once: it goes on from the last checkpoint")
            raise
        except Exception as error:
            with suppress(NormbenchError, OSError):
                run.finish("failed", f"{type(error).__name__}: {error}".splitlines()[0])
            raise


def _train_to_an_end(
    run: RunDir, trainer: Trainer, config: RunConfig, splits: Splits, should_stop: StopAsked
) -> tuple[str, str | None]:
    """The state and reason in which training ends, the checkpoint saved."""
    try:
        _train_epochs(run, trainer, config, splits, should_stop)
    except Stopped:
        run.save_checkpoint(trainer.state_dict())
        return "interrupted", f"stopped after step {trainer.step} of {trainer.num_steps}"
    except Diverged as error:
        return "diverged", str(error)
    return "done", None


def _train_epochs(
    run: RunDir, trainer: Trainer, config: RunConfig, splits: Splits, should_stop: StopAsked
) -> None:
    """To the end, from the checkpoint if there is one. A row is written before the checkpoint that covers it."""
    held_out = {name: split for name, split in splits.items() if name != "train"}
    evaluated = {
        name: build_loader(split, config, trainer.runtime) for name, split in held_out.items()
    }
    has_more = config.train.bn_evaluations and tracking_layers(trainer.model)
    train = build_loader(splits["train"], config, trainer.runtime) if has_more else None
    seconds_compiling = compile_seconds(trainer, evaluated.values())
    if run.has_checkpoint:
        trainer.load_state_dict(run.load_checkpoint())
    else:
        run.discard_rows()
    progress = Progress(config.system.progress)
    while not trainer.is_done:
        result = _train_epoch(run, trainer, progress, should_stop)
        row = _metrics_row(trainer, result, evaluated, train, seconds_compiling)
        seconds_compiling = 0.0
        run.append_metrics(row)
        run.save_checkpoint(trainer.state_dict())
        progress.epoch_done(row, config.epochs)


def _train_epoch(
    run: RunDir, trainer: Trainer, progress: Progress, should_stop: StopAsked
) -> EpochResult:
    with progress.epoch(trainer) as advance:

        def on_step(log: StepLog | None) -> None:
            if log is not None:
                run.append_step({column: getattr(log, column) for column in STEP_COLUMNS})
            advance(log)

        return trainer.train_epoch(on_step, should_stop)


def _metrics_row(
    trainer: Trainer,
    result: EpochResult,
    evaluated: dict[str, DeviceLoader],
    train: DeviceLoader | None,
    seconds_compiling: float,
) -> dict[str, float]:
    """The epoch's row of metrics.csv. What comes after the accuracies is measured: it differs from run to run.

    train: the training images as they are tested, if statistics are to be taken over them.
    """
    row: dict[str, float] = {
        "epoch": trainer.epoch,
        "steps": trainer.step,
        "lr": trainer.lr_at(trainer.step - 1),
    }
    row |= {"train_loss": result.loss, "train_accuracy": result.accuracy}
    start = trainer.runtime.now()
    for name, loader in evaluated.items():
        row[f"{name}_loss"], row[f"{name}_accuracy"] = evaluate(
            trainer.model, loader, trainer.runtime
        )
        check_finite(row[f"{name}_loss"], f"the {name} loss after epoch {trainer.epoch}")
    eval_seconds = trainer.runtime.now() - start
    if train is not None:
        model, test, runtime = trainer.model, evaluated["test"], trainer.runtime
        row["test_accuracy_precise"] = precise_accuracy(model, train, test, runtime)
        row["test_accuracy_batch"] = batch_accuracy(model, test, runtime, trainer.batch_size)
    return row | {
        "train_seconds": result.seconds,
        "eval_seconds": eval_seconds,
        "compile_seconds": seconds_compiling,
        "images_per_second": result.num_images / result.seconds,
        "peak_memory_mib": trainer.runtime.peak_memory_mib(),
    }


def _environment(config: RunConfig, source: Source) -> dict[str, Any]:
    """What env.json says: all that the numbers depend on besides the configuration."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": environment.command(),
        "data": {
            "name": source.name,
            "content": source.content,
            "classes": list(source.classes),
            "image_shape": list(source.image_shape),
            "num_train": source.num_train,
            "num_test": source.num_test,
        },
        "concurrent_runs": config.system.concurrent_runs,
        "runtime": config.runtime.model_dump(),
        "hardware": environment.hardware(config.runtime.device),
        "versions": environment.versions(),
        "git": environment.git(),
    }


def _outcome(run: RunDir) -> Outcome:
    return Outcome(run.path, run.status["state"], run.status["reason"], run.last_metrics())
