"""One run, as a story: resolve, load the data, open the directory, train, record how it ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from normbench.config.schema import RunConfig
from normbench.data import Dataset, Source, Split
from normbench.data.cache import load
from normbench.data.subset import hold_out, limit
from normbench.errors import NormbenchError, RunFailure, first_line
from normbench.norms import norms, own
from normbench.runs.columns import STEP_COLUMNS
from normbench.runs.correct import pack
from normbench.runs.onlooker import Onlooker
from normbench.runs.records import OVER
from normbench.runs.rundir import RunDir, open_run
from normbench.runs.standing import UNUSABLE, standing
from normbench.runs.state import ANEW
from normbench.tasks.metric import Metric
from normbench.tasks.task import Task
from normbench.text import say
from normbench.trackers.follow import followed
from normbench.training.build import build_loader, build_trainer, runtime_of, task_of
from normbench.training.compilation import compile_seconds
from normbench.training.engine import Diverged, EpochResult, StepLog, Stopped, Trainer
from normbench.training.epoch_row import epoch_row
from normbench.training.evaluations import tracking_layers
from normbench.training.picture import save_picture
from normbench.training.processes import ALONE, Processes
from normbench.training.progress import Progress
from normbench.training.provenance import environment_of
from normbench.training.resolve import Resolver, data_home
from normbench.training.signals import stop_signals

StopAsked = Callable[[], bool]
# "train", then the splits evaluated after every epoch: "val" where images are held out, "test".
Splits = dict[str, Split]


@dataclass(frozen=True)
class Outcome:
    """A run's directory, state (done, diverged, interrupted), reason, and last row of metrics.csv.

    primary: the task's primary metric, which `metrics` holds as `test_<name>`.
    """

    path: Path
    state: str
    reason: str | None
    metrics: dict[str, float]
    primary: Metric


def execute(config: RunConfig, *, restart: bool = False, patience: float = 0.5) -> Outcome:
    """Trains the run that `config` describes, resumes it, or reports it if it is over.

    A run of several processes is trained by processes that this one starts and watches.

    patience: seconds to wait for another process that holds the same run.

    Raises NormbenchError for wrong input, before the run's directory is written; RunFailure where
    the disk is full or another process holds the run. An error once training has begun is recorded
    as `failed` and raised. A KeyboardInterrupt that has been recorded says how the run goes on.
    """
    resolver = Resolver()
    config, source = resolver.resolve(config)
    task = task_of(config, source)
    path = config.run_path
    stands = standing(path)
    if stands.state == "unreachable":
        raise RunFailure(str(stands.reason))
    if not restart:
        if stands.state in UNUSABLE:
            raise RunFailure(f"'{path}': {stands.reason}: {ANEW}")
        if stands.state in OVER:
            return _outcome(RunDir(path), task)
    splits = _splits(load(source, data_home(config)), config)
    # Asked again: images are held out class by class, so the number to train on was an estimate.
    resolver.check_supported(config, source, len(splits["train"]))
    if config.runtime.processes > 1:
        # Runs of one process start without torch's engine.
        from normbench.training.agent import launch

        launch(config, restart=restart, patience=patience)
        return _outcome(RunDir(path), task)
    with open_run(path, restart=restart, patience=patience) as run:
        # Another process may have finished the run while this process loaded the data.
        if not run.is_over:
            run = followed(run, config.system.trackers)
            _train(run, config, source, task, splits, _noted(resolver, config, source))
        return _outcome(run, task)


def train_together(
    config: RunConfig, processes: Processes, *, restart: bool, patience: float
) -> None:
    """Trains the run as one of its processes, of which the main one holds its directory.

    Raises RunFailure as `execute`, in the main process.
    """
    resolver = Resolver()
    config, source = resolver.resolve(config)
    task = task_of(config, source)
    splits = _splits(load(source, data_home(config)), config)
    opened: AbstractContextManager[RunDir] = nullcontext(Onlooker(config.run_path))
    if processes.is_main:
        opened = open_run(config.run_path, restart=restart, patience=patience)
    with opened as run:
        if not processes.from_main(run.is_over):
            noted = _noted(resolver, config, source) if processes.is_main else {}
            if processes.is_main:
                run = followed(run, config.system.trackers)
            _train(run, config, source, task, splits, noted, processes)


def _noted(resolver: Resolver, config: RunConfig, source: Source) -> dict[str, list[str]]:
    """What env.json says of an own norm and an own network, which is told on standard error too.

    broken: the norm's defects; remarks: on the exchange of the network's norms.
    """
    channels = [site[0] for site in resolver.norm_sites(config, source)]
    remarks = list(resolver.remarks(config, source))
    for remark in remarks:
        say(f"note: model {config.model.label}: {remark}", to=sys.stderr)
    return {"broken": warn_of_defects(config, channels), "remarks": remarks}


def _splits(dataset: Dataset, config: RunConfig) -> Splits:
    data = config.data
    dataset = limit(dataset, data.limit_train, data.limit_test, config.subset_seed)
    if data.val_fraction == 0:
        return {"train": dataset.train, "test": dataset.test}
    train, val = hold_out(dataset.train, data.val_fraction, config.subset_seed)
    return {"train": train, "val": val, "test": dataset.test}


def warn_of_defects(config: RunConfig, channels: Sequence[int]) -> list[str]:
    """Tries an own norm on the demands that its figures rest on; returns a phrase for each defect.

    Each is a line on standard error. Registered norms are not tried: tests hold them to the
    contract. channels: numbers of channels that the norm works with.
    """
    name = config.norm.name
    if not own.is_own(name):
        return []
    # Runs of registered norms start without the import.
    from normbench.certificates import defects

    found = defects(norms.build(name, options=config.norm.options), channels)
    for phrase, failure in found.items():
        say(
            f"warning: norm {name} {phrase} ({failure}): its figures are not comparable; "
            "normbench norms --check says more",
            to=sys.stderr,
        )
    return list(found)


def _train(
    run: RunDir,
    config: RunConfig,
    source: Source,
    task: Task,
    splits: Splits,
    noted: dict[str, list[str]],
    processes: Processes = ALONE,
) -> None:
    with runtime_of(config) as runtime, stop_signals() as should_stop:
        run.begin(config.to_yaml(), environment_of(config, source, task) | noted)
        try:
            prepared = {name: task.prepare(split) for name, split in splits.items()}
            trainer = build_trainer(config, task, prepared["train"], runtime, processes)
            state, reason = _train_until_it_ends(run, trainer, config, prepared, should_stop)
            run.finish(state, reason)
        except KeyboardInterrupt:
            # A second Ctrl-C: the first one only asks the loop to stop after its step.
            goes_on = "goes on from the last checkpoint" if run.has_checkpoint else "begins anew"
            reason = f"stopped at once: it {goes_on}"
            run.finish("interrupted", reason)
            raise KeyboardInterrupt(reason) from None
        except Exception as error:
            # Of several processes the agent knows which one was the first to fail.
            if processes.number > 1 and not isinstance(error, NormbenchError):
                raise
            with suppress(NormbenchError, OSError):
                run.finish("failed", first_line(error))
            raise


def _train_until_it_ends(
    run: RunDir, trainer: Trainer, config: RunConfig, splits: Splits, should_stop: StopAsked
) -> tuple[str, str | None]:
    try:
        _train_all_epochs(run, trainer, config, splits, should_stop)
    except Stopped:
        run.save_checkpoint(trainer.state_dict())
        return "interrupted", f"stopped after step {trainer.step} of {trainer.num_steps}"
    except Diverged as error:
        return "diverged", str(error)
    return "done", None


def _train_all_epochs(
    run: RunDir, trainer: Trainer, config: RunConfig, splits: Splits, should_stop: StopAsked
) -> None:
    evaluated = {}
    for name, split in splits.items():
        if name != "train":
            evaluated[name] = build_loader(split, config, trainer.runtime)
    statistics = None
    if config.train.bn_evaluations and tracking_layers(trainer.model):
        # Without augmentation.
        statistics = build_loader(splits["train"], config, trainer.runtime)
    seconds_compiling = compile_seconds(trainer, evaluated.values())
    progress = Progress(config.system.progress if trainer.processes.is_main else "none")
    if trainer.processes.from_main(run.has_checkpoint):
        _resume(run, trainer)
        progress.resumed(trainer)
    else:
        run.discard_rows()
    while not trainer.is_done:
        result = _train_one_epoch(run, trainer, progress, should_stop)
        row, correct = epoch_row(
            trainer,
            result,
            evaluated,
            statistics,
            seconds_compiling,
            appearance=config.train.appearance,
        )
        # Compilation precedes this process's first epoch, whose row alone carries its seconds.
        seconds_compiling = 0.0
        if correct is not None and trainer.step == trainer.num_steps:
            run.save_correct(pack(correct.cpu().numpy()))
        if trainer.step == trainer.num_steps:
            save_picture(run, trainer, evaluated["test"])
        # The row comes first: on resuming, rows that no checkpoint covers are dropped.
        run.append_metrics(row)
        run.save_checkpoint(trainer.state_dict())
        progress.epoch_done(row, config.epochs, trainer.task.metrics)


def _resume(run: RunDir, trainer: Trainer) -> None:
    state, remark = trainer.processes.from_main(run.load_checkpoint())
    if remark is not None and trainer.processes.is_main:
        say(remark, to=sys.stderr)
    try:
        trainer.load_state_dict(state)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        message = f"the checkpoint in '{run.path}' is not of this run ({reason}): {ANEW}"
        raise RunFailure(message) from None


def _train_one_epoch(
    run: RunDir, trainer: Trainer, progress: Progress, should_stop: StopAsked
) -> EpochResult:
    with progress.epoch(trainer) as advance:

        def on_step(log: StepLog | None) -> None:
            if log is not None:
                run.append_step({column: getattr(log, column) for column in STEP_COLUMNS})
            advance(log)

        return trainer.train_epoch(on_step, should_stop)


def _outcome(run: RunDir, task: Task) -> Outcome:
    status = run.status
    return Outcome(run.path, status["state"], status["reason"], run.last_metrics(), task.primary)
