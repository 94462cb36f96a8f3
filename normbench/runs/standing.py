"""How a run stands: the one answer that lists, tables, plans and `train` give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from normbench.errors import RunFailure
from normbench.runs.files import RunFiles, read_run
from normbench.runs.state import is_held


@dataclass(frozen=True)
class Standing:
    """How a run stands.

    state: new, running, killed, interrupted, failed, done, diverged; damaged; foreign, of another
    version of normbench; misnamed, in a directory of another name than its id; or unreachable,
    where the disk refuses.
    """

    state: str
    reason: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether tables may show the run."""
        return self.state not in ("damaged", "foreign", "misnamed", "unreachable")


def standing(path: Path, files: RunFiles) -> Standing:
    """How the run at `path` stands. Its lock says whether it is running, not its status."""
    if files.unreachable is not None:
        return Standing("unreachable", files.unreachable)
    if files.foreign is not None and not files.damaged:
        return Standing("foreign", files.foreign)
    if files.owner is not None and not files.damaged:
        place = "a copied or renamed directory, or a changed config.yaml"
        return Standing("misnamed", f"its configuration is that of {files.owner}: {place}")
    state = files.status.get("state", "new")
    reason = files.status.get("reason")
    if not files.is_over:
        held = _held(path)
        if held:
            return Standing("running")
        if held is None and state == "running":
            return Standing("running", "whether its process lives is not known")
        if state == "running":
            # It may have ended after its status was read.
            again = read_run(path)
            if again.status != files.status:
                return standing(path, again)
            state, reason = "killed", "its process is gone"
    if files.damaged:
        told = [f"{name} {what}" for name, what in files.damaged.items()]
        return Standing("damaged", "; ".join(told))
    return Standing(state, reason)


def run_standing(path: Path) -> Standing:
    """How the run at `path` stands, for a process that may go on with it.

    Unlike in `standing`, a run that is not over may lack a usable config.yaml, which is written
    anew; and a directory in which no lock can be taken is unreachable.
    """
    files = read_run(path)
    if not files.is_over:
        damaged = {name: what for name, what in files.damaged.items() if name != "config.yaml"}
        is_older = files.foreign is not None and not files.foreign.startswith("config.yaml")
        foreign = files.foreign if is_older else None
        files = replace(files, config={}, owner=None, damaged=damaged, foreign=foreign)
        try:
            is_held(path)
        except (OSError, RunFailure) as error:
            return Standing("unreachable", str(error))
    return standing(path, files)


def _held(path: Path) -> bool | None:
    """Whether a process holds the run; None where this process has no right to take locks."""
    try:
        return is_held(path)
    except (OSError, RunFailure):
        return None
