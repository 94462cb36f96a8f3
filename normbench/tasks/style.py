"""Style transfer: images whose content is that of one image and whose style that of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from normbench.data.source import Source, Split
from normbench.errors import NormbenchError, first_line
from normbench.perceptual import loss_networks
from normbench.perceptual.loss_networks import LossNetwork
from normbench.perceptual.losses import content_loss, gram, style_loss
from normbench.perceptual.pictures import (
    Bytes,
    resized,
    side_by_side,
    style_file,
    style_image,
    to_bytes,
    to_floats,
)
from normbench.perceptual.preparation import CONTRAST, preparation_content, prepared
from normbench.tasks.metric import Metric
from normbench.tasks.task import Batch, tasks
from normbench.users_code import content_of

LOSS = Metric("loss", unit="", better="smaller", low=0.0)
CONTENT = Metric("content_loss", unit="", better="smaller", low=0.0)
STYLE = Metric("style_loss", unit="", better="smaller", low=0.0)
# The layer of features that the content loss compares: the second, as relu2_2 of VGG-16.
CONTENT_LAYER = 1
LEAST_CONTRAST = 32  # pixels a side


class Style:
    """Content loss and weighted style loss of features, by a loss network; images in [-1, 1]."""

    metrics: tuple[Metric, ...] = (LOSS, CONTENT, STYLE)
    primary = STYLE
    output_range: tuple[float, float] | None = (-1.0, 1.0)

    def __init__(
        self,
        style: Bytes,
        network: LossNetwork,
        *,
        any_style: bool,
        style_weight: float,
        size: int,
        prepare: str,
    ) -> None:
        self.image_shape: tuple[int, ...] = (3, size, size)
        self.output_shape: tuple[int, ...] = self.image_shape
        self.style = resized(style[None], size)
        self.any_style = any_style
        self.least_batch = 2 if any_style else 1
        self.style_weight = style_weight
        self.size = size
        self.preparation = prepare
        self.network = network
        features = self._features_of_style()
        self.grams = [gram(of_layer) for of_layer in features]
        self.mean_square = features[CONTENT_LAYER].square().mean()

    def prepare(self, split: Split) -> Split:
        """The images at the task's size, and prepared."""
        images = prepared(resized(split["images"], self.size), self.preparation)
        return Split({**split.arrays, "images": images})

    def join(self, network: nn.Module) -> None:
        """Gives a network that takes styles the style image, with which it is evaluated.

        Raises NormbenchError where only one of network and task is for any style.
        """
        buffers = dict(network.named_buffers())
        takes_styles = "style" in buffers
        if takes_styles != self.any_style:
            has = "takes any style" if takes_styles else "has one style"
            wanted = "true" if takes_styles else "false"
            raise NormbenchError(
                f"task.any_style={str(self.any_style).lower()}: the network {has}; "
                f"allowed: {wanted}"
            )
        if takes_styles:
            buffers["style"].copy_(to_floats(self.style))

    def assess(
        self, outputs: Tensor, batch: Batch, *, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over images of content loss + style_weight * style loss, and both sums."""
        self._move_to(outputs.device)
        is_of_mates = self.any_style and training
        num_layers = None if is_of_mates else CONTENT_LAYER + 1
        with torch.no_grad():
            wanted = self.network(batch["images"], num_layers)
        grams = [gram(of_layer).roll(1, 0) for of_layer in wanted] if is_of_mates else self.grams
        found = self.network(outputs)
        content = content_loss(found[CONTENT_LAYER], wanted[CONTENT_LAYER], self.mean_square)
        style = style_loss(found, grams)
        loss = (content + self.style_weight * style).mean()
        return loss, {CONTENT.name: content.sum(), STYLE.name: style.sum()}

    def correct(self, outputs: Tensor, batch: Batch) -> None:
        """A loss is no share of images."""

    def picture(self, outputs: Tensor, batch: Batch) -> Bytes:
        """The style image and the contents in a row; below, a white tile and what was made."""
        contents, made = to_bytes(batch["images"]), to_bytes(outputs)
        white = np.full_like(self.style[0], 255)
        above = side_by_side([self.style[0], *contents])
        below = side_by_side([white, *made])
        return np.concatenate([above, below])

    def random_arrays(self, number: int, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Images of uniform noise."""
        return {"images": generator.integers(0, 256, (number, *self.image_shape), dtype=np.uint8)}

    def _features_of_style(self) -> list[Tensor]:
        """Raises NormbenchError for a size that leaves the loss network's last maps no pixel."""
        style = to_floats(self.style).to(self.network.mean.device)
        try:
            with torch.no_grad():
                features: list[Tensor] = self.network(style)
        except RuntimeError as error:
            raise NormbenchError(
                f"task.size={self.size}: the loss network cannot take such images "
                f"({first_line(error)})"
            ) from None
        return features

    def _move_to(self, device: torch.device) -> None:
        if self.grams[0].device != device:
            self.network.to(device)
            self.mean_square = self.mean_square.to(device)
            self.grams = [of_layer.to(device) for of_layer in self.grams]


def known_by_content(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the hashes of what their files and folders hold.

    Raises NormbenchError for a file or folder that is missing or of the wrong kind, for a loss
    network that is not to be had, for another content than a hash that is given, and for equal
    contrast of images that are too small.
    """
    if options["prepare"] == CONTRAST and options["size"] < LEAST_CONTRAST:
        raise NormbenchError(
            f"task.prepare=contrast: images of task.size={options['size']} have too few pixels for "
            f"an even histogram; allowed: task.size={LEAST_CONTRAST} and more"
        )
    file = style_file(options["style"])
    style_image(options["style"])
    found = {
        "style": None if file is None else content_of(file),
        "loss_network": loss_networks.content(options["loss_network"], options["loss_seed"]),
        "prepare": preparation_content(options["prepare"]),
    }
    completed = dict(options)
    for option, content in found.items():
        before = completed.pop(f"{option}_content")
        if before not in (None, content):
            given = options[option]
            raise NormbenchError(
                f"task.{option}: '{given}' is not the one that this configuration was made for"
            )
        if content is not None:
            completed[f"{option}_content"] = content
    return completed


@tasks.register("style", title="Style transfer", complete=known_by_content)
def style(
    source: Source,
    *,
    style: str = "stripes",
    style_content: str | None = None,
    any_style: bool = False,
    style_weight: Annotated[float, Field(gt=0)] = 1.0,
    loss_network: str = "random",
    loss_network_content: str | None = None,
    loss_seed: Annotated[int, Field(ge=0)] = 0,
    size: Annotated[int, Field(ge=16, le=1024, multiple_of=4)] = 64,
    prepare: str = "none",
    prepare_content: str | None = None,
) -> Style:
    """Perceptual losses of what a network makes of contents (arXiv:1603.08155), at a size.

    style: a drawn style image, or a file. any_style: in training, the style of each image is the
    one before it in its batch, for a network that takes styles; `style` is that of evaluation.
    loss_network: whose features are compared. prepare: of the contents, as in figure 1 of AdaIN
    (arXiv:1703.06868).
    """
    return Style(
        style_image(style),
        loss_networks.find(loss_network, loss_seed),
        any_style=any_style,
        style_weight=style_weight,
        size=size,
        prepare=prepare,
    )
