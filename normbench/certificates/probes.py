"""Inputs, layers and blocks on which certificates and contract try a norm.

The layer is the norm alone, with its activation where the norm contains one. The block is a 3x3
convolution of images followed by the layer. Inputs have the shape (n, c, h, w), or (n, c, t) for t
tokens: there the block is a linear layer of tokens followed by the layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn

from normbench.models import Layers, materialize
from normbench.norms import NormSpec
from normbench.norms.spec import Shape

IMAGE_CHANNELS = 3
# The buffer that counts training batches, by which norms know the end of their warm-up.
COUNTER = "num_batches_tracked"
LATE = 10**6  # batches, beyond every warm-up
# Seeds of the batches behind running statistics.
SEEN = (11, 12, 13)


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread: on inputs so small, handing work to threads takes longest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers of shape (n, c, *places); samples and channels differ in mean and scale."""
    return _drawn(shape, seed).to(dtype, copy=True)


@lru_cache(maxsize=256)
def _drawn(shape: Shape, seed: int) -> Tensor:
    """The numbers in float64, kept: every norm is tried on the same."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    places = [1 for _ in shape[2:]]
    for column in ((shape[0], 1, *places), (1, shape[1], *places)):
        x = x * (0.5 + torch.rand(column, generator=generator, dtype=torch.float64))
        x = x + torch.randn(column, generator=generator, dtype=torch.float64)
    return x


def images(shape: Shape, seed: int = 0, channels: int = IMAGE_CHANNELS) -> Tensor:
    """Inputs of the block, with `channels` channels, whose layer has inputs of `shape`."""
    return drawn(shape[0], channels, *shape[2:], seed=seed)


def layer_of(spec: NormSpec, shape: Shape, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The layer for inputs of this shape, in training mode."""
    return materialize(_layer(Layers(spec, seed=0), shape), shape[1:]).to(dtype)


def block_of(
    spec: NormSpec,
    shape: Shape,
    dtype: torch.dtype = torch.float64,
    channels: int = IMAGE_CHANNELS,
) -> nn.Module:
    """The block of inputs with `channels` channels whose layer has inputs of this shape.

    It is in training mode.
    """
    layers = Layers(spec, seed=0)
    block: nn.Module
    if is_of_tokens(shape):
        block = OfTokens(
            layers.linear(channels, shape[1], bias=spec.on_tokens.conv_bias),
            layers.token_norm(shape[1]),
        )
    else:
        block = nn.Sequential(layers.conv(channels, shape[1], 3), _layer(layers, shape))
    return materialize(block, (channels, *shape[2:])).to(dtype)


def is_of_tokens(shape: Shape) -> bool:
    """Whether a shape is (n, c, t) of tokens."""
    return len(shape) == 3


class OfTokens(nn.Sequential):
    """Layers of tokens (n, t, c) one after another, for x of shape (n, c, t)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.mT
        for layer in self:
            y = layer(y)
        return y.mT


def _layer(layers: Layers, shape: Shape) -> nn.Module:
    if is_of_tokens(shape):
        return OfTokens(layers.token_norm(shape[1]))
    if layers.spec.norm_act is None:
        return layers.norm(shape[1])
    return layers.norm_act(shape[1])


@torch.no_grad()
def settled(module: nn.Module, *batches: Tensor, late: bool = True) -> nn.Module:
    """Trains the module's statistics on the batches; where `late`, every warm-up is then over."""
    for x in batches:
        module.train()(x)
    for name, buffer in module.named_buffers():
        if late and name.endswith(COUNTER):
            buffer.fill_(LATE)
    return module


def moved(block: nn.Module) -> nn.Module:
    """A copy with every parameter moved, as by a training step, and buffers left behind."""
    copied = copy.deepcopy(block)
    with torch.no_grad():
        for seed, parameter in enumerate(copied.parameters()):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise, alpha=0.1)
    return copied


@torch.no_grad()
def fresh(module: nn.Module, x: Tensor, *, training: bool = True) -> Tensor:
    """The output of a copy: the module's own state stays as it is."""
    y: Tensor = copy.deepcopy(module).train(training)(x)
    return y


def close(first: Tensor, second: Tensor, tolerance: float = 1e-3) -> bool:
    """Whether outputs differ by at most `tolerance` of the largest value.

    The default is 0.1 %: eps makes laws such as invariance to scale hold only approximately.
    """
    first, second = first.detach(), second.detach()
    size = max(float(first.abs().max()), 1e-6)
    return bool((first - second).abs().max() <= tolerance * size)
