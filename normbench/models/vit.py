"""Vision transformers (Dosovitskiy et al., arXiv:2010.11929) for small images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from normbench.errors import NormbenchError
from normbench.models.layers import Layers
from normbench.models.registry import models
from normbench.models.transformer import NormPosition, TransformerBlock

Count = Annotated[int, Field(ge=1, le=4096)]


@models.register("vit", title="ViT")
def vit(
    layers: Layers,
    num_outputs: int,
    *,
    patch: Count = 4,
    width: Count = 128,
    depth: Annotated[int, Field(ge=1, le=64)] = 5,
    heads: Count = 4,
    norm_position: NormPosition = "pre",
) -> nn.Module:
    """Vision transformer: patches, learned positions, encoder blocks, mean over tokens, linear.

    Patches of patch x patch pixels become tokens of `width` features (arXiv:2010.11929, section
    3.1); `depth` blocks with `heads` heads and a feed-forward network of 4 * width and ReLU; under
    `pre` a final norm. The mean over tokens takes the place of the class token, as small ViTs have
    it (arXiv:2205.01580). Input (n, 3, h, w), output (n, num_outputs). By default, with 10 outputs
    and ln: 1,007,370 parameters.

    Raises NormbenchError where patches do not divide the images, or heads the width.
    """
    _, height, image_width = layers.image_shape
    if height % patch or image_width % patch:
        raise NormbenchError(
            f"model.patch={patch} does not divide images of {height}x{image_width}"
        )
    patches = layers.patches(3, width, patch)
    positions = layers.positions((height // patch) * (image_width // patch), width)
    blocks: list[nn.Module] = []
    for _ in range(depth):
        block = TransformerBlock(layers, width, heads, 4 * width, norm_position=norm_position)
        blocks.append(block)
    if norm_position == "pre":
        blocks.append(layers.token_norm(width))
    return ViT(patches, positions, nn.Sequential(*blocks), layers.linear(width, num_outputs))


class ViT(nn.Module):
    """Images (n, 3, h, w) as tokens (n, places, width), blocks, their mean, and scores of it."""

    def __init__(
        self, patches: nn.Module, positions: nn.Module, blocks: nn.Module, head: nn.Module
    ) -> None:
        super().__init__()
        self.patches = patches
        self.positions = positions
        self.blocks = blocks
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        # Contiguous: each token's features side by side, as norms and linear layers read them.
        tokens = self.patches(x).flatten(2).mT.contiguous()
        y: Tensor = self.head(self.blocks(self.positions(tokens)).mean(1))
        return y
