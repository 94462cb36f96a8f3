"""The networks behind `--model`: importing the package registers all of them."""

from normbench.models import adain, lstm, normresnet, resnet, style_transfer, vgg, vit
from normbench.models.layers import Layers
from normbench.models.registry import models
from normbench.models.sites import Site, materialize, norm_sites, unsupported
from normbench.models.transformer import TransformerBlock

__all__ = [
    "Layers",
    "Site",
    "TransformerBlock",
    "adain",
    "lstm",
    "materialize",
    "models",
    "norm_sites",
    "normresnet",
    "resnet",
    "style_transfer",
    "unsupported",
    "vgg",
    "vit",
]
