"""Claims that a computation decides in seconds: layers on drawn inputs, counts, bytes.

Each function gives a Finding of its own measurement; what it measures is in configs/claims.yaml.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from normbench.audit.verdicts import Finding, every, exact
from normbench.certificates import certify
from normbench.certificates.certificate import Certificate
from normbench.certificates.probes import drawn
from normbench.models import Layers, models
from normbench.norms import norms
from normbench.norms.adain import AdaIN

SHAPE = (8, 16, 5, 5)
AXES = {"bn": "n h w", "ln": "c h w", "in": "h w", "gn": "c/4 h w"}
PARAMETERS = {"bn": 1_557_066, "ln": 1_557_066, "in": 1_555_146, "gn": 1_557_066}
TOLERANCE = 1e-5


def normalized_moments() -> Finding:
    """Mean 0 and variance 1 over the axes of each of the source's four norms."""
    parts, figures = [], []
    for name, axes in AXES.items():
        certificate = _certificate(name)
        means, variances = certificate.mean_0_over, certificate.variance_1_over
        parts.append(exact(axes in means and axes in variances))
        figures.append(f"{name}: mean 0 over {_or(means)}, variance 1 over {_or(variances)}.")
    return Finding(every(parts), tuple(figures))


def parameter_count() -> Finding:
    """Parameters of NormResNet under each of the source's four norms."""
    parts, figures = [], []
    for name, claimed in PARAMETERS.items():
        model = models.build("normresnet", Layers(norms.build(name), seed=0), 10)
        counted = sum(parameter.numel() for parameter in model.parameters())
        parts.append(exact(counted == claimed))
        figures.append(f"{name}: {counted:,} parameters, claimed {claimed:,}.")
    return Finding(every(parts), tuple(figures))


def memory() -> Finding:
    """Bytes that norm and activation keep for the backward pass, per element of the input."""
    kept = {name: _certificate(name).saved_bytes for name in AXES}
    holds = kept["bn"] > max(kept["ln"], kept["gn"])
    holds = holds and min(kept["ln"], kept["gn"]) > kept["in"]
    told = ", ".join(f"{name} {number:g}" for name, number in kept.items())
    figure = f"Bytes kept for the backward pass for each float32 value of the input: {told}."
    return Finding(exact(holds), (figure,))


def batch_free_advances() -> Finding:
    """Whether batch mates change a sample's output in training, for EvoNorm and FRN."""
    matter = {}
    for name in ("evonorm_s0", "frn", "evonorm_b0"):
        matter[name] = _certificate(name).batch_mates_matter_in_training
    figures = []
    for name, matters in matter.items():
        what = "change" if matters else "do not change"
        figures.append(f"{name}: batch mates {what} a sample's output.")
    return Finding(exact(not any(matter.values())), tuple(figures))


def bn_samples_independent() -> Finding:
    """The change of other samples' outputs under bn when one sample changes, in training."""
    change = _change_of_mates("bn")
    told = f"One of 8 samples changed by 1: other outputs change by up to {change:.2g}."
    return Finding(exact(change < TOLERANCE), (told,))


def in_small_batch() -> Finding:
    """The difference of a sample's output under `in`, alone and among 7 others, in training."""
    layer = norms.build("in").norm(SHAPE[1]).double().train()
    x = drawn(*SHAPE)
    with torch.no_grad():
        change = float((layer(x)[:1] - layer(x[:1])).abs().max())
    told = f"A sample's output alone and in a batch of 8 differs by up to {change:.2g}."
    # The claim is that the batch size matters.
    return Finding(exact(change > TOLERANCE), (told,))


def lazy_bn() -> Finding:
    """The running mean of lazy_bn after a first and after a second batch."""
    layer = norms.build("lazy_bn").norm(SHAPE[1]).train()
    first, second = (drawn(*SHAPE, seed=seed, dtype=torch.float32) for seed in (1, 2))
    with torch.no_grad():
        layer(first)
        running: Any = layer.running_mean
        before = running.clone()
        layer(second)
        change = float((running - before).abs().max())
    told = f"The second batch moves the running mean by up to {change:.2g}."
    return Finding(exact(change < TOLERANCE), (told,))


def train_eval_consistency() -> Finding:
    """Whether evaluation gives what training gives, on one input, for `in` and bn."""
    alike = {name: _certificate(name).evaluates_as_it_trains for name in ("in", "bn")}
    figures = tuple(
        f"{name} {'gives the same' if same else 'differs'} in training and in evaluation."
        for name, same in alike.items()
    )
    return Finding(exact(alike["in"] and not alike["bn"]), figures)


def accumulation() -> Finding:
    """Whether gradients of parts of a batch add up to those of the batch, under bn."""
    certificate = _certificate("bn")
    sizes = certificate.accumulates_exactly_in_parts_of
    told = f"Parts of a batch of 32 whose gradients add up to the batch's: {_or(sizes)}."
    other = _certificate("gn").accumulates_exactly_in_parts_of
    return Finding(exact(bool(sizes)), (f"bn: {told}", f"gn: parts of {_or(other)} do."))


def momentum_convention() -> Finding:
    """The running mean of torch's batch norm after one batch, with momentum 0.1, from 0."""
    layer = nn.BatchNorm2d(SHAPE[1], momentum=0.1).double()
    x = drawn(*SHAPE)
    with torch.no_grad():
        layer(x)
    mean = x.mean((0, 2, 3))
    share = float((layer.running_mean * mean).sum() / (mean * mean).sum())  # type: ignore[operator]
    told = f"With momentum 0.1 the running mean takes {share:.3f} of the new batch's mean"
    return Finding(exact(math.isclose(share, 0.9, abs_tol=1e-6)), (f"{told}; claimed 0.9.",))


def checkpoint_momentum() -> Finding:
    """The running mean after two updates with sqrt(momentum), against one with momentum.

    Activation checkpointing runs the forward pass twice. With torch's rule, in which momentum is
    the share of the new batch, two updates with m' take 1 - (1 - m')^2 of it: m is kept by
    m' = 1 - sqrt(1 - m), and by the square root only in the convention that momentum is the share
    of the old value.
    """
    x = drawn(*SHAPE)
    wanted = _running_mean(x, 0.1, updates=1)
    root = _running_mean(x, math.sqrt(0.1), updates=2)
    kept = _running_mean(x, 1 - math.sqrt(0.9), updates=2)
    error, error_kept = (float((found - wanted).abs().max()) for found in (root, kept))
    scale = float(wanted.abs().max())
    state = _certificate("bn").under_activation_checkpointing
    figures = (
        f"bn under activation checkpointing: {state}.",
        f"With torch's momentum 0.1, two updates with sqrt(0.1) miss the running mean by "
        f"{error / scale:.0%} of its largest value; with 1 - sqrt(1 - 0.1) by {error_kept:.1g}.",
    )
    return Finding(exact(error < TOLERANCE), figures)


def adain_aligns() -> Finding:
    """The largest difference of AdaIN's channel moments from the style's."""
    content, style = drawn(*SHAPE, seed=1), drawn(*SHAPE, seed=2)
    result = AdaIN()(content, style)
    means = (result.mean((2, 3)) - style.mean((2, 3))).abs().max()
    deviations = result.var((2, 3), correction=0).sqrt() - style.var((2, 3), correction=0).sqrt()
    error = float(torch.maximum(means, deviations.abs().max()))
    told = f"Mean and deviation of each channel are the style's up to {error:.1g}."
    return Finding(exact(error < 1e-3), (told,))


def _certificate(name: str) -> Certificate:
    """The certificate of a norm, with its facts: those of a refused norm would say nothing."""
    certificate = certify(norms.build(name))
    assert certificate.refused is None, f"{name}: {certificate.refused}"
    return certificate


def _change_of_mates(name: str) -> float:
    layer = norms.build(name).norm(SHAPE[1]).double().train()
    x = drawn(*SHAPE)
    changed = x.clone()
    changed[0] += 1
    with torch.no_grad():
        before, after = (copy.deepcopy(layer)(values) for values in (x, changed))
    return float((before[1:] - after[1:]).abs().max())


def _running_mean(x: Tensor, momentum: float, updates: int) -> Tensor:
    """The running mean of torch's batch norm, from 1, after updates by the same batch."""
    layer = nn.BatchNorm2d(x.shape[1], momentum=momentum).double()
    running: Any = layer.running_mean
    running.fill_(1.0)
    with torch.no_grad():
        for _ in range(updates):
            layer(x)
    result: Tensor = running
    return result


def _or(values: tuple[object, ...]) -> str:
    return ", ".join(map(str, values)) or "none"


EXACT = {
    "normalized-moments": normalized_moments,
    "parameter-count": parameter_count,
    "memory": memory,
    "batch-free-advances": batch_free_advances,
    "bn-samples-independent": bn_samples_independent,
    "in-small-batch": in_small_batch,
    "lazy-bn": lazy_bn,
    "train-eval-consistency": train_eval_consistency,
    "accumulation": accumulation,
    "momentum-convention": momentum_convention,
    "checkpoint-momentum": checkpoint_momentum,
    "adain-aligns": adain_aligns,
}
