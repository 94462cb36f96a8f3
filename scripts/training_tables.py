"""What bench_training.py prints: what was measured where, and tables of medians, ratios and shares."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from training_contestants import ROUND_SECONDS, Contestant
from training_loops import MATRIX_SIDE, NUM_EVALUATED, NUM_IMAGES, plain_normresnet

from normbench import environment

NUM_TEST = 10_000  # test images of CIFAR-10
EVALUATION = f"evaluation of {NUM_EVALUATED} images"
PRODUCT = "product in "  # of matrices, before the name of their number type

CONTESTANTS = f"""\
- source: torchvision's data set and transforms on PIL images, DataLoader without workers, torch's layers, Adam and
  defaults, fp32; in-memory: the same on images normalized beforehand; lightning: the source under a Lightning Trainer
  whose logger, checkpoints, progress bar and summary are off.
- normbench: what `normbench train` does in an epoch by default; fastest: the quickest of its settings in a race before.
- At batch 1 every contestant runs at the number of threads that won a race before; normbench x2 is two such trainings
  of one thread at the same time, a step of either counted as one. At other batch sizes all have all threads.
- Share of the limit: the multiplications and additions of a step's convolutions and linear layer, per second, over
  those of torch.mm on square matrices of {MATRIX_SIDE:,} in the same type of numbers, on all threads.
- Ratios and shares are taken round by round. Peak memory is resident memory of the whole process, of both for x2, with
  {NUM_IMAGES:,} images in it; normbench has its evaluations in it too, but for x2 and fastest."""


@dataclass(frozen=True)
class Measured:
    """The contestants on one norm and batch size, their milliseconds by round (row) and name (column), and races."""

    norm: str
    batch_size: int
    contestants: list[Contestant]
    times: pd.DataFrame
    races: list[str]


def header(rounds: int) -> str:
    """What was measured, where and how."""
    versions, git = environment.versions(), environment.git()
    commit = f"{(git['commit'] or 'none')[:12]}{' with changes' if git['dirty'] else ''}"
    lines = [
        "# Training loops compared",
        f"{environment.cpu_name()}, {environment.num_cores()} cores, load {os.getloadavg()[0]:.1f} at the start; torch "
        f"{versions['torch']}, Python {versions['python']}, {lightning_version()}, normbench at commit {commit}.",
        f"`python scripts/{environment.command()}`: n = {rounds} rounds of about {ROUND_SECONDS} s for each contestant "
        "after one that is not counted; figures are median (least to most).",
        CONTESTANTS,
    ]
    return "\n\n".join(lines)


def lightning_version() -> str:
    """Lightning's, or how to get it."""
    if has_lightning():
        return f"lightning {version('lightning')}"
    return "lightning left out, since it is not installed (pip install 'normbench[bench]')"


def has_lightning() -> bool:
    """Whether Lightning can take part."""
    return importlib.util.find_spec("lightning") is not None


def section(batch_size: int, measured: list[Measured]) -> str:
    """The tables of one batch size, and what its races said."""
    contestants = pd.DataFrame([row for each in measured for row in contestant_rows(each)])
    limits = pd.DataFrame([limit_row(each) for each in measured])
    races = [f"- {each.norm}, {line}" for each in measured for line in each.races]
    parts = [
        f"## Batch {batch_size}",
        contestants.to_markdown(index=False, disable_numparse=True),
        limits.to_markdown(index=False, disable_numparse=True),
        f"{training_flops(batch_size) / 1e9:.4g} GFLOP a step. Races, median of milliseconds per step:",
        "\n".join(races),
    ]
    return "\n\n".join(parts)


def contestant_rows(measured: Measured) -> list[dict[str, str]]:
    """A row for each contestant but the matrix products."""
    times, rows = measured.times, []
    for contestant in measured.contestants:
        if contestant.name.startswith(PRODUCT):
            continue
        own, variant = times[contestant.name], contestant.variant
        kind = "bfloat16" if "runtime.precision=bf16" in variant.settings else "float32"
        share = training_flops(measured.batch_size) / (own / 1000) / product_rate(times, kind)
        rows.append(
            {
                "norm": measured.norm,
                "contestant": contestant.name,
                "settings": variant.what or "default",
                "threads": str(variant.threads),
                "ms per step": spread(own, ".4g"),
                "source / this": spread(times["source"] / own, ".2f"),
                "% of the limit": spread(100 * share, ".0f"),
                "peak memory, MiB": f"{contestant.peak_mib:.0f}",
            }
        )
    return rows


def limit_row(measured: Measured) -> dict[str, str]:
    """The matrix products and normbench's evaluation on one norm."""
    times = measured.times
    kinds = [name.removeprefix(PRODUCT) for name in times if name.startswith(PRODUCT)]
    evaluation = times[EVALUATION] * NUM_TEST / NUM_EVALUATED
    training = times["normbench"] * math.ceil(NUM_IMAGES / measured.batch_size)
    return {
        "norm": measured.norm,
        **{
            f"torch.mm, {kind}, GFLOP/s": spread(product_rate(times, kind) / 1e9, ".0f")
            for kind in kinds
        },
        f"normbench's {EVALUATION}, ms": spread(times[EVALUATION], ".0f"),
        "evaluation's % of an epoch": spread(100 * evaluation / (training + evaluation), ".1f"),
    }


def product_rate(times: pd.DataFrame, kind: str) -> pd.Series:
    """Floating-point operations per second of the matrix product, by round."""
    return 2 * MATRIX_SIDE**3 / (times[PRODUCT + kind] / 1000)


def spread(values: pd.Series, form: str) -> str:
    """Median (least to most)."""
    return f"{values.median():{form}} ({values.min():{form}} to {values.max():{form}})"


def training_flops(batch_size: int) -> int:
    """The floating-point operations of one step's convolutions and linear layer; all else is left out."""
    model = plain_normresnet("bn")
    multiply_adds: list[int] = []

    def add(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module.weight, Tensor)
        multiply_adds.append(output[0].numel() * module.weight[0].numel())

    for module in model:
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    model.eval()(torch.zeros(1, 3, 32, 32))
    # Forward, the weights' gradients and the inputs' cost as much each; but nobody asks for the gradient of the images.
    return 2 * batch_size * (3 * sum(multiply_adds) - multiply_adds[0])
