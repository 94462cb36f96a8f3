"""Style runs of a fraction of a second, and images to stylize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from normbench.config.compose import compose
from normbench.training.run import Outcome, execute

# A network of one block, on images of 16 pixels; ten steps.
TINY_STYLE = (
    "task=style",
    "model=style_transfer",
    "model.width=0.125",
    "model.num_blocks=1",
    "task.size=16",
    "data=synthetic",
    "data.num_train=20",
    "data.num_test=20",
    "data.limit_test=10",
    "batch_size=4",
    "epochs=2",
    "norm=in",
)


def tiny_style(*changed: str) -> list[str]:
    """The settings with changes and additions; of a key given twice the last counts."""
    settings: dict[str, str] = {}
    for setting in (*TINY_STYLE, *changed):
        settings[setting.partition("=")[0]] = setting
    return [*settings.values()]


def image_file(path: Path, height: int = 24, width: int = 20, seed: int = 0) -> Path:
    """Writes a PNG image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def style_run_in(folder: Path, *changed: str, restart: bool = False) -> Outcome:
    """Trains the tiny style run with changes, in a folder of runs."""
    settings = tiny_style(*changed, f"system.runs_dir={folder}", "system.progress=none")
    return execute(compose(settings), restart=restart)
