"""normbench train: one run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normbench.cli import complete
from normbench.cli.options import EXIT_CODES, Overrides, RunsDir, again
from normbench.errors import NormbenchError
from normbench.text import counted, say

if TYPE_CHECKING:
    from normbench.training.run import Outcome


def train(
    overrides: Overrides = None,
    norm: Annotated[
        str | None,
        typer.Option(help="See `normbench norms`.", autocompletion=complete.choices("norm")),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="See `normbench models`.", autocompletion=complete.choices("model")),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="See `normbench doctor`.", autocompletion=complete.choices("data")),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images whose statistics are taken together.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the weights, the order and the augmentation.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda, mps", autocompletion=complete.values("device")),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, bf16, fp16 (cuda), auto", autocompletion=complete.values("precision")
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(help="That train together, each on batch_size images: one a GPU."),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(help="Starts from the last checkpoint when one of the processes has died."),
    ] = None,
    runs_dir: RunsDir = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, whatever is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config and run id, do no more.")
    ] = False,
) -> None:
    """Train a network and write losses, metrics and times to a run directory.

    The same command again reports a finished run, and resumes an interrupted run.

    \b
    normbench train --norm gn
    normbench train --norm bn --batch-size 1 --epochs 1 --device cpu
    normbench train norm=gn norm.num_groups=32 optim.lr=3e-4 data=synthetic
    normbench train --norm sync_bn --processes 4 batch_size=2
    """
    from normbench.config.compose import compose, config_dir, studies
    from normbench.config.grammar import check_words

    flags: dict[str, Any] = {
        "norm": norm,
        "model": model,
        "data": data,
        "batch_size": batch_size,
        "epochs": epochs,
        "seed": seed,
        "optim.lr": lr,
        "runtime.device": device,
        "runtime.precision": precision,
        "runtime.processes": processes,
        "system.restarts": restarts,
        "system.runs_dir": runs_dir,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    check_words(overrides or ())
    for word in overrides or ():
        if word in studies(config_dir()):
            raise NormbenchError(f"'{word}' is a study of many runs: normbench sweep {word}")
    config = compose(overrides or (), given)
    if restarts and config.runtime.processes == 1:
        raise NormbenchError(
            f"--restarts {restarts}: the only process of a run starts no other; "
            "allowed: 0, or --processes 2 and more"
        )
    if dry_run:
        from normbench.training.resolve import resolve

        config, _ = resolve(config)
        say(config.to_yaml() + f"# run id: {config.run_id}", lines=True)
        return
    from normbench.training.run import execute

    try:
        outcome = execute(config, restart=restart)
    except KeyboardInterrupt as stopped:
        if not stopped.args:
            raise
        say(f"{stopped}; go on with: {again()}")
        sys.exit(EXIT_CODES["interrupted"])
    _report(outcome)
    sys.exit(EXIT_CODES[outcome.state])


def _report(outcome: Outcome) -> None:
    if outcome.state == "interrupted":
        say(f"{outcome.reason}; go on with: {again()}")
    elif outcome.state == "diverged":
        say(f"diverged: {outcome.reason}  {outcome.path}")
    else:
        metric = outcome.primary
        value = outcome.metrics[f"test_{metric.name}"]
        epochs = counted(round(outcome.metrics["epoch"]), "epoch")
        say(f"test {metric.title} {metric.finer().show(value)} after {epochs}  {outcome.path}")
