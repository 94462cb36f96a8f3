"""The normalization methods behind `--norm`: importing the package registers all of them."""

from normbench.norms import (  # noqa: F401
    activation,
    batch,
    evonorm,
    mixed,
    pointwise,
    sample,
    weight,
)
from normbench.norms.adain import AdaIN
from normbench.norms.registry import norms
from normbench.norms.spec import NormSpec

__all__ = ["AdaIN", "NormSpec", "norms"]
