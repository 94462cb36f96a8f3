"""How a run stands: the one answer that lists, tables, plans and `train` give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from normbench.errors import RunFailure
from normbench.runs.files import RunFiles, read_run
from normbench.runs.state import is_held

# States of a directory with which no process goes on, unless to begin the run anew.
UNUSABLE = ("damaged", "foreign", "misnamed")


@dataclass(frozen=True)
class Standing:
    """How a run stands.

    state: new, running, killed, interrupted, failed, done, diverged; damaged; foreign, of another
    version of normbench; misnamed, in a directory of another name than its id; or unreachable,
    where the disk refuses. is_shown: whether tables may show the run.
    """

    state: str
    reason: str | None = None
    is_shown: bool = True


def standing(path: Path, files: RunFiles | None = None) -> Standing:
    """How the run at `path` stands. Its lock says whether it is running, not its status.

    files: what `read_run` has read of the run; read here unless given.
    """
    files = files or read_run(path)
    refused = _refused(files)
    if refused is not None:
        return refused
    state, reason = files.status.get("state", "new"), files.status.get("reason")
    if not files.is_over:
        held = _held(path)
        if held:
            return Standing("running", is_shown=not files.damaged)
        if state == "running" and held is None:
            return Standing("running", "whether its process lives is not known")
        if state == "running":
            # It may have ended after its status was read.
            again = read_run(path)
            if again.status != files.status:
                return standing(path, again)
            state, reason = "killed", "its process is gone"
        if files.status and files.damaged.keys() == {"config.yaml"}:
            told = f"{_told(files.damaged)}: written anew when the run goes on"
            return Standing(state, told, is_shown=False)
    if files.damaged:
        return Standing("damaged", _told(files.damaged), is_shown=False)
    return Standing(state, reason)


def _refused(files: RunFiles) -> Standing | None:
    """The standing of a directory whose state is not to be asked for; None for any other."""
    if files.unreachable is not None:
        return Standing("unreachable", files.unreachable, is_shown=False)
    # A file that is not as the run left it is damaged, and of no other version.
    foreign = {name: what for name, what in files.foreign.items() if name not in files.damaged}
    if foreign:
        return Standing("foreign", _told(foreign), is_shown=False)
    if files.owner is not None and "config.yaml" not in files.damaged:
        place = "a copied or renamed directory, or a changed config.yaml"
        reason = f"its configuration is that of {files.owner}: {place}"
        return Standing("misnamed", reason, is_shown=False)
    return None


def _held(path: Path) -> bool | None:
    """Whether a process holds the run; None where the disk refuses the lock."""
    try:
        return is_held(path)
    except (OSError, RunFailure):
        return None


def _told(files: dict[str, str]) -> str:
    return "; ".join(f"{name} {what}" for name, what in files.items())
