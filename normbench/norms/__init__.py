"""The normalization methods behind `--norm`: importing the package registers all of them."""

from normbench.norms import activation, batch, mixed, pointwise, sample, weight  # noqa: F401
from normbench.norms.adain import AdaIN
from normbench.norms.registry import norms
from normbench.norms.spec import NormSpec

__all__ = ["AdaIN", "NormSpec", "norms"]
