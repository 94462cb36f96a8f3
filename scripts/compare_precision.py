"""Does bf16 autocast change the accuracy that fp32 reaches? Paired runs of each norm, seed by seed.

Where the processor multiplies bf16 natively, the bf16 runs are simply that. Elsewhere each convolution and linear layer
does what such a processor does, in fp32: factors rounded to bf16, products summed in fp32, results rounded to bf16, in
the forward and the backward pass; all else is torch's own autocast. (torch's bf16 kernels give the same without the
hardware, sixteen times as slowly.) runtime.precision=auto rests on the outcome.

    python scripts/compare_precision.py FOLDER SEEDS key=value ...    e.g. results/speed 0,1,2 data=cifar10_parquet ...

Prints the differences with intervals and writes the pairs to FOLDER. What is done is not done again.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from normbench.analysis.stats import paired_difference
from normbench.config.compose import compose
from normbench.train.run import Outcome, execute
from normbench.train.runtime import has_native_bf16

NORMS = ("bn", "ln", "in", "gn")


class RoundedFactors(TorchFunctionMode):
    """Under autocast, convolutions and linear layers compute as RoundedProduct does."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.conv2d, functional.linear) and torch.is_autocast_enabled("cpu"):
            x, weight, bias, *rest = args
            half = [None if t is None else t.bfloat16() for t in (x, weight, bias)]
            return RoundedProduct.apply(func, rest, *half)
        return func(*args, **kwargs or {})


class RoundedProduct(torch.autograd.Function):
    """func(x, weight, bias, *rest) of bf16 tensors, computed in fp32 and rounded once; its gradients likewise."""

    @staticmethod
    def forward(
        ctx: Any, func: Callable[..., Tensor], rest: list[Any], *tensors: Tensor | None
    ) -> Tensor:
        """The product in bf16."""
        ctx.func, ctx.rest = func, rest
        ctx.save_for_backward(*tensors)
        with torch.autocast("cpu", enabled=False):
            return func(*_wide(tensors), *rest).bfloat16()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradients in bf16."""
        tensors = [None if t is None else t.requires_grad_() for t in _wide(ctx.saved_tensors)]
        needed = [
            t for t, is_needed in zip(tensors, ctx.needs_input_grad[2:], strict=True) if is_needed
        ]
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            product = ctx.func(*tensors, *ctx.rest)
        gradients = iter(torch.autograd.grad(product, needed, gradient.float()))
        rounded = [
            next(gradients).bfloat16() if is_needed else None
            for is_needed in ctx.needs_input_grad[2:]
        ]
        return None, None, *rounded


def _wide(tensors: Any) -> list[Any]:
    return [None if t is None else t.detach().float() for t in tensors]


def train(norm: str, seed: int, precision: str, settings: list[str]) -> Outcome:
    """One run, or what came of it before."""
    config = compose([f"norm={norm}", f"seed={seed}", f"runtime.precision={precision}", *settings])
    rounds = precision == "bf16" and not has_native_bf16("cpu")
    native = patch("normbench.train.runtime.has_native_bf16", lambda device: True)
    with RoundedFactors() if rounds else nullcontext(), native if rounds else nullcontext():
        return execute(config)


def main() -> None:
    """Trains, prints and writes."""
    folder, seeds, *settings = sys.argv[1:]
    rows = []
    for seed, norm in product(map(int, seeds.split(",")), NORMS):
        fp32, bf16 = (train(norm, seed, precision, settings) for precision in ("fp32", "bf16"))
        accuracies = [100 * one.metrics["test_accuracy"] for one in (fp32, bf16)]
        rows.append((norm, seed, *accuracies, loss_difference(fp32, bf16)))
    pairs = pd.DataFrame(rows, columns=["norm", "seed", "fp32", "bf16", "largest_loss_difference"])
    Path(folder).mkdir(parents=True, exist_ok=True)
    pairs.to_csv(Path(folder) / "precision.csv", index=False)
    for norm in (*NORMS, "all"):
        print(sentence(norm, pairs if norm == "all" else pairs[pairs["norm"] == norm]))


def loss_difference(first: Outcome, second: Outcome) -> float:
    """The largest difference between training losses that both runs have logged of the same step."""
    losses = [
        pd.read_csv(run.path / "steps.csv").set_index("step")["loss"] for run in (first, second)
    ]
    return float((losses[0] - losses[1]).abs().max())


def sentence(name: str, pairs: pd.DataFrame) -> str:
    """The difference in accuracy with its interval, and how far losses were apart."""
    difference = paired_difference(
        *(dict(enumerate(pairs[precision])) for precision in ("bf16", "fp32"))
    )
    assert difference is not None
    estimate = difference.estimate
    return (
        f"{name}: bf16 - fp32 {estimate.mean:+.2f} ± {estimate.half_width:.2f} points of accuracy, n = {estimate.n}; "
        f"logged losses at most {pairs['largest_loss_difference'].max():.3f} apart"
    )


if __name__ == "__main__":
    main()
