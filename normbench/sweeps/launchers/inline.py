"""Runs one after another in this process: for debugging, for a demo, and to time runs that have it to themselves."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence

from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError, complaint
from normbench.runs.rundir import read_status, run_state
from normbench.sweeps.launchers.child import settle
from normbench.sweeps.launchers.launcher import Event, Launcher, StopAsked, Work, launchers, train


@launchers.register("inline", title="In this process")
def inline(restart: bool = False, work: Work = train) -> Launcher:
    """One run after another in this process; a crash of the process ends the sweep."""

    def launch(configs: Sequence[RunConfig], should_stop: StopAsked) -> Generator[Event]:
        for config in configs:
            if should_stop():
                return
            yield Event("started", config)
            before = read_status(config.run_path)
            settle(config, before, _worked(work, config, restart))
            yield Event("ended", config)
            if run_state(config.run_path) == "interrupted":
                return

    return Launcher(launch, at_once=lambda configs: 1)


def _worked(work: Work, config: RunConfig, restart: bool) -> str:
    """Does the work; what went wrong, for a run that does not say so itself."""
    try:
        work(config, restart)
    except NormbenchError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        print(complaint(error), file=sys.stderr)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "it ended without saying how"
