"""Residual networks (He et al., arXiv:1512.03385) for small images, without pooling in the stem."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from normbench.models.layers import Layers
from normbench.models.registry import models
from normbench.models.residual import Blocks, ResidualInit, Shortcut, zero_head

Factor = Annotated[float, Field(gt=0, le=64, strict=False)]


@models.register("resnet", title="ResNet for CIFAR")
def resnet(
    layers: Layers,
    num_outputs: int,
    *,
    depth: Literal[20, 32, 44, 56, 110] = 20,
    shortcut: Shortcut = "pad",
    residual_init: ResidualInit = "plain",
    width: Factor = 1.0,
) -> nn.Module:
    """Residual network of 6n + 2 layers for CIFAR: three stages of n blocks (arXiv:1512.03385).

    Section 4.2: conv 3x3, norm, ReLU; stages of width * (16, 32, 64) channels, the second and third
    halving the map; global average pool, linear. Input (n, 3, h, w), output (n, num_outputs). With
    10 outputs, width 1, pad shortcuts and a norm with affine: 269,722 parameters at depth 20,
    853,018 at 56. Raises NormbenchError as Blocks does.
    """
    widths = [max(1, round(width * channels)) for channels in (16, 32, 64)]
    blocks = (depth - 2) // 6
    return _network(layers, num_outputs, widths, blocks, shortcut, residual_init)


@models.register("resnet18", title="ResNet-18")
def resnet18(
    layers: Layers,
    num_outputs: int,
    *,
    shortcut: Shortcut = "projection",
    residual_init: ResidualInit = "plain",
    width: Factor = 1.0,
) -> nn.Module:
    """ResNet-18 of arXiv:1512.03385, table 1, with a stem for small images: conv 3x3, no pooling.

    Four stages of two blocks and width * (64, 128, 256, 512) channels, all but the first halving
    the map. Input (n, 3, h, w), output (n, num_outputs). With 10 outputs, width 1 and a norm with
    affine: 11,173,962 parameters. Raises NormbenchError as Blocks does.
    """
    widths = [max(1, round(width * channels)) for channels in (64, 128, 256, 512)]
    return _network(layers, num_outputs, widths, 2, shortcut, residual_init)


def _network(
    layers: Layers,
    num_outputs: int,
    widths: Sequence[int],
    blocks_per_stage: int,
    shortcut: Shortcut,
    residual_init: ResidualInit,
) -> nn.Module:
    num_blocks = blocks_per_stage * len(widths)
    blocks = Blocks(layers, num_blocks, shortcut, residual_init)
    stages = OrderedDict[str, nn.Module]()
    channels = widths[0]
    stages["stem"] = nn.Sequential(
        OrderedDict(
            conv=layers.conv(3, channels, 3),
            norm_act=layers.norm_act(channels, is_block_start=False),
        )
    )
    for stage, width in enumerate(widths):
        made = []
        for index in range(blocks_per_stage):
            stride = 2 if stage > 0 and index == 0 else 1
            is_last = stage == len(widths) - 1
            made.append(blocks.block(channels, width, stride=stride, is_last_stage=is_last))
            channels = width
        stages[f"stage{stage + 1}"] = nn.Sequential(*made)
    linear = layers.linear(channels, num_outputs)
    if residual_init == "fixup":
        zero_head(linear)
    stages["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    return nn.Sequential(stages)
