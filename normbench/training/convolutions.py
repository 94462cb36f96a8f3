"""Convolutions whose weight gradients are matrix products of unfolded inputs.

On the processor of results/speed oneDNN's weight gradients run at half the rate of a matrix
product. A product needs the input unfolded: a row per output pixel, with the values under the
kernel, which one strided copy of a channels_last map makes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, pad

Pair = tuple[int, int]

# With those of fewer channels, a whole step is no quicker (results/LOG.md).
LEAST_CHANNELS = 128


def multiply_weight_gradients(model: nn.Module) -> None:
    """Gives the model's plain convolutions weight gradients by products, under autocast on a CPU.

    In place; parameters and their names stay. Grouped, dilated and otherwise padded convolutions,
    and those of a class with a computation of its own, are left as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_plain(module):
            how: dict[str, Any] = {"stride": module.stride, "padding": module.padding}
            # What nn.Conv2d.forward calls with input, weight (as it may be parametrized) and bias.
            module._conv_forward = partial(_convolve, **how)  # type: ignore[method-assign]


def _is_plain(module: nn.Conv2d) -> bool:
    kind = type(module)
    return (
        kind.forward is nn.Conv2d.forward
        and kind._conv_forward is nn.Conv2d._conv_forward
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """The convolution of x (n, c, h, w) with weight (o, c, k, l), as autocast has it."""
    is_trained = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    # Autocast leaves float64 alone.
    is_taken = x.dim() == 4 and x.shape[1] >= LEAST_CHANNELS and x.dtype != torch.float64
    if not (is_trained and is_taken):
        return conv2d(x, weight, bias, stride, padding)
    dtype = torch.get_autocast_dtype("cpu")
    # Here, not within: autograd turns the gradients back into the parameters' own type.
    x, weight = x.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    result: Tensor = Convolution.apply(x, weight, bias, stride, padding)
    return result


class Convolution(torch.autograd.Function):
    """conv2d(x, weight, bias, stride, padding) with the weight's gradient as a matrix product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dx, _, _ = torch.ops.aten.convolution_backward(
            dy,
            x,
            weight,
            None,
            stride=ctx.stride,
            padding=ctx.padding,
            dilation=(1, 1),
            transposed=False,
            output_padding=(0, 0),
            groups=1,
            output_mask=(needs_x, False, False),
        )
        # oneDNN would compute the weight's gradient along with the bias's.
        dbias = dy.sum((0, 2, 3)) if needs_bias else None
        dweight = None
        if needs_weight:
            dweight = _weight_gradient(x, dy, weight.shape, ctx.stride, ctx.padding)
        return dx, dweight, dbias, None, None


def _weight_gradient(
    x: Tensor, dy: Tensor, shape: torch.Size, stride: Pair, padding: Pair
) -> Tensor:
    """The gradient of a weight of this shape, (o, c, k, l), for inputs x and gradients dy."""
    outputs, channels, *kernel = shape
    pixels = dy.permute(0, 2, 3, 1).reshape(-1, outputs)
    product = pixels.t() @ unfold(x, (kernel[0], kernel[1]), stride, padding)
    return product.view(outputs, *kernel, channels).permute(0, 3, 1, 2)


def unfold(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """The values of x (n, c, h, w) under the kernel (k, l): (output pixels, k * l * c)."""
    (height, width), (down, right) = kernel, stride
    rows = pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    n, h, w, channels = rows.shape
    size = n, (h - height) // down + 1, (w - width) // right + 1, height, width, channels
    of_image, of_row, of_pixel, of_channel = rows.stride()
    strides = of_image, down * of_row, right * of_pixel, of_row, of_pixel, of_channel
    return rows.as_strided(size, strides).reshape(-1, height * width * channels)
