"""Gram matrices and the two perceptual losses of Johnson et al. (arXiv:1603.08155, section 3.2).

Both losses are relative to the style image's features, which makes them pure numbers: one weight
serves every loss network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gram(features: Tensor) -> Tensor:
    """Gram matrices (n, c, c) of features (n, c, h, w): products of channels, over c * h * w."""
    rows = features.flatten(2)
    return rows @ rows.mT / rows[0].numel()


def content_loss(features: Tensor, wanted: Tensor, mean_square: Tensor) -> Tensor:
    """The mean squared difference of features (n, c, h, w) over `mean_square`, by image: (n,).

    mean_square: of the style image's features, a scalar.
    """
    return (features - wanted).square().mean((1, 2, 3)) / mean_square


def style_loss(features: Sequence[Tensor], grams: Sequence[Tensor]) -> Tensor:
    """The squared difference of Gram matrices over the square of the style image's, by image: (n,).

    Both squares are means over the matrix; the loss is the sum over layers. features: of each
    layer, (n, c, h, w); grams: of the style image, (1, c, c), or of a style for each, (n, c, c).
    """
    losses = []
    for of_layer, wanted in zip(features, grams, strict=True):
        difference = (gram(of_layer) - wanted).square().mean((1, 2))
        losses.append(difference / wanted.square().mean((1, 2)))
    return torch.stack(losses).sum(0)
