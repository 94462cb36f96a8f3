"""The networks behind `--model`: importing this package registers them all."""

from normbench.models import normresnet
from normbench.models.layers import Layers
from normbench.models.registry import models, unsupported

__all__ = ["Layers", "models", "normresnet", "unsupported"]
