"""Preparations of content images: equal contrast, or one style (arXiv:1703.06868, figure 1)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps

from normbench.perceptual.pictures import Bytes, to_bytes, to_floats
from normbench.perceptual.trained import Trained, trained

NONE, CONTRAST = "none", "contrast"
BATCH_SIZE = 16


def prepared(images: Bytes, prepare: str) -> Bytes:
    """Images (n, 3, h, w) as they are, of equal contrast, or in the style of a finished run.

    prepare: none, contrast, or the folder of the run. Raises NormbenchError as `trained`.
    """
    if prepare == NONE:
        return images
    if prepare == CONTRAST:
        return equalized(images)
    return stylized(images, style_run("task.prepare", prepare))


def preparation_content(prepare: str) -> str | None:
    """The hash of a run's weights; None for a preparation known by its name.

    Raises NormbenchError as `trained`.
    """
    if prepare in (NONE, CONTRAST):
        return None
    return style_run("task.prepare", prepare).content


def style_run(key: str, folder: str) -> Trained:
    """The network of a finished style run. Raises NormbenchError as `trained`."""
    return trained(key, folder, "style")


def equalized(images: Bytes) -> Bytes:
    """Images whose luminance has an even histogram, each on its own; colours are kept."""
    found = np.empty_like(images)
    for index, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        luminance, *colours = picture.convert("YCbCr").split()
        merged = Image.merge("YCbCr", (ImageOps.equalize(luminance), *colours))
        found[index] = np.asarray(merged.convert("RGB")).transpose(2, 0, 1)
    return found


@torch.no_grad()
def stylized(images: Bytes, run: Trained) -> Bytes:
    """Images (n, 3, h, w) through the network of a style run, in the run's precision."""
    is_bf16 = run.settings["runtime"]["precision"] == "bf16"
    found = np.empty_like(images)
    for start in range(0, len(images), BATCH_SIZE):
        end = start + BATCH_SIZE
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            outputs = run.network(to_floats(images[start:end]))
        found[start:end] = to_bytes(outputs)
    return found
