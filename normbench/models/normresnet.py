"""NormResNet, the network of the source comparison: despite the name, without skip connections."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import nn

from normbench.models.layers import Layers
from normbench.models.registry import models

Width = Annotated[int, Field(ge=1, le=8192)]
Widths = Annotated[tuple[Width, ...], Field(strict=False, min_length=1, max_length=64)]


@models.register("normresnet", title="NormResNet")
def normresnet(
    layers: Layers, num_outputs: int, *, widths: Widths = (64, 128, 256, 512)
) -> nn.Module:
    """Conv 3x3, norm, ReLU for each width (stride 1, then 2), global average pool, linear.

    Input (n, 3, h, w), output (n, num_outputs). With the default widths, 10 outputs and 32x32
    images: 1,557,066 parameters under a norm with affine, 58.4 M multiply-adds an image.
    """
    stages = OrderedDict[str, nn.Module]()
    channels = 3
    for index, width in enumerate(widths):
        conv = layers.conv(channels, width, 3, stride=1 if index == 0 else 2)
        norm_act = layers.norm_act(width)
        stages[f"stage{index + 1}"] = nn.Sequential(OrderedDict(conv=conv, norm_act=norm_act))
        channels = width
    linear = layers.linear(channels, num_outputs)
    stages["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    return nn.Sequential(stages)
