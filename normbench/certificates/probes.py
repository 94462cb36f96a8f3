"""What norms are tried on: inputs, a layer alone, a layer after its convolution, and what a backward pass needs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from normbench.models import Layers, materialize
from normbench.norms import NormSpec
from normbench.norms.spec import Shape

IMAGE_CHANNELS = 3
LATE = 10**6  # batches


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers of shape (n, c, h, w) whose samples and channels have means and scales of their own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    for axis in (0, 1):
        column = [1] * len(shape)
        column[axis] = shape[axis]
        x = x * (0.5 + torch.rand(column, generator=generator, dtype=torch.float64))
        x = x + torch.randn(column, generator=generator, dtype=torch.float64)
    return x.to(dtype)


def layer_of(spec: NormSpec, shape: Shape, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The norm for inputs of this shape, in training mode; with its activation, if it owns one."""
    make = Layers(spec, seed=0).norm if spec.norm_act is None else Layers(spec, seed=0).norm_act
    return materialize(make(shape[1]), shape[1:]).to(dtype)


def block_of(spec: NormSpec, shape: Shape, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A convolution of images to this shape and the norm after it, in training mode."""
    layers = Layers(spec, seed=0)
    norm = layers.norm(shape[1]) if spec.norm_act is None else layers.norm_act(shape[1])
    conv = layers.conv(IMAGE_CHANNELS, shape[1], 3)
    return materialize(nn.Sequential(conv, norm), (IMAGE_CHANNELS, *shape[2:])).to(dtype)


def settled(module: nn.Module, *batches: Tensor) -> nn.Module:
    """The module late in training: with statistics of these batches, and past every warm-up that counts batches."""
    with torch.no_grad():
        for x in batches:
            module.train()(x)
        for name, buffer in module.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(LATE)
    return module


def images(shape: Shape, seed: int = 0) -> Tensor:
    """The input of `block_of`."""
    return drawn(shape[0], IMAGE_CHANNELS, *shape[2:], seed=seed)


def fresh(module: nn.Module, x: Tensor, *, training: bool = True) -> Tensor:
    """The output of a copy, which keeps what it sees to itself."""
    with torch.no_grad():
        y: Tensor = copy.deepcopy(module).train(training)(x)
    return y


def close(one: Tensor, other: Tensor, tolerance: float = 1e-3) -> bool:
    """Whether two outputs are equal to within a thousandth of their size: eps makes laws hold only nearly."""
    one, other = one.detach(), other.detach()
    size = max(float(one.abs().max()), 1e-6)
    return bool((one - other).abs().max() <= tolerance * size)
