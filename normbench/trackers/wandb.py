"""Records for Weights & Biases (the extra `wandb`): offline, but for a WANDB_MODE of the user's.

`wandb sync` sends an offline record. WANDB_PROJECT and the like are the user's, as everywhere.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normbench.trackers.tracker import PROJECT, Axis, Open, Subject, require_package, trackers

EXIT_CODES = {"done": 0, "interrupted": 130, "diverged": 3}  # as of `normbench train`
LONGEST = 100  # characters of an id


@trackers.register("wandb", title="Weights & Biases")
def wandb() -> Open:
    """An offline record in FOLDER/wandb, for `wandb sync`; online by WANDB_MODE=online."""
    require_package("wandb")
    return WandbRun


class WandbRun:
    """A run of Weights & Biases.

    An offline record is written anew when its run is resumed. Online the rows that the service has
    are passed over, by their number.
    """

    def __init__(self, folder: Path, subject: Subject, is_new: bool) -> None:
        # Otherwise wandb reports its errors to its makers.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        # wandb makes a folder of its own name.
        place = folder.parent if folder.name == "wandb" else folder
        name = re.sub(r"[^\w-]", "-", subject.run, flags=re.ASCII)[-LONGEST:]
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":
            for record in (place / "wandb").glob(f"offline-run-*-{name}"):
                shutil.rmtree(record)
        place.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(place),
            id=name,
            name=subject.run,
            mode=mode,
            resume=None if is_new or mode == "offline" else "allow",
            reinit="create_new",
            config={**subject.settings, "facts": dict(subject.facts)},
            notes=subject.notes,
            settings=settings,
        )
        self._passed = self._run.starting_step if self._run.resumed else 0
        for axis in ("step", "epoch"):
            self._run.define_metric(axis)
            self._run.define_metric(f"{axis}/*", step_metric=axis)

    def log(self, axis: Axis, place: int, values: Mapping[str, float]) -> None:
        """Logs the row with its step or epoch, which is the horizontal axis of its columns."""
        if self._passed > 0:
            self._passed -= 1
            return
        named = {f"{axis}/{column}": value for column, value in values.items()}
        self._run.log({axis: place, **named})

    def end(self, state: str, reason: str | None, picture: bytes | None) -> None:
        """Puts state, reason and picture into the summary, and closes the record."""
        import wandb
        from PIL import Image

        self._run.summary.update({"state": state, "reason": reason or ""})
        if picture is not None:
            with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
                self._run.summary["picture"] = wandb.Image(image)
        self._run.finish(exit_code=EXIT_CODES.get(state, 1))
