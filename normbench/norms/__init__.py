"""The normalization methods behind `--norm`: importing this package registers them all."""

from normbench.norms import batch, plain, sample
from normbench.norms.spec import NormSpec, norms

__all__ = ["NormSpec", "batch", "norms", "plain", "sample"]
