"""Runs in turn in this process: for debugging, for the demo, and for times without company."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence

from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError, complaint, first_line
from normbench.runs.standing import standing
from normbench.runs.state import status_bytes
from normbench.sweeps.launchers.child import settle
from normbench.sweeps.launchers.launcher import Event, Launcher, StopAsked, Work, launchers, train
from normbench.text import say


@launchers.register("inline", title="In this process")
def inline(restart: bool = False, work: Work = train) -> Launcher:
    """Runs in turn in this process; a crash of the process ends the sweep."""

    def launch(configs: Sequence[RunConfig], should_stop: StopAsked) -> Generator[Event]:
        for config in configs:
            if should_stop():
                return
            if config.system.progress == "auto":  # the sweep's display shows the run
                config = config.with_system(progress="none")
            yield Event("started", config)
            before = status_bytes(config.run_path)
            trouble = settle(config, before, _failure(work, config, restart), restart=restart)
            yield Event("ended", config, trouble)
            if standing(config.run_path).state == "interrupted":
                return

    return Launcher(launch, at_once=lambda configs: 1)


def _failure(work: Work, config: RunConfig, restart: bool) -> str:
    """Does the work; returns the reason of failure for a run whose status gives none."""
    try:
        work(config, restart)
    except NormbenchError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        say(complaint(error), lines=True, to=sys.stderr)
        return first_line(error)
    return "it ended without saying how"
