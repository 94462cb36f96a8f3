"""VGG networks (arXiv:1409.1556) for small images, with one linear layer."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn

from normbench.models.layers import Layers
from normbench.models.registry import models
from normbench.models.resnet import Factor

# Channels of the convolutions of each stage (table 1, columns A, D and E).
STAGES = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    19: ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}


@models.register("vgg", title="VGG")
def vgg(
    layers: Layers, num_outputs: int, *, depth: Literal[11, 16, 19] = 16, width: Factor = 1.0
) -> nn.Module:
    """VGG: conv 3x3, norm, ReLU, five stages that each end in max pooling, and a linear layer.

    The paper's three linear layers (arXiv:1409.1556) are for 224 pixels; here a global average pool
    and one. Input (n, 3, h, w) of at least 32 pixels, output (n, num_outputs). With 10 outputs,
    width 1 and a norm with affine: 9,228,362 parameters at depth 11, 14,724,042 at 16.
    """
    stages = OrderedDict[str, nn.Module]()
    channels = 3
    for number, widths in enumerate(STAGES[depth], start=1):
        made: list[nn.Module] = []
        for channels_after in widths:
            features = max(1, round(width * channels_after))
            made += [layers.conv(channels, features, 3), layers.norm_act(features)]
            channels = features
        stages[f"stage{number}"] = nn.Sequential(*made, nn.MaxPool2d(2))
    linear = layers.linear(channels, num_outputs)
    stages["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    return nn.Sequential(stages)
