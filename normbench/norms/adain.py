"""Adaptive instance normalization: its scale and shift come from another image, so it is no classifier's norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench.norms.registry import norms
from normbench.norms.spec import Eps, NormSpec, Shape


class AdaIN(nn.Module):
    """Content with the channel-wise mean and deviation of style (arXiv:1703.06868).

    sigma(s) * (x - mu(x)) / sigma(x) + mu(s): mu and sigma = sqrt(var + eps) over the axes (h, w) of x (n, c, h, w) and
    of s (n, c, any h, any w), var biased. Nothing is learned; training and evaluation are the same.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """The output, of the shape of the content."""
        var, mean = torch.var_mean(content, (2, 3), correction=0, keepdim=True)
        style_var, style_mean = torch.var_mean(style, (2, 3), correction=0, keepdim=True)
        return (content - mean) * ((style_var + self.eps) / (var + self.eps)).sqrt() + style_mean


@norms.register("adain", title="AdaIN")
def adain(*, eps: Eps = 1e-5) -> NormSpec:
    """Adaptive instance normalization: needs a style image, so no classifier has it (arXiv:1703.06868).

    The layer is normbench.norms.AdaIN, called with content and style of shape (n, c, h, w).
    """

    def refuse(shape: Shape) -> str | None:
        return "its scale and shift come from a style image, which a classifier has not: see normbench.norms.AdaIN"

    return NormSpec(scope="sample", norm=lambda num_features: AdaIN(eps), refuse=refuse)
