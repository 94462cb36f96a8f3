"""The network of fast style transfer: an image in, an image of the same size out."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from normbench.models.layers import Layers, Padding
from normbench.models.registry import models
from normbench.models.resnet import Factor

Upsampling = Literal["transposed", "nearest"]


class ResidualSum(nn.Module):
    """y = x + branch(x), both of shape (n, c, h, w); no activation follows."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y


@models.register("style_transfer", title="StyleTransferNet")
def style_transfer(
    layers: Layers,
    num_outputs: int,
    *,
    padding: Padding = "zeros",
    upsampling: Upsampling = "transposed",
    num_blocks: Annotated[int, Field(ge=1)] = 5,
    width: Factor = 1.0,
) -> nn.Module:
    """StyleTransferNet: convolutions of stride 2, residual blocks, and back to the image's size.

    Conv 9x9 to 32 channels, conv 3x3 of stride 2 to 64 and 128, each with norm and ReLU; residual
    blocks (conv 3x3, norm, ReLU, conv 3x3, norm, plus input); transposed conv 3x3 of stride 2 to 64
    and 32, each with norm and ReLU; conv 9x9 to `num_outputs` channels, tanh. Every convolution has
    a bias. Input (n, 3, h, w), output (n, num_outputs, h, w) in [-1, 1], for h and w that 4
    divides. With 3 outputs, width 1 and a norm without affine: 1,676,035 parameters.

    After Johnson et al. (arXiv:1603.08155, supplement). padding=reflect and upsampling=nearest
    (each pixel doubled, then conv 3x3; arXiv:1610.07629, section 3) are those of pytorch/examples.
    """
    small, middle, large = (max(1, round(width * channels)) for channels in (32, 64, 128))

    def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Module:
        return layers.conv(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=True
        )

    def enlarged(in_channels: int, out_channels: int) -> nn.Module:
        if upsampling == "transposed":
            return layers.conv_transpose(in_channels, out_channels, 3, bias=True)
        return nn.Sequential(nn.Upsample(scale_factor=2), conv(in_channels, out_channels, 3))

    def block() -> nn.Module:
        return ResidualSum(
            nn.Sequential(
                conv(large, large, 3),
                layers.norm_act(large),
                conv(large, large, 3),
                layers.norm(large, is_block_start=False),
            )
        )

    parts = OrderedDict[str, nn.Module]()
    parts["stem"] = nn.Sequential(conv(3, small, 9), layers.norm_act(small))
    parts["down1"] = nn.Sequential(conv(small, middle, 3, 2), layers.norm_act(middle))
    parts["down2"] = nn.Sequential(conv(middle, large, 3, 2), layers.norm_act(large))
    parts["blocks"] = nn.Sequential(*(block() for _ in range(num_blocks)))
    parts["up1"] = nn.Sequential(enlarged(large, middle), layers.norm_act(middle))
    parts["up2"] = nn.Sequential(enlarged(middle, small), layers.norm_act(small))
    parts["head"] = nn.Sequential(conv(small, num_outputs, 9), nn.Tanh())
    return nn.Sequential(parts)
