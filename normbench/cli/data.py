"""normbench data: fetch, import and check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normbench.cli.commands import Command
from normbench.text import say

if TYPE_CHECKING:
    from normbench.data import Dataset

app = typer.Typer(help="Fetch, import and check data.", no_args_is_help=True, rich_markup_mode=None)


@app.command("fetch", cls=Command)
def fetch(
    mirror: Annotated[
        list[str] | None, typer.Option(help="URL of cifar-10-python.tar.gz, tried first.")
    ] = None,
) -> None:
    """Download and decode CIFAR-10; an interrupted download is resumed."""
    from normbench.config.compose import compose
    from normbench.data.cache import load
    from normbench.data.source import sources
    from normbench.training.resolve import data_home

    home = data_home(compose(flags={"system.mirrors": mirror or []}))
    dataset = load(sources.build("cifar10", home), home)
    _say_decoded(dataset, "cifar10")


@app.command("import", cls=Command)
def import_(
    path: Path,
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Of an image folder: data.size=32 data.test_fraction=0.2"),
    ] = None,
) -> None:
    """Decode your data: a CIFAR-10 archive or folder, parquet files, or an image folder.

    \b
    normbench data import photos data.size=32
    normbench data import flowers data.size=64 data.test_fraction=0.2
    """
    from normbench.config.compose import compose
    from normbench.config.grammar import parse_assignments
    from normbench.data.importing import import_data
    from normbench.training.resolve import data_home

    name, dataset = import_data(path, data_home(compose()), parse_assignments(settings or ()))
    _say_decoded(dataset, name)


@app.command("check", cls=Command)
def check() -> None:
    """Verify every decoded data set in the cache; exit code 1 if any is damaged."""
    from normbench.config.compose import compose
    from normbench.data.cache import cached
    from normbench.training.resolve import data_home

    home = data_home(compose())
    found = cached(home)
    for folder, state in found:
        say(f"{folder.name}  {state}")
    if not found:
        say(f"nothing decoded yet in {home.cache_dir}")
    is_damaged = any(state.startswith("damaged") for _, state in found)
    sys.exit(int(is_damaged))


def _say_decoded(dataset: Dataset, source: str) -> None:
    sizes = f"{len(dataset.train)} + {len(dataset.test)} images"
    say(f"{dataset.name}: {sizes}; train with data={source}")
