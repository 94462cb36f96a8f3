"""The normalization methods behind `--norm`: importing this package registers them all."""

from normbench.norms import activation, batch, mixed, plain, sample, style, weight
from normbench.norms.registry import norms
from normbench.norms.spec import NormSpec
from normbench.norms.style import AdaIN

__all__ = ["AdaIN", "NormSpec", "activation", "batch", "mixed", "norms", "plain", "sample", "style", "weight"]
