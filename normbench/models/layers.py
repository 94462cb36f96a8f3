"""The parts of every model: a model asks `Layers` for convolutions, norms and activations.

A model that builds no such part itself fits every norm: no activation is applied twice where a norm
contains the activation, weights are reparametrized where a norm demands so, and equal seeds give
equal initial weights under every norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normbench.errors import NormbenchError
from normbench.models.steps import Offset, StepNorm
from normbench.models.tokens import OnTokens, Positions
from normbench.norms.spec import NormSpec, Shape
from normbench.seeds import stream, stream_seed

Padding = Literal["zeros", "reflect"]


class Layers:
    """Makes the layers of a model for a norm; a model calls the methods in the forward order.

    The i-th layer with a weight draws from the random stream ("init", i), the i-th norm from
    ("norm", i), so that no draw depends on a layer before.

    image_shape: (c, h, w) of the images, for networks that are built for one size or traced.
    init_scale: by which the initial weights of convolutions and linear layers are multiplied.
    """

    def __init__(
        self,
        spec: NormSpec,
        seed: int,
        image_shape: Shape = (3, 32, 32),
        *,
        init_scale: float = 1.0,
    ) -> None:
        self.spec = spec
        self.seed = seed
        self.image_shape = image_shape
        self.init_scale = init_scale
        self._num_drawn = 0
        self._num_norms = 0

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: Padding = "zeros",
        bias: bool | None = None,
    ) -> nn.Module:
        """A convolution; stride 1 keeps the size. bias: None for spec.conv_bias, as before a norm.

        padding: what stands around the map, zeros or its reflection.
        """
        sizes = (in_channels, out_channels, kernel_size, stride, kernel_size // 2)
        has_bias = self.spec.conv_bias if bias is None else bias
        return self._initialized(nn.Conv2d(*sizes, bias=has_bias, padding_mode=padding))

    def conv_transpose(
        self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool | None = None
    ) -> nn.Module:
        """A transposed convolution of stride 2, which doubles height and width; bias as `conv`."""
        sizes = (in_channels, out_channels, kernel_size, 2, kernel_size // 2, 1)
        has_bias = self.spec.conv_bias if bias is None else bias
        return self._initialized(nn.ConvTranspose2d(*sizes, bias=has_bias))

    def patches(self, in_channels: int, out_channels: int, size: int) -> nn.Module:
        """A convolution with bias of patches of size x size pixels, side by side; no norm follows.

        (n, in_channels, h, w) to (n, out_channels, h / size, w / size).
        """
        return self._initialized(nn.Conv2d(in_channels, out_channels, size, stride=size))

    def linear(self, in_features: int, out_features: int, *, bias: bool = True) -> nn.Module:
        """A linear layer, with a bias unless it is said otherwise."""
        return self._initialized(nn.Linear(in_features, out_features, bias))

    def offset(self, num_features: int) -> Offset:
        """A learned offset of values (n, num_features), where no layer before has one."""
        return Offset(num_features)

    def norm(
        self, num_features: int, *, zero_gamma: bool = False, is_block_start: bool = True
    ) -> nn.Module:
        """The norm at a site that no activation follows.

        zero_gamma: begins with a gamma of 0, so that a residual branch begins as 0. is_block_start:
        False at the sites of a residual network where IBN-a's paper keeps bn: all but the first
        norm of a block, and the last stage. Raises NormbenchError for a norm without gamma.
        """
        spec = self._spec_at(is_block_start)
        layer = self._made(spec.norm, num_features)
        if zero_gamma:
            gamma = getattr(layer, "weight", None)
            if not isinstance(gamma, nn.Parameter) or is_lazy(gamma):
                raise NormbenchError("zero_last_gamma: this norm has no gamma to begin with 0")
            nn.init.zeros_(gamma)
        return layer

    def norm_of_steps(self, num_features: int, num_steps: int, gamma: float) -> StepNorm:
        """The norm at a site (num_features, 1, 1) of every step of a sequence: `layer(x, step)`.

        num_steps: how many steps have running statistics of their own. gamma: where the norm's
        scale begins.
        """
        layer = StepNorm(self.norm(num_features), num_features, num_steps)
        scale = getattr(layer[0], "weight", None)
        if isinstance(scale, nn.Parameter):
            nn.init.constant_(scale, gamma)
        return layer

    def norm_act(self, num_features: int, *, is_block_start: bool = True) -> nn.Module:
        """The norm with the activation after it, which some norms contain."""
        spec = self._spec_at(is_block_start)
        if spec.norm_act is not None:
            return self._made(spec.norm_act, num_features)
        return nn.Sequential(self.norm(num_features, is_block_start=is_block_start), self.act())

    def token_norm(self, num_features: int) -> nn.Module:
        """The norm at a site of tokens, x of shape (n, places, c), that no activation follows."""
        return OnTokens(self._made(self.spec.on_tokens.norm, num_features))

    def positions(self, num_places: int, num_features: int) -> nn.Module:
        """The sum of tokens (n, places, c) with a learned vector for each place."""
        generator = stream(self.seed, "init", self._num_drawn)
        self._num_drawn += 1
        return Positions(num_places, num_features, generator)

    def act(self) -> nn.Module:
        """The activation where no norm stands directly before, as after a residual sum."""
        return nn.ReLU()

    def _spec_at(self, is_block_start: bool) -> NormSpec:
        return self.spec if is_block_start else self.spec.elsewhere or self.spec

    def _made(self, make: Callable[[int], nn.Module], num_features: int) -> nn.Module:
        """A norm layer; own norms may draw random initial values from torch's default generator."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream_seed(self.seed, "norm", self._num_norms))
            self._num_norms += 1
            return make(num_features)

    def _initialized(self, module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> nn.Module:
        """Draws weight and bias from torch's default distribution; the norm reparametrizes.

        The weight is multiplied by init_scale before; the bias is not.
        """
        generator = stream(self.seed, "init", self._num_drawn)
        self._num_drawn += 1
        # The weight comes first: drawn after a bias, which some norms do without, it would differ.
        nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
        if module.bias is not None:
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        with torch.no_grad():
            module.weight.mul_(self.init_scale)
        if self.spec.reparametrize is not None:
            return self.spec.reparametrize(module)
        return module
