"""Adaptive instance normalization, whose scale and shift come from a style image.

A classifier has no style image, so AdaIN is no entry of the norms' registry.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench.norms.arithmetic import PIXELS


class AdaIN(nn.Module):
    """Gives content x the channel-wise mean and deviation of style s (arXiv:1703.06868).

    y = sigma(s) * (x - mu(x)) / sigma(x) + mu(s), x of shape (n, c, h, w), s of shape
    (n, c, any height, any width); mu and sigma = sqrt(var + eps) of shape (n, c) over the axes
    (h, w), var biased. Nothing is learned. Evaluation as in training.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        var, mean = torch.var_mean(content, PIXELS, correction=0, keepdim=True)
        style_var, style_mean = torch.var_mean(style, PIXELS, correction=0, keepdim=True)
        return (content - mean) * ((style_var + self.eps) / (var + self.eps)).sqrt() + style_mean
