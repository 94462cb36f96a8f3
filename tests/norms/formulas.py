"""Every norm's formula in NumPy, from its docstring and paper, and derivatives that use no automatic differentiation.

The functions take complex numbers too: the derivative of f at x is then Im f(x + ih) / h, exact to the last digits
since nothing is subtracted. What must pass no gradient takes the real part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from probes import Array, Options

Values = NDArray[Any]  # real, or complex for a derivative
Named = Mapping[str, Values]  # parameters or statistics by their names in the layer
Formula = Callable[..., Values]  # (x, parameters, statistics, training, **options)
BATCH, INSTANCE, SAMPLE, PIXEL = (0, 2, 3), (2, 3), (1, 2, 3), (1,)
STEP = 1e-30
RELU_GAIN = 1.7139588594436646  # sampled by timm for sqrt(2 / (1 - 1 / pi))


def column(values: Values) -> Values:
    """Values (c,), to go with (n, c, h, w)."""
    return values.reshape(1, -1, 1, 1)


def moments(x: Values, axes: Sequence[int]) -> tuple[Values, Values]:
    """Mean and biased variance over the axes, which stay as axes of length 1."""
    mean = x.mean(axis=tuple(axes), keepdims=True)
    return mean, ((x - mean) ** 2).mean(axis=tuple(axes), keepdims=True)


def affine(x: Values, p: Named) -> Values:
    return x * column(p["weight"]) + column(p["bias"]) if "weight" in p else x


def larger(a: Values, b: Values) -> Values:
    return np.where(a.real > b.real, a, b)


def sigmoid(x: Values) -> Values:
    return 1 / (1 + np.exp(-x))


def batch_norm(x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any) -> Values:
    mean, var = (
        moments(x, BATCH) if training else (column(s["running_mean"]), column(s["running_var"]))
    )
    return affine((x - mean) / np.sqrt(var + eps), p)


def ghost_batch_norm(
    x: Values, p: Named, s: Named, training: bool, eps: float, size: int, **_: Any
) -> Values:
    starts = range(0, len(x), size) if training else [0]
    chunks = [x[i : i + size] if training else x for i in starts]
    return np.concatenate([batch_norm(chunk, p, s, training, eps) for chunk in chunks])


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
    """(x - mean) / sqrt(var + eps) over axes of one sample, by channel scaled and shifted."""

    def formula(x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any) -> Values:
        mean, var = moments(x, axes)
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


def filter_response_norm(x: Values, p: Named, s: Named, training: bool, eps: float) -> Values:
    y = affine(x / np.sqrt((x**2).mean(axis=(2, 3), keepdims=True) + eps), p)
    return larger(y, column(p["tau"]) + 0 * y) if "tau" in p else y


def evonorm_s0(
    x: Values, p: Named, s: Named, training: bool, eps: float, num_groups: int
) -> Values:
    if "v" not in p:
        return affine(x, p)
    _, var = moments(grouped(x, num_groups), (2, 3, 4))
    activated = grouped(x * sigmoid(column(p["v"]) * x), num_groups)
    return affine((activated / np.sqrt(var + eps)).reshape(x.shape), p)


def evonorm_b0(x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any) -> Values:
    if "v" not in p:
        return affine(x, p)
    var_batch = moments(x, BATCH)[1] if training else column(s["running_var"])
    line = column(p["v"]) * x + np.sqrt(moments(x, INSTANCE)[1] + eps)
    return affine(x / larger(np.sqrt(var_batch + eps) + 0 * x, line), p)


def switchable_norm(x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any) -> Values:
    of_batch = (
        moments(x, BATCH) if training else (column(s["running_mean"]), column(s["running_var"]))
    )
    parts = [moments(x, INSTANCE), moments(x, SAMPLE), of_batch]
    of_means, of_variances = (
        np.exp(p[name]) / np.exp(p[name]).sum() for name in ("mean_logits", "var_logits")
    )
    mean = sum(share * part[0] for share, part in zip(of_means, parts, strict=True))
    var = sum(share * part[1] for share, part in zip(of_variances, parts, strict=True))
    return affine((x - mean) / np.sqrt(var + eps), p)


def half_instance_norm(
    x: Values, p: Named, s: Named, training: bool, eps: float, **_: Any
) -> Values:
    half = x.shape[1] // 2
    instance, batch = (
        {key[len(part) :]: p[key] for key in p if key.startswith(part)} for part in HALVES
    )
    running = {key[len(HALVES[1]) :]: s[key] for key in s}
    first = normalized_over(INSTANCE)(x[:, :half], instance, {}, training, eps)
    return np.concatenate([first, batch_norm(x[:, half:], batch, running, training, eps)], axis=1)


HALVES = ("instance.", "batch.")


def dynamic_tanh(x: Values, p: Named, s: Named, training: bool, **_: Any) -> Values:
    return affine(np.tanh(p["alpha"] * x), p)


def nothing(x: Values, p: Named, s: Named, training: bool, **_: Any) -> Values:
    return x


FORMULAS: dict[str, Formula] = {
    "batch_renorm": batch_renorm,
    "bn": batch_norm,
    "bn_custom": batch_norm,
    "dyt": dynamic_tanh,
    "evonorm_b0": evonorm_b0,
    "evonorm_s0": evonorm_s0,
    "frn": filter_response_norm,
    "ghost_bn": ghost_batch_norm,
    "gn": group_norm,
    "ibn": half_instance_norm,
    "in": normalized_over(INSTANCE),
    "in_affine": normalized_over(INSTANCE),
    "lazy_bn": batch_norm,
    "ln": normalized_over(SAMPLE),
    "ln_c": normalized_over(PIXEL),
    "ln_chw": layer_norm_per_element,
    "none": nothing,
    "rms": rms_norm,
    "scaled_ws": nothing,
    "spectral_norm": nothing,
    "switchable": switchable_norm,
    "sync_bn": batch_norm,
    "weight_norm": nothing,
    "ws_bn": batch_norm,
    "ws_gn": group_norm,
}


# Of weights (out, in, ...), one row per output


def standardized(p: Named, weight_eps: float, **_: Any) -> Values:
    rows = p["original"].reshape(len(p["original"]), -1)
    mean, var = moments(rows, (1,))
    return ((rows - mean) / np.sqrt(var + weight_eps)).reshape(p["original"].shape)


def scaled_standardized(p: Named, weight_eps: float) -> Values:
    fan_in = p["original"][0].size
    return p["0.gain"] * RELU_GAIN / np.sqrt(fan_in) * standardized(p, weight_eps)


def length_and_direction(p: Named) -> Values:
    length, direction = p["original0"], p["original1"].reshape(len(p["original1"]), -1)
    return (
        length.reshape(-1, 1) * direction / np.sqrt((direction**2).sum(1, keepdims=True))
    ).reshape(p["original1"].shape)


WEIGHTS: dict[str, tuple[Formula, Options]] = {
    "scaled_ws": (scaled_standardized, {"weight_eps": 0.01}),
    "weight_norm": (length_and_direction, {}),
    "ws_bn": (standardized, {"weight_eps": 0.01}),
    "ws_gn": (standardized, {"weight_eps": 0.01}),
}


def over_singular_value(weight: Values, u: Array, v: Array) -> Values:
    """W / (u W v), u and v of unit length and without gradient: at the singular vectors of W, W / sigma."""
    rows = weight.reshape(len(weight), -1)
    return weight / (u @ rows @ v)


def power_iteration(weight: Array, u: Array, v: Array, steps: int) -> tuple[Array, Array]:
    """Estimates of the first singular vectors, nearer to them by `steps` steps."""
    rows = weight.reshape(len(weight), -1)
    for _ in range(steps):
        u = rows @ v / np.linalg.norm(rows @ v)
        v = rows.T @ u / np.linalg.norm(rows.T @ u)
    return u, v


def derivatives(
    function: Callable[[Named], Values], at: Mapping[str, Array], gradient: Array
) -> dict[str, Array]:
    """The gradient of sum(function * gradient) for every array, one complex step for each of its elements."""
    found = {name: np.zeros_like(values) for name, values in at.items()}
    for name, values in at.items():
        for index in np.ndindex(values.shape):
            moved = {**at, name: values.astype(np.complex128)}
            moved[name][index] += 1j * STEP
            found[name][index] = (function(moved) * gradient).sum().imag / STEP
    return found
