"""Prints where the time of a training step goes: each convolution, the norms, the optimizer.

    python scripts/bench_step.py --batch 64 --norm bn

Of NormResNet in bf16 and channels_last, on the CPU; OMP_NUM_THREADS sets the threads. Parts are
timed alone and in turns, so that their inputs come from the cache more often than in a step.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from normbench.analysis import captions
from normbench.analysis.tables.rendering import to_markdown
from normbench.analysis.tables.table import Table
from normbench.config.compose import compose
from normbench.data import Split
from normbench.timing import steps
from normbench.timing.other_loops import random_images
from normbench.timing.race import race, timer_for
from normbench.training.build import build_trainer, runtime_of, task_of
from normbench.training.convolutions import unfold
from normbench.training.engine import Trainer
from normbench.training.resolve import resolve

CPU = torch.device("cpu")
SIZE = 2048  # of the square matrices whose product is the limit
Parts = dict[str, tuple[Callable[[], object], float]]  # work, and its GFLOP


def main() -> None:
    """Times the parts of a step in turns, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=64, metavar="SIZE")
    parser.add_argument("--norm", choices=["bn", "gn"], default="bn")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    settings = [f"norm={options.norm}", f"batch_size={options.batch}", "data=synthetic"]
    settings += ["runtime.device=cpu", "runtime.precision=bf16", "runtime.channels_last=true"]
    config, source = resolve(compose([*settings, "epochs=1000000"]))
    images, labels = random_images()
    split = Split.of(images=images, labels=labels)
    with runtime_of(config) as runtime:
        trainer = build_trainer(config, task_of(config, source), split, runtime)
        parts = parts_of(trainer, torch.arange(options.batch))
        works = {name: work for name, (work, _) in parts.items()}
        rounds = [*race(works, timer_for(CPU), rounds=options.rounds, least_seconds=0.01)]
    rows = []
    for name, (_, gflop) in parts.items():
        seconds = median(of_round[name] for of_round in rounds)
        rate = f"{gflop / seconds:.0f}" if gflop else ""
        rows.append((name, f"{1e3 * seconds:.2f}", rate))
    shown = pd.DataFrame(rows, columns=["part", "ms", "GFLOP/s"])
    machine = captions.machine(pd.DataFrame([steps.machine("cpu")]))
    caption = (
        f"NormResNet, {options.norm}, batch {options.batch}, bf16, channels_last. Median of "
        f"{options.rounds} rounds in turns, of one process. {machine}."
    )
    print(to_markdown(Table("Parts of a step", shown, shown, caption)), end="")


def parts_of(trainer: Trainer, group: Tensor) -> Parts:
    """The parts of a step on the images `group`, the whole step, and the limit."""
    model, optimizer = trainer.model.train(), trainer.optimizer
    parts: Parts = {"gathering the images": (partial(trainer.loader.gather, group), 0.0)}
    x = trainer.loader.gather(group)["images"].to(torch.bfloat16)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            parts |= convolution_parts(layer, x)
            weight = layer.weight.detach().to(torch.bfloat16)
            x = conv2d(x, weight, None, layer.stride, layer.padding)
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.ReLU):
            name = f"{type(layer).__name__} of {tuple(x.shape)}, both ways"
            parts[name] = (partial(both_ways, layer, x.clone().requires_grad_()), 0.0)
    gradients = [torch.zeros_like(parameter) for parameter in model.parameters()]

    def optimize() -> None:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    parts["optimizer"] = (optimize, 0.0)
    parts["whole step"] = (partial(trainer.take_step, group, 1e-3), 0.0)
    square = torch.randn(SIZE, SIZE).to(torch.bfloat16)
    parts["product of square matrices"] = (partial(torch.mm, square, square), 2e-9 * SIZE**3)
    return parts


def convolution_parts(layer: nn.Conv2d, x: Tensor) -> Parts:
    """The three passes of a convolution, and its weight's gradient as a matrix product."""
    weight = layer.weight.detach().to(torch.bfloat16)
    stride, padding, kernel = layer.stride, layer.padding, weight.shape[2:]
    dy = conv2d(x, weight, None, stride, padding)
    unfolded = partial(unfold, x, (kernel[0], kernel[1]), stride, padding)  # type: ignore[arg-type]
    pixels = dy.permute(0, 2, 3, 1).reshape(-1, len(weight))
    gflop = 2e-9 * dy.numel() * weight[0].numel()

    def backward(of_input: bool) -> object:
        mask = of_input, not of_input, False
        geometry = stride, padding, (1, 1), False, (0, 0), 1
        return torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, mask)

    name = f"{weight.shape[1]} to {len(weight)} channels: "
    return {
        f"{name}forward": (partial(conv2d, x, weight, None, stride, padding), gflop),
        f"{name}input gradient": (partial(backward, True), gflop),
        f"{name}weight gradient, oneDNN": (partial(backward, False), gflop),
        f"{name}input unfolded": (unfolded, 0.0),
        f"{name}weight gradient, product": (partial(torch.mm, pixels.t(), unfolded()), gflop),
    }


def both_ways(layer: nn.Module, x: Tensor) -> None:
    """The layer's forward and backward pass."""
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.backward(torch.ones_like(y))
    x.grad = None


if __name__ == "__main__":
    main()
