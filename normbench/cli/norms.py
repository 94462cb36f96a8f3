"""normbench norms: the catalogue of norms; of a single norm its certificate or contract."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normbench.cli import complete
from normbench.errors import NormbenchError, user_traceback
from normbench.text import say

if TYPE_CHECKING:
    from normbench.norms import NormSpec


def norms(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A norm, or your own as file.py:Class; without: all.",
            autocompletion=complete.choices("norm"),
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(help="Its options, as norm.num_groups=8.", autocompletion=complete.settings),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Certificates as JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Catalogue and certificates as Markdown.")
    ] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="At the sites of transformers instead of maps.")
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(help="Draw which cells share a statistic: FILE.svg, .png or .pdf."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Write the page catalogue.md and its figures to this folder."),
    ] = None,
    results: Annotated[
        Path, typer.Option(help="With --page: the folder of the studies it shows.")
    ] = Path("results"),
    check: Annotated[
        bool, typer.Option("--check", help="Try what every norm must keep to; exit code 1 if not.")
    ] = False,
) -> None:
    """List what --norm takes; of one norm compute what it does.

    \b
    normbench norms
    normbench norms gn norm.num_groups=8
    normbench norms ln --tokens
    normbench norms my_norms.py:MyNorm --check
    normbench norms gn --figure gn.svg
    normbench norms --markdown > norms.md
    """
    outputs = {"json": as_json, "markdown": markdown, "check": check}
    outputs |= {"figure": figure is not None, "page": page is not None}
    asked = [f"--{output}" for output, is_asked in outputs.items() if is_asked]
    if len(asked) > 1:
        raise NormbenchError(f"{' and '.join(asked)} are different outputs: choose one")
    on_maps = [output for output in asked if output != "--json"]
    if tokens and on_maps:
        raise NormbenchError(f"--tokens is for lists and certificates: leave out {on_maps[0]}")
    if page is not None and name:
        raise NormbenchError("--page is of all norms: leave the name out")
    from normbench.certificates import catalogue, certify
    from normbench.config.compose import compose
    from normbench.norms import norms as registry

    chosen: dict[str, dict[str, Any]] = {entry.name: {} for entry in registry}
    if name:
        norm = compose(options or [], {"norm": name}).norm
        chosen = {norm.name: norm.options}
    if check:
        sys.exit(_check({key: registry.build(key, options=chosen[key]) for key in chosen}))
    if figure is not None:
        _draw({key: registry.build(key, options=chosen[key]) for key in chosen}, figure)
        return
    if page is not None:
        from normbench.certificates.page import write_page

        say(write_page(page, results))
        return
    found = [catalogue.listed(key, chosen[key], tokens=tokens) for key in chosen]
    if not (name or as_json or markdown):
        say(catalogue.as_text(facts for facts, _ in found), lines=True)
        return
    certified = [(facts, certify(spec, tokens=tokens)) for facts, spec in found]
    if as_json:
        values = []
        for facts, certificate in certified:
            values.append(facts | {"certificate": catalogue.known(certificate)})
        say(json.dumps(values[0] if name else values, indent=2), lines=True)
    elif markdown:
        say(catalogue.as_markdown(certified), lines=True)
    else:
        say(catalogue.certificate_text(*certified[0], tokens=tokens), lines=True)


def _draw(specs: dict[str, NormSpec], path: Path) -> None:
    """Draws the cube of a norm, or a sheet of all, and prints the path."""
    from normbench.analysis.figures.cubes import cube_figure, sheet
    from normbench.analysis.figures.saving import save
    from normbench.analysis.figures.style import PAGE, SIZES
    from normbench.certificates.cube import cube_of

    cubes = [cube_of(name, spec) for name, spec in specs.items()]
    if len(cubes) == 1:
        save(cube_figure(cubes[0]), path, SIZES["column"])
    else:
        save(sheet(cubes), path, PAGE)
    say(path)


def _check(specs: dict[str, NormSpec]) -> int:
    """Prints a line for every demand of the contract on every norm; returns the exit code."""
    from normbench.certificates import Broken, broken
    from normbench.norms import own

    code = 0
    for name, spec in specs.items():
        try:
            for demand, failure in broken(spec):
                if failure is None:
                    say(f"{name}: ok     {demand}")
                else:
                    say(f"{name}: BROKEN {demand}: {failure}")
                    code = 1
        except Broken as error:
            code = 1
            if own.is_own(name):
                theirs = (user_traceback(error) or "").rstrip("\n")
                if theirs:
                    say(theirs, lines=True, to=sys.stderr)
                say(f"{name}: BROKEN {error}")
            else:
                say(f"{name}: not tried: {error}: choose other options")
    return code
