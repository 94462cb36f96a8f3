"""The networks behind `--model`: importing this package registers them all."""

from normbench.models import normresnet
from normbench.models.layers import Layers
from normbench.models.registry import Site, materialize, models, norm_sites, unsupported

__all__ = ["Layers", "Site", "materialize", "models", "norm_sites", "normresnet", "unsupported"]
