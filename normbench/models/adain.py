"""Style transfer to any style, by AdaIN between an encoder and a decoder."""

from __future__ import annotations

from torch import Tensor, nn, zeros

from normbench.models.layers import Layers
from normbench.models.registry import models
from normbench.models.resnet import Factor
from normbench.norms.adain import AdaIN


@models.register("adain", title="AdaIN network")
def adain(layers: Layers, num_outputs: int, *, width: Factor = 1.0) -> nn.Module:
    """AdaIN between an encoder and a decoder: an image takes any style (arXiv:1703.06868).

    decoder(AdaIN(encoder(image), encoder(style))), as in the paper's section 5. Encoder: conv 9x9
    to 32 channels, conv 3x3 of stride 2 to 64 and 128, a ReLU after each. Decoder: conv 3x3 to 128,
    transposed conv 3x3 of stride 2 to 64 and 32, each with norm and ReLU; conv 9x9 to `num_outputs`
    channels, tanh. The paper's decoder has no norm (section 7.1 tries two). Departure: the encoder
    is trained here, and the paper's is that of VGG-19, frozen.

    Input (n, 3, h, w), output (n, num_outputs, h, w) in [-1, 1], for h and w that 4 divides. In
    training an image takes the style of the one before it in its batch, in evaluation that of the
    buffer `style`, of shape (1, 3, h, w).
    """
    small, middle, large = (max(1, round(width * channels)) for channels in (32, 64, 128))
    encoder = nn.Sequential(
        layers.conv(3, small, 9, bias=True),
        layers.act(),
        layers.conv(small, middle, 3, stride=2, bias=True),
        layers.act(),
        layers.conv(middle, large, 3, stride=2, bias=True),
        layers.act(),
    )
    decoder = nn.Sequential(
        layers.conv(large, large, 3, bias=True),
        layers.norm_act(large),
        layers.conv_transpose(large, middle, 3, bias=True),
        layers.norm_act(middle),
        layers.conv_transpose(middle, small, 3, bias=True),
        layers.norm_act(small),
        layers.conv(small, num_outputs, 9, bias=True),
        nn.Tanh(),
    )
    return AdaINNetwork(encoder, decoder, layers.image_shape)


class AdaINNetwork(nn.Module):
    """An encoder, AdaIN with the style's features, a decoder; `style` as in `adain`."""

    style: Tensor

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, image_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.align = AdaIN()
        self.decoder = decoder
        self.register_buffer("style", zeros(1, *image_shape))

    def forward(self, images: Tensor) -> Tensor:
        contents = self.encoder(images)
        styles = contents.roll(1, 0) if self.training else self.encoder(self.style)
        made: Tensor = self.decoder(self.align(contents, styles))
        return made
