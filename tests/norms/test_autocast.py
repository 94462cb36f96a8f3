"""Norms under bf16 autocast: one rule for types on every device, and float32's numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from kit.norms import every_norm, normal, randomize, results, spec_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from normbench.certificates.probes import block_of, layer_of

SHAPE = (8, 16, 5, 3)
# Differences from float32 in root mean square. bf16 keeps 8 bits, 0.4 % of a value; more is lost of
# a parameter's gradient, a sum of values that nearly cancel.
OF_VALUES, OF_PARAMETERS = 0.02, 0.1


@contextmanager
def autocast_of_a_gpu() -> Iterator[None]:
    """torch.autocast("cuda", torch.bfloat16), which turns itself off where there is no GPU."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def put_on_a_fake_gpu(module: nn.Module) -> None:
    """Replaces parameters and buffers by tensors with a type, a shape, a device and no values."""
    for part in module.modules():
        for key, value in part.named_parameters(recurse=False):
            fake = torch.empty_like(value, device="cuda")
            setattr(part, key, nn.Parameter(fake))
        for key, buffer in part.named_buffers(recurse=False):
            setattr(part, key, torch.empty_like(buffer, device="cuda"))


@every_norm
def test_on_a_gpu_a_norm_gives_bf16_too(name: str) -> None:
    block = block_of(spec_of(name), SHAPE, torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        put_on_a_fake_gpu(block)
        x = torch.empty(SHAPE[0], 3, *SHAPE[2:], device="cuda")
        for training in (False, True):
            with autocast_of_a_gpu():
                y = block.train(training)(x)
            assert (y.device.type, y.dtype) == ("cuda", torch.bfloat16)


def difference(found: Tensor, wanted: Tensor) -> float:
    """The difference's root mean square, in shares of the wanted tensor's."""
    return float((found.float() - wanted).norm() / wanted.norm())


@every_norm
def test_in_bf16_a_norm_gives_float32_s_numbers_but_for_a_few_roundings(name: str) -> None:
    wide = randomize(layer_of(spec_of(name), SHAPE, torch.float32))
    narrow = copy.deepcopy(wide)
    generator = torch.Generator().manual_seed(2)
    x, gradient = normal(*SHAPE).bfloat16(), torch.randn(SHAPE, generator=generator).bfloat16()
    wanted = results(wide, x.float(), gradient.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = results(narrow, x, gradient)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        tolerance = OF_VALUES if key in ("y", "x") else OF_PARAMETERS
        assert difference(found[key], value) < tolerance, key
        assert found[key].dtype == (x.dtype if key in ("y", "x") else torch.float32)
    for key, buffer in narrow.named_buffers():
        torch.testing.assert_close(buffer, wide.get_buffer(key), rtol=1e-5, atol=1e-5)
