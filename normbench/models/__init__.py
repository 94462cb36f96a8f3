"""The networks behind `--model`: importing the package registers all of them."""

from normbench.models import normresnet, resnet, style_transfer, vgg
from normbench.models.layers import Layers
from normbench.models.registry import models
from normbench.models.sites import Site, materialize, norm_sites, unsupported

__all__ = [
    "Layers",
    "Site",
    "materialize",
    "models",
    "norm_sites",
    "normresnet",
    "resnet",
    "style_transfer",
    "unsupported",
    "vgg",
]
