"""The normalization methods behind `--norm`: importing this package registers them all."""

from normbench.norms import activation, adain, batch, mixed, plain, sample, weight
from normbench.norms.adain import AdaIN
from normbench.norms.registry import norms
from normbench.norms.spec import NormSpec

__all__ = [
    "AdaIN",
    "NormSpec",
    "activation",
    "adain",
    "batch",
    "mixed",
    "norms",
    "plain",
    "sample",
    "weight",
]
