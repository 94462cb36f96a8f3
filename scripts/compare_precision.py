"""Does bf16 autocast change the accuracy that fp32 reaches? Paired runs of each norm, seed by seed.

Where the processor multiplies bf16 natively, the bf16 runs are simply that. Elsewhere each convolution and linear layer
does what such a processor does, in fp32: factors rounded to bf16, products summed in fp32, results rounded to bf16, in
the forward and the backward pass; all else is torch's own autocast. (torch's bf16 kernels give the same without the
hardware, sixteen times as slowly.) runtime.precision=auto rests on the outcome.

    python scripts/compare_precision.py FOLDER SEEDS key=value ...    e.g. results/speed 0,1,2 data=cifar10_parquet ...

Prints the differences with intervals and writes each run's accuracy to FOLDER. What is done is not done again.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from normbench.analysis.stats import paired_difference
from normbench.compose import compose
from normbench.train.run import execute
from normbench.train.runtime import has_native_bf16

NORMS = ("bn", "ln", "in", "gn")


class RoundedFactors(TorchFunctionMode):
    """Under autocast, convolutions and linear layers compute as RoundedProduct does."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.conv2d, functional.linear) and torch.is_autocast_enabled("cpu"):
            x, weight, bias, *rest = args
            half = [None if t is None else t.bfloat16() for t in (x, weight, bias)]
            return RoundedProduct.apply(func, rest, *half)
        return func(*args, **kwargs or {})


class RoundedProduct(torch.autograd.Function):
    """func(x, weight, bias, *rest) of bf16 tensors, computed in fp32 and rounded once; its gradients likewise."""

    @staticmethod
    def forward(ctx: Any, func: Callable[..., Tensor], rest: list[Any], *tensors: Tensor | None) -> Tensor:
        """The product in bf16."""
        ctx.func, ctx.rest = func, rest
        ctx.save_for_backward(*tensors)
        with torch.autocast("cpu", enabled=False):
            return func(*_wide(tensors), *rest).bfloat16()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradients in bf16."""
        tensors = [None if t is None else t.requires_grad_() for t in _wide(ctx.saved_tensors)]
        needed = [t for t, is_needed in zip(tensors, ctx.needs_input_grad[2:], strict=True) if is_needed]
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            product = ctx.func(*tensors, *ctx.rest)
        gradients = iter(torch.autograd.grad(product, needed, gradient.float()))
        rounded = [next(gradients).bfloat16() if is_needed else None for is_needed in ctx.needs_input_grad[2:]]
        return None, None, *rounded


def _wide(tensors: Any) -> list[Any]:
    return [None if t is None else t.detach().float() for t in tensors]


def accuracy(norm: str, seed: int, precision: str, settings: list[str]) -> float:
    """Final test accuracy of one run, in percent."""
    config = compose([f"norm={norm}", f"seed={seed}", f"runtime.precision={precision}", *settings])
    rounds = precision == "bf16" and not has_native_bf16("cpu")
    native = patch("normbench.train.runtime.has_native_bf16", lambda device: True)
    with RoundedFactors() if rounds else nullcontext(), native if rounds else nullcontext():
        return 100 * execute(config).metrics["test_accuracy"]


def main() -> None:
    """Trains, prints and writes."""
    folder, seeds, *settings = sys.argv[1:]
    rows = []
    for seed in map(int, seeds.split(",")):
        for norm in NORMS:
            for precision in ("fp32", "bf16"):
                rows.append((norm, seed, precision, accuracy(norm, seed, precision, settings)))
    runs = pd.DataFrame(rows, columns=["norm", "seed", "precision", "test_accuracy"])
    Path(folder).mkdir(parents=True, exist_ok=True)
    runs.to_csv(Path(folder) / "precision.csv", index=False)
    wide = runs.pivot(index=["norm", "seed"], columns="precision", values="test_accuracy")
    for norm in (*NORMS, "all"):
        chosen = wide if norm == "all" else wide.loc[[norm]]
        pairs = [dict(enumerate(chosen[precision])) for precision in ("bf16", "fp32")]
        difference = paired_difference(*pairs)
        assert difference is not None
        estimate = difference.estimate
        print(f"{norm}: bf16 - fp32 {estimate.mean:+.2f} ± {estimate.half_width:.2f} points, n = {estimate.n}")


if __name__ == "__main__":
    main()
