"""Formulas of norms of weights in NumPy; complex numbers as in formulas.py."""

from __future__ import annotations

import numpy as np
from formulas import Formula, Named, Values, moments
from kit.norms import Array, Options

RELU_GAIN = 1.7139588594436646  # sampled by timm for sqrt(2 / (1 - 1 / pi))

# Weights (out, in, ...), as a row per output.


def standardized(p: Named, weight_eps: float, **_: float) -> Values:
    rows = p["original"].reshape(len(p["original"]), -1)
    mean, var = moments(rows, (1,))
    return ((rows - mean) / np.sqrt(var + weight_eps)).reshape(p["original"].shape)


def scaled_standardized(p: Named, weight_eps: float) -> Values:
    fan_in = p["original"][0].size
    return p["0.gain"] * RELU_GAIN / np.sqrt(fan_in) * standardized(p, weight_eps)


def length_and_direction(p: Named) -> Values:
    length = p["original0"].reshape(-1, 1)
    direction = p["original1"].reshape(len(length), -1)
    rows = length * direction / np.sqrt((direction**2).sum(1, keepdims=True))
    return rows.reshape(p["original1"].shape)


def centred(p: Named) -> Values:
    return p["original"] - p["original"].mean(axis=(1, 2, 3), keepdims=True)


WEIGHTS: dict[str, tuple[Formula, Options]] = {
    "mabn": (centred, {}),
    "scaled_ws": (scaled_standardized, {"weight_eps": 0.01}),
    "weight_norm": (length_and_direction, {}),
    "ws_bn": (standardized, {"weight_eps": 0.01}),
    "ws_gn": (standardized, {"weight_eps": 0.01}),
}


def over_singular_value(weight: Values, u: Array, v: Array) -> Values:
    """W / (u W v) without gradient through u and v; W / sigma at the singular vectors of W."""
    rows = weight.reshape(len(weight), -1)
    return weight / (u @ rows @ v)


def power_iteration(weight: Array, u: Array, v: Array, steps: int) -> tuple[Array, Array]:
    """Estimates of the first singular vectors, `steps` steps after the estimates u and v."""
    rows = weight.reshape(len(weight), -1)
    for _ in range(steps):
        u = rows @ v / np.linalg.norm(rows @ v)
        v = rows.T @ u / np.linalg.norm(rows.T @ u)
    return u, v
