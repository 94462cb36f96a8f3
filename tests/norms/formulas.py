"""Every norm's formula in NumPy, from docstring and paper, and derivatives without autograd.

The formulas take complex numbers: the derivative of f at x is Im f(x + ih) / h, exact to the last
digits since no numbers are subtracted. Values that pass no gradient take the real part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from kit.norms import Array
from numpy.typing import NDArray
from scipy.special import erf

# Real, or complex for a derivative.
Values = NDArray[Any]
# Parameters or statistics by their names in the layer.
Named = Mapping[str, Values]
# (x, parameters, statistics, training, **options)
Formula = Callable[..., Values]
BATCH, INSTANCE, SAMPLE, PIXEL = (0, 2, 3), (2, 3), (1, 2, 3), (1,)
STEP = 1e-30


def column(values: Values) -> Values:
    """Reshapes values (c,) to broadcast with (n, c, h, w)."""
    return values.reshape(1, -1, 1, 1)


def moments(x: Values, axes: Sequence[int]) -> tuple[Values, Values]:
    """Mean and biased variance over the axes, kept with length 1."""
    mean = x.mean(axis=tuple(axes), keepdims=True)
    return mean, ((x - mean) ** 2).mean(axis=tuple(axes), keepdims=True)


def affine(x: Values, p: Named) -> Values:
    return x * column(p["weight"]) + column(p["bias"]) if "weight" in p else x


def larger(a: Values, b: Values) -> Values:
    return np.where(a.real > b.real, a, b)


def sigmoid(x: Values) -> Values:
    return 1 / (1 + np.exp(-x))


def current_moments(
    x: Values, s: Named, training: bool, axes: Sequence[int]
) -> tuple[Values, Values]:
    """Running moments in evaluation, where a layer has any; the input's own otherwise."""
    if training or "running_mean" not in s:
        return moments(x, axes)
    return column(s["running_mean"]), column(s["running_var"])


def batch_norm(x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any) -> Values:
    mean, var = current_moments(x, s, training, BATCH)
    return affine((x - mean) / np.sqrt(var + eps), p)


def ghost_batch_norm(
    x: Values, p: Named, s: Named, training: bool, eps: float, size: int, **_: Any
) -> Values:
    if not training:
        return batch_norm(x, p, s, False, eps)
    chunks = [x[start : start + size] for start in range(0, len(x), size)]
    return np.concatenate([batch_norm(chunk, p, s, True, eps) for chunk in chunks])


def batch_renorm(
    x: Values,
    p: Named,
    s: Named,
    training: bool,
    eps: float,
    r_max: float,
    d_max: float,
    warmup_steps: int,
    ramp_steps: int,
    **_: Any,
) -> Values:
    if not training:
        return batch_norm(x, p, s, False, eps)
    share = min(max((float(s["num_batches_tracked"]) - warmup_steps) / ramp_steps, 0.0), 1.0)
    r_bound, d_bound = 1 + share * (r_max - 1), share * d_max
    mean, var = moments(x, BATCH)
    running_mean, running_std = column(s["running_mean"]), np.sqrt(column(s["running_var"]) + eps)
    r = np.clip(np.sqrt(var.real + eps) / running_std, 1 / r_bound, r_bound)
    d = np.clip((mean.real - running_mean) / running_std, -d_bound, d_bound)
    return affine((x - mean) / np.sqrt(var + eps) * r + d, p)


def normalized_over(axes: Sequence[int]) -> Formula:
    """(x - mean) / sqrt(var + eps) over axes of a sample, scaled and shifted per channel."""

    def formula(x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any) -> Values:
        mean, var = current_moments(x, s, training, axes)
        return affine((x - mean) / np.sqrt(var + eps), p)

    return formula


def group_norm(
    x: Values, p: Named, s: Named, training: bool, eps: float, num_groups: int, **_: Any
) -> Values:
    mean, var = moments(grouped(x, num_groups), (2, 3, 4))
    return affine(((grouped(x, num_groups) - mean) / np.sqrt(var + eps)).reshape(x.shape), p)


def grouped(x: Values, num_groups: int) -> Values:
    samples, channels, height, width = x.shape
    return x.reshape(samples, num_groups, channels // num_groups, height, width)


def layer_norm_per_element(x: Values, p: Named, s: Named, training: bool, eps: float) -> Values:
    mean, var = moments(x, SAMPLE)
    return (x - mean) / np.sqrt(var + eps) * p["weight"] + p["bias"]


def rms_norm(x: Values, p: Named, s: Named, training: bool, eps: float) -> Values:
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * column(p["weight"])


def simple_norm(x: Values, p: Named, s: Named, training: bool, eps: float) -> Values:
    squares = ((x - x.mean(axis=1, keepdims=True)) ** 2).sum(axis=1, keepdims=True)
    return x / np.sqrt(squares / (x.shape[1] - 1) + eps) * column(p["weight"])


def extended_batch_norm(
    x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any
) -> Values:
    centred, var = x - column(s["running_mean"]), s["running_var"]
    if training:
        centred = x - x.mean(axis=BATCH, keepdims=True)
        var = (centred**2).mean()
    return affine(centred / np.sqrt(var + eps), p)


def batch_channel_norm(
    x: Values, p: Named, s: Named, training: bool, eps: float, num_groups: int, **_: Any
) -> Values:
    y = batch_norm(x, below("batch.", p), below("batch.", s), training, eps)
    by_group = {key: p[key].repeat(x.shape[1] // num_groups) for key in ("weight", "bias")}
    return group_norm(y, by_group, s, training, eps, num_groups)


def filter_response_norm(x: Values, p: Named, s: Named, training: bool, eps: float) -> Values:
    y = affine(x / np.sqrt((x**2).mean(axis=(2, 3), keepdims=True) + eps), p)
    return larger(y, column(p["tau"]) + 0 * y) if "tau" in p else y


def evonorm_s0(
    x: Values, p: Named, s: Named, training: bool, eps: float, num_groups: int
) -> Values:
    _, var = moments(grouped(x, num_groups), (2, 3, 4))
    activated = grouped(x * sigmoid(column(p["v"]) * x), num_groups)
    return affine((activated / np.sqrt(var + eps)).reshape(x.shape), p)


def evonorm_s(of_squares: Callable[[Values], Values]) -> Formula:
    """x * sigmoid(x) over the root of a statistic of each group (n, groups, c / groups, h, w)."""

    def formula(
        x: Values, p: Named, s: Named, training: bool, eps: float, num_groups: int
    ) -> Values:
        size = np.sqrt(of_squares(grouped(x, num_groups)) + eps)
        return affine((grouped(x * sigmoid(x), num_groups) / size).reshape(x.shape), p)

    return formula


def evonorm_b(line: Callable[[Values, Named, float], Values]) -> Formula:
    """x over the larger of the batch's deviation and a line in x."""

    def formula(x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any) -> Values:
        var_batch = moments(x, BATCH)[1] if training else column(s["running_var"])
        return affine(x / larger(np.sqrt(var_batch + eps) + 0 * x, line(x, p, eps)), p)

    return formula


def mean_square(x: Values, axes: Sequence[int]) -> Values:
    return (x**2).mean(axis=tuple(axes), keepdims=True)


def line_b0(x: Values, p: Named, eps: float) -> Values:
    return column(p["v"]) * x + np.sqrt(moments(x, INSTANCE)[1] + eps)


def line_b1(x: Values, p: Named, eps: float) -> Values:
    return (x + 1) * np.sqrt(mean_square(x, INSTANCE) + eps)


def line_b2(x: Values, p: Named, eps: float) -> Values:
    return np.sqrt(mean_square(x, INSTANCE) + eps) - x


def switchable_norm(x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any) -> Values:
    of_batch = current_moments(x, s, training, BATCH)
    means, variances = zip(moments(x, INSTANCE), moments(x, SAMPLE), of_batch, strict=True)
    mean = mixed(p["mean_logits"], means)
    var = mixed(p["var_logits"], variances)
    return affine((x - mean) / np.sqrt(var + eps), p)


def mixed(logits: Values, parts: Sequence[Values]) -> Values:
    """The parts' mean, weighted by softmax(logits)."""
    weights = np.exp(logits) / np.exp(logits).sum()
    return weights[0] * parts[0] + weights[1] * parts[1] + weights[2] * parts[2]


def half_instance_norm(
    x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any
) -> Values:
    half = x.shape[1] // 2
    first = normalized_over(INSTANCE)(x[:, :half], below("instance.", p), {}, training, eps)
    rest = batch_norm(x[:, half:], below("batch.", p), below("batch.", s), training, eps)
    return np.concatenate([first, rest], axis=1)


def batch_instance_norm(
    x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any
) -> Values:
    mean, var = current_moments(x, s, training, BATCH)
    instance_mean, instance_var = moments(x, INSTANCE)
    of_batch = (x - mean) / np.sqrt(var + eps)
    of_instance = (x - instance_mean) / np.sqrt(instance_var + eps)
    return affine(column(p["rho"]) * of_batch + (1 - column(p["rho"])) * of_instance, p)


def iterative_norm(
    x: Values,
    p: Named,
    s: Named,
    training: bool,
    eps: float,
    iterations: int,
    group_size: int,
    **_: Any,
) -> Values:
    samples, channels, height, width = x.shape
    size = min(group_size, channels)
    parts = []
    for group, start in enumerate(range(0, channels, size)):
        part = slice(start, start + size)
        rows = np.moveaxis(x[:, part], 1, 0).reshape(size, -1)
        mean, whitening = s["running_mean"][part], s["running_whitening"][group]
        if training:
            mean = rows.mean(axis=1)
            centred = rows - mean[:, None]
            covariance = centred @ centred.T / centred.shape[1] + eps * np.eye(size)
            whitening = newton(covariance, iterations)
        whitened = whitening @ (rows - mean[:, None])
        parts.append(np.moveaxis(whitened.reshape(size, samples, height, width), 0, 1))
    return affine(np.concatenate(parts, axis=1), p)


def newton(matrix: Values, iterations: int) -> Values:
    """Newton's approximation of the inverse square root."""
    root = np.eye(len(matrix))
    for _ in range(iterations):
        root = (3 * root - root @ root @ root @ matrix / np.trace(matrix)) / 2
    return root / np.sqrt(np.trace(matrix))


def root_mean_square_norm(
    x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any
) -> Values:
    squares = mean_square(x, BATCH) if training else column(s["running_mean_square"])
    return affine(x / np.sqrt(squares + eps), p)


def below(prefix: str, named: Named) -> Named:
    return {key.removeprefix(prefix): named[key] for key in named if key.startswith(prefix)}


def scale_and_shift(x: Values, p: Named, s: Named, training: bool, **_: Any) -> Values:
    return affine(x, p)


def dynamic_tanh(x: Values, p: Named, s: Named, training: bool, **_: Any) -> Values:
    return affine(np.tanh(p["alpha"] * x), p)


def dynamic_erf(x: Values, p: Named, s: Named, training: bool, **_: Any) -> Values:
    return affine(erf(p["alpha"] * x + p["shift"]), p)


def nothing(x: Values, p: Named, s: Named, training: bool, **_: Any) -> Values:
    return x


FORMULAS: dict[str, Formula] = {
    "batch_renorm": batch_renorm,
    "bcn": batch_channel_norm,
    "bin": batch_instance_norm,
    "bn": batch_norm,
    "bn_custom": batch_norm,
    "derf": dynamic_erf,
    "dyt": dynamic_tanh,
    "ebn": extended_batch_norm,
    "evonorm_b0": evonorm_b(line_b0),
    "evonorm_b1": evonorm_b(line_b1),
    "evonorm_b2": evonorm_b(line_b2),
    "evonorm_s0": evonorm_s0,
    "evonorm_s1": evonorm_s(lambda x: moments(x, (2, 3, 4))[1]),
    "evonorm_s2": evonorm_s(lambda x: mean_square(x, (2, 3, 4))),
    "frn": filter_response_norm,
    "ghost_bn": ghost_batch_norm,
    "gn": group_norm,
    "ibn": half_instance_norm,
    "in": normalized_over(INSTANCE),
    "in_affine": normalized_over(INSTANCE),
    "iternorm": iterative_norm,
    "lazy_bn": batch_norm,
    "ln": normalized_over(SAMPLE),
    "ln_c": normalized_over(PIXEL),
    "ln_chw": layer_norm_per_element,
    "mabn": root_mean_square_norm,  # within its warm-up
    "none": nothing,
    "rms": rms_norm,
    "scaled_ws": nothing,
    "simple": simple_norm,
    "spectral_norm": nothing,
    "switchable": switchable_norm,
    "sync_bn": batch_norm,
    "weight_norm": nothing,
    "ws_bn": batch_norm,
    "ws_gn": group_norm,
}
# The layers of norms with an activation of their own at sites that no activation follows.
WITHOUT_ACTIVATION = {name: scale_and_shift for name in FORMULAS if name.startswith("evonorm")} | {
    "frn": filter_response_norm
}


def derivatives(
    function: Callable[[Named], Values], at: Mapping[str, Array], gradient: Array
) -> dict[str, Array]:
    """Gradients of sum(function * gradient) for every array, a complex step for each element."""
    found = {name: np.zeros_like(values) for name, values in at.items()}
    for name, values in at.items():
        for index in np.ndindex(values.shape):
            moved = {**at, name: values.astype(np.complex128)}
            moved[name][index] += 1j * STEP
            found[name][index] = (function(moved) * gradient).sum().imag / STEP
    return found
