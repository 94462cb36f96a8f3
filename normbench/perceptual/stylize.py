"""An image file through the network of a finished style run, into another file."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import nn

from normbench.atomic import write_bytes
from normbench.environment import available_memory_gib
from normbench.errors import NormbenchError
from normbench.perceptual.pictures import (
    read_image,
    resized,
    side_by_side,
    style_image,
    to_floats,
)
from normbench.perceptual.preparation import prepared, style_run, stylized

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
# A few maps of 32 channels in float32 at a time, at the network's two ends.
BYTES_A_PIXEL = 1024
LEAST = 8  # pixels a side, below which a map of a quarter of the size has no neighbours


def stylize_file(run: str, image: Path, output: Path, style: str | None = None) -> None:
    """Writes what the network of a style run makes of an image, of the image's size.

    run: the folder of a finished style run. style: a style image, for a network that takes any
    style; without, that of the run. The content is prepared as in training. Raises NormbenchError
    for no such run, no such image, an image that is too small or too large for the memory, a style
    for a network that has one, and an output that is no PNG or JPEG file.
    """
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        raise NormbenchError(
            f"-o {output}: allowed are files whose names end in {', '.join(FORMATS)}"
        )
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise NormbenchError(f"-o {output}: it needs to be a file in a folder that is there")
    trained = style_run("RUN", run)
    content = read_image(image)
    height, width = content.shape[1:]
    needed = height * width * BYTES_A_PIXEL / 2**30
    if min(height, width) < LEAST:
        raise NormbenchError(f"'{image}' is {width}x{height} pixels; at least {LEAST} a side")
    if needed > available_memory_gib():
        raise NormbenchError(
            f"'{image}' is {width}x{height} pixels, which take about {needed:.1f} GiB of memory: "
            "make it smaller"
        )
    if style is not None:
        # A copy: the trained network is kept for the next image, with the run's style.
        trained = replace(trained, network=copy.deepcopy(trained.network))
        _give_style(trained.network, style)
    contents = prepared(content[None], trained.settings["task"]["prepare"])
    buffer = io.BytesIO()
    picture = Image.fromarray(side_by_side([*stylized(contents, trained)]).copy())
    picture.save(buffer, FORMATS[suffix], quality=95)
    write_bytes(output, buffer.getvalue())


def _give_style(network: nn.Module, style: str) -> None:
    buffers = dict(network.named_buffers())
    if "style" not in buffers:
        raise NormbenchError(
            "--style: the network of this run has one style; allowed: runs of model=adain"
        )
    size = buffers["style"].shape[-1]
    buffers["style"].copy_(to_floats(resized(style_image(style)[None], size)))
