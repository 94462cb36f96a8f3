"""normbench audit: which of the usual sentences about normalization hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from normbench.errors import NormbenchError
from normbench.text import say


def audit(
    claims: Annotated[
        list[str] | None, typer.Argument(help="Claims by name, told in full; without: all.")
    ] = None,
    results: Annotated[Path, typer.Option(help="The folder with the studies that decide.")] = Path(
        "results"
    ),
    short: Annotated[bool, typer.Option("--short", help="A line for each claim.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All, as JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The page results/AUDIT.md.")
    ] = False,
) -> None:
    """Judge claims about normalization by the committed studies and by what is computed now.

    \b
    normbench audit
    normbench audit lazy-bn bn-batch-1
    normbench audit --markdown > results/AUDIT.md
    """
    outputs = {"--short": short, "--json": as_json, "--markdown": markdown}
    asked = [name for name, is_asked in outputs.items() if is_asked]
    if len(asked) > 1:
        raise NormbenchError(f"{' and '.join(asked)} are different outputs: choose one")
    from normbench.audit import judge
    from normbench.audit.account import account, as_lines, as_markdown, with_figures

    judged = judge(claims or (), results)
    if as_json:
        values = []
        for one in judged:
            finding = {"verdict": one.finding.verdict, "figures": one.finding.figures}
            values.append(one.claim.model_dump() | finding | {"command": one.claim.command})
        say(json.dumps(values, indent=2), lines=True)
    elif markdown:
        say(as_markdown(judged).rstrip("\n"), lines=True)
    elif short:
        say(as_lines(judged), lines=True)
    elif claims:
        for one in judged:
            say(account(one), lines=True)
    else:
        say(with_figures(judged), lines=True)
