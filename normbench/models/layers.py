"""What a model is made of: it asks `Layers` for every part and names no norm, convolution class or activation itself.

So an activation cannot be applied twice where a norm owns it, weights are reparametrized where a norm asks for it,
nothing is converted after construction, and equal seeds give equal initial weights under every norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from normbench.norms.spec import NormSpec
from normbench.seeds import stream, stream_seed


class Layers:
    """Hands out layers in order; the i-th one with weights draws them from the stream ("init", i)."""

    def __init__(self, spec: NormSpec, seed: int) -> None:
        self.spec = spec
        self.seed = seed
        self._num_drawn = 0
        self._num_norms = 0

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1
    ) -> nn.Module:
        """A convolution before a norm, padded to keep the size at stride 1, with a bias only if the norm needs one."""
        padding, bias = kernel_size // 2, self.spec.conv_bias
        return self._drawn(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        )

    def linear(self, in_features: int, out_features: int) -> nn.Module:
        """A linear layer with bias, as used for the classifier head."""
        return self._drawn(nn.Linear(in_features, out_features))

    def norm(self, num_features: int) -> nn.Module:
        """The norm at a site with no activation after it."""
        return self._made(self.spec.norm, num_features)

    def norm_act(self, num_features: int) -> nn.Module:
        """The norm and the activation after it, as one where the method owns both."""
        if self.spec.norm_act is not None:
            return self._made(self.spec.norm_act, num_features)
        return nn.Sequential(self.norm(num_features), nn.ReLU())

    def _made(self, make: Callable[[int], nn.Module], num_features: int) -> nn.Module:
        """The i-th norm, whose random initial values, if an own norm has any, come from the stream ("norm", i)."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream_seed(self.seed, "norm", self._num_norms))
            self._num_norms += 1
            return make(num_features)

    def _drawn(self, module: nn.Module) -> nn.Module:
        """Torch's default initial values again, from this layer's stream, the weight first: a bias shifts nothing."""
        generator = stream(self.seed, "init", self._num_drawn)
        self._num_drawn += 1
        weight, bias = module.weight, module.bias
        assert isinstance(weight, torch.Tensor)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
        if isinstance(bias, torch.Tensor):
            bound = 1 / math.sqrt(weight[0].numel())
            nn.init.uniform_(bias, -bound, bound, generator=generator)
        return self.spec.reparametrize(module) if self.spec.reparametrize else module
