"""The command line: parse, call one function, print. Heavy imports stay inside the commands, so that help is quick."""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from normbench.errors import NormbenchError

app = typer.Typer(
    help="Compare normalization layers by measuring.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich takes longer than all the rest of --help
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Fetch, import and check data.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

EXIT_CODES = {"done": 0, "diverged": 3, "interrupted": 130}  # of an outcome; what fails raises

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Any setting of configs/ as key=value: norm.num_groups=32 optim.lr=3e-4")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """Runs the command line; a user's mistake becomes one line on standard error and its exit code."""
    try:
        code = app(standalone_mode=False)
        if code == 130:  # Typer's answer to a Ctrl-C that no command has handled: they exit by themselves
            _fail("interrupted", 130)
        sys.exit(code)
    except Exception as error:
        complaint = getattr(error, "format_message", None)  # only Typer's own errors about arguments have one
        if not isinstance(error, NormbenchError) and complaint is None:
            raise
        if "--debug" in sys.argv:
            traceback.print_exc()
        _fail(complaint() if complaint else str(error), getattr(error, "exit_code", 2))


@app.command()
def train(
    overrides: Overrides = None,
    norm: Annotated[str | None, typer.Option(help="See `normbench norms`.")] = None,
    model: Annotated[str | None, typer.Option(help="See configs/model/.")] = None,
    data: Annotated[str | None, typer.Option(help="See `normbench doctor`.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images whose statistics are taken together.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the weights, the order and the augmentation.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, auto")] = None,
    runs_dir: Annotated[str | None, typer.Option(help="Where run directories go.")] = None,
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
        "system.runs_dir": runs_dir,
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
    sys.exit(EXIT_CODES[outcome.state])


@app.command()
def demo(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where runs, table and figure go.")] = Path(
        "results/demo"
    ),
    restart: Annotated[bool, typer.Option("--restart", help="Train again what is done.")] = False,
    debug: Debug = False,
) -> None:
    """Compare four norms on built-in synthetic images: a table and a figure in a minute, no download."""
    from normbench.study import load_study, run_study

    states = run_study(load_study("demo"), overrides or (), output, restart=restart)
    if states == ["interrupted"]:
        print("stopped; the same command goes on")
    else:
        print(f"\n{(output / 'table.md').read_text()}\n{output}/: table.md, loss_curves.svg, metrics.csv, runs/")
    sys.exit(max(EXIT_CODES[state] for state in states))


@app.command()
def norms() -> None:
    """List what --norm takes."""
    from normbench.norms import norms as registry

    for entry in registry:
        print(f"{entry.name:6} {entry.title:13} {entry.summary}")
        if options := registry.check(entry.name, {}):
            print(f"{'':20} options: {', '.join(f'norm.{key}={json.dumps(value)}' for key, value in options.items())}")


@app.command()
def doctor() -> None:
    """Show versions, device, cores, precision, and which data are there."""
    from normbench.doctor import examine

    for name, finding in examine():
        print(f"{name:22} {finding}")


@data_app.command("fetch")
def fetch(
    mirror: Annotated[list[str] | None, typer.Option(help="URL of cifar-10-python.tar.gz, tried first.")] = None,
    debug: Debug = False,
) -> None:
    """Download CIFAR-10 and decode it; goes on where it was broken off."""
    from normbench.compose import compose
    from normbench.data.cache import load
    from normbench.data.source import sources
    from normbench.train.resolve import data_home

    home = data_home(compose(flags={"system.mirrors": mirror or []}))
    dataset = load(sources.build("cifar10", home), home)
    print(f"{dataset.name}: {len(dataset.train)} + {len(dataset.test)} images; train with data=cifar10")


@data_app.command("import")
def import_(path: Path, debug: Debug = False) -> None:
    """Decode data you have: a CIFAR-10 archive or folder, a folder of parquet files, or an image folder."""
    from normbench.compose import compose
    from normbench.data.importing import import_data
    from normbench.train.resolve import data_home

    name, dataset = import_data(path, data_home(compose()))
    print(f"{dataset.name}: {len(dataset.train)} + {len(dataset.test)} images; train with data={name}")


@data_app.command("check")
def check() -> None:
    """Verify every decoded data set in the cache; exit code 1 if one is damaged."""
    from normbench.compose import compose
    from normbench.doctor import cached
    from normbench.train.resolve import data_home

    home = data_home(compose())
    found = cached(home)
    for folder, state in found:
        print(f"{folder.name}  {state}")
    if not found:
        print(f"nothing decoded yet in {home.cache_dir}")
    sys.exit(1 if any(state.startswith("damaged") for _, state in found) else 0)


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
