"""normbench serve: the report of runs in a browser, while they train."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from normbench.cli.tables import DEFAULT_RUNS, Runs, Where
from normbench.text import say


def serve(
    runs: Runs = None,
    where: Where = None,
    port: Annotated[
        int, typer.Option(help="The port on 127.0.0.1; 0 for any that is free.")
    ] = 8765,
) -> None:
    """Show the report of runs in a browser, anew as runs end, until Ctrl-C.

    \b
    normbench serve results/runs
    normbench serve results/runs --where 'norm=bn,gn' --port 0
    """
    from normbench.analysis.report.serving import check_served, keep_shown, serving
    from normbench.audit.whole_report import write_whole_report

    places = [path.expanduser() for path in runs or DEFAULT_RUNS]
    check_served(places, where or ())
    with suppress(KeyboardInterrupt), serving(port) as server:
        say(f"{server.url}  Ctrl-C ends it", flush=True)
        keep_shown(server, places, where or (), write_whole_report)
