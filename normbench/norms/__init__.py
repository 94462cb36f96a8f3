"""The normalization methods behind `--norm`: importing the package registers all of them."""

from normbench.norms import (  # noqa: F401
    activation,
    batch,
    evonorm,
    mixed,
    moving,
    pointwise,
    sample,
    weight,
    whitening,
)
from normbench.norms.adain import AdaIN
from normbench.norms.registry import norms
from normbench.norms.spec import NormSpec, ParameterRule

__all__ = ["AdaIN", "NormSpec", "ParameterRule", "norms"]
