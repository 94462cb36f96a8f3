"""The command line: parse, call one function, print. Heavy imports stay inside the commands, so that help is quick."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from normbench.errors import NormbenchError

app = typer.Typer(
    help="Compare normalization layers by measuring.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Fetch, import and check data.", no_args_is_help=True)
app.add_typer(data_app, name="data")

EXIT_CODES = {"done": 0, "failed": 1, "diverged": 3, "interrupted": 130}

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Any setting of configs/ as key=value: norm.num_groups=32 optim.lr=3e-4")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """Runs the command line; a user's mistake becomes one line on standard error and its exit code."""
    try:
        sys.exit(app(standalone_mode=False))
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        if isinstance(error, NormbenchError):
            _fail(str(error), error.exit_code)
        if type(error).__name__ == "Abort":  # what Typer makes of Ctrl-C
            _fail("interrupted", 130)
        if not hasattr(error, "format_message"):  # only Typer's own complaints about arguments have one
            raise
        _fail(error.format_message(), 2)


@app.command()
def train(
    overrides: Overrides = None,
    norm: Annotated[str | None, typer.Option(help="bn, ln, in, gn, none: see `normbench norms`.")] = None,
    model: Annotated[str | None, typer.Option(help="normresnet")] = None,
    data: Annotated[str | None, typer.Option(help="cifar10, cifar10_parquet, image_folder, synthetic")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images whose statistics are taken together.")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(help="Of the weights, the order and the augmentation.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, auto")] = None,
    runs_dir: Annotated[Path | None, typer.Option(help="Where run directories go.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever is there.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config and run id, do no more.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train one network and write its losses, accuracies and times to a run directory.

    The same command again reports a finished run and goes on with an interrupted one.

    \b
    normbench train --norm gn
    normbench train --norm bn --batch-size 1 --epochs 1 --device cpu
    normbench train norm=gn norm.num_groups=32 optim.lr=3e-4 data=synthetic
    """
    from normbench.compose import compose

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
        "system.runs_dir": None if runs_dir is None else str(runs_dir),
    }
    config = compose(overrides or (), {key: value for key, value in flags.items() if value is not None})
    if dry_run:
        from normbench.train.resolve import resolve

        config, _ = resolve(config)
        print(config.to_yaml() + f"# run id: {config.run_id}")
        return
    from normbench.train.run import execute

    outcome = execute(config, restart=restart)
    _report(outcome)
    raise typer.Exit(EXIT_CODES[outcome.state])


def _report(outcome: Any) -> None:
    """The last lines of a run: what came of it and where it is."""
    if outcome.state == "interrupted":
        again = [argument for argument in sys.argv[1:] if argument != "--restart"]
        print(f"{outcome.reason}; go on with: {shlex.join(['normbench', *again])}")
    elif outcome.state == "diverged":
        print(f"diverged: {outcome.reason}  {outcome.path}")
    else:
        epochs = f"{outcome.metrics['epoch']:.0f} epochs"
        print(f"test accuracy {outcome.metrics['test_accuracy']:.4f} after {epochs}  {outcome.path}")


def _fail(message: str, exit_code: int) -> None:
    print(f"normbench: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(exit_code)
