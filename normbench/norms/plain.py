"""No normalization: the control every comparison needs."""

from __future__ import annotations

from torch import nn

from normbench.norms.spec import NormSpec, norms


@norms.register("none", title="no norm")
def none() -> NormSpec:
    """No normalization: y = x; the convolutions keep a bias, since nothing after them adds an offset."""
    return NormSpec(scope="none", norm=lambda num_features: nn.Identity(), conv_bias=True)
