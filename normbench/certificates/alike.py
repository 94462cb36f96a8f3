"""Norms that compute the same in some places, as bn and in_affine do at batch 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from normbench.certificates.probes import (
    SEEN,
    block_of,
    close,
    fresh,
    images,
    moved,
    one_thread,
    settled,
)
from normbench.norms import NormSpec
from normbench.norms.spec import Shape

TRAINING = "In training"
# The shape of the layer's input and whether the block trains, by place.
PLACES: dict[str, tuple[Shape, bool]] = {
    TRAINING: ((32, 16, 3, 3), True),
    "In evaluation": ((32, 16, 3, 3), False),
    "In training at batch 1": ((1, 16, 3, 3), True),
    "In training on 1x1 maps": ((32, 16, 1, 1), True),
}
# Inputs are so large that an eps does not count. On maps so small a biased and an unbiased variance
# differ by more than TOLERANCE.
SCALE = 10
TOLERANCE = 1e-4


@one_thread()
def alike(specs: Mapping[str, NormSpec]) -> dict[str, dict[str, list[str]]]:
    """By norm and place, the other norms whose block gives the same output there.

    The blocks' parameters are drawn alike. What holds in all training is not repeated for training
    at batch 1 and on 1x1 maps. A norm is left out of the places that it refuses.
    """
    found: dict[str, dict[str, list[str]]] = {name: {} for name in specs}
    for place, (shape, training) in PLACES.items():
        outputs = dict(_outputs(specs, shape, training=training))
        for name, output in outputs.items():
            known = found[name].get(TRAINING, []) if training else []
            others = []
            for other, its_output in outputs.items():
                is_new = other != name and other not in known
                if is_new and close(output, its_output, TOLERANCE):
                    others.append(other)
            if others:
                found[name][place] = others
    return found


def _outputs(
    specs: Mapping[str, NormSpec], shape: Shape, *, training: bool
) -> Iterator[tuple[str, Tensor]]:
    for name, spec in specs.items():
        if spec.refuse(shape) is None:
            seen = [SCALE * images(shape, seed=seed) for seed in SEEN]
            block = settled(moved(block_of(spec, shape)), *seen)
            yield name, fresh(block, SCALE * images(shape), training=training)
