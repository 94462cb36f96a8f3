"""What training under a norm comes to on inputs of a shape."""

from __future__ import annotations

import torch
from torch import Tensor

from normbench.certificates.probes import SEEN, close, drawn, fresh, layer_of, settled
from normbench.norms import NormSpec
from normbench.norms.spec import Shape

WORKS, FORGETS, ONLY_SIGNS = "works", "forgets its input", "keeps only signs"
# Seeds of the inputs whose outputs are compared.
DRAWS = range(8)


def outcome(spec: NormSpec, shape: Shape, *, late: bool = True) -> str:
    """Whether training on inputs of this shape is "refused: why", WORKS, FORGETS or ONLY_SIGNS.

    FORGETS: all inputs have the same output. ONLY_SIGNS: each channel takes two values, as bn's
    does on two images of one pixel. late: after every warm-up, else before.
    """
    if refusal := spec.refusal(shape):
        return f"refused: {refusal.reason}"
    seen = [drawn(*shape, seed=seed) for seed in SEEN]
    layer = settled(layer_of(spec, shape), *seen, late=late)
    outputs = torch.stack([fresh(layer, drawn(*shape, seed=seed)) for seed in DRAWS])
    if close(outputs, outputs[:1].expand_as(outputs)):
        return FORGETS
    return ONLY_SIGNS if _takes_two_values(outputs) else WORKS


def _takes_two_values(outputs: Tensor) -> bool:
    """Whether 4 of 5 outputs are their channel's smallest or largest value, to 1 %.

    outputs: (draws, n, c, *places). The fifth is granted to eps: it keeps outputs away from both
    where a variance is small.
    """
    values = outputs.transpose(0, 2).flatten(1)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    distance = torch.minimum(values - low, high - values)
    near = distance <= 1e-2 * values.abs().max()
    return bool(near.double().mean() >= 0.8)
