"""The cube of a norm's statistics, for figures and pages."""

from __future__ import annotations

from normbench.analysis.figures.cubes import Cube, Statistic
from normbench.certificates.cells import in_words, kinds_of_sharing
from normbench.certificates.certificate import SHAPE
from normbench.errors import NormbenchError
from normbench.norms import NormSpec


def cube_of(name: str, spec: NormSpec) -> Cube:
    """The cells that share a statistic under this norm, on inputs of the certificate.

    Raises NormbenchError for a norm that refuses such inputs.
    """
    if refusal := spec.refuse(SHAPE):
        raise NormbenchError(f"norm {name} has no figure: {refusal.reason}")
    statistics = []
    for kind in kinds_of_sharing(spec, SHAPE, late=True):
        statistics.append(Statistic(kind.cells.numpy(), in_words(kind), kind.channel))
    return Cube(name, statistics)
