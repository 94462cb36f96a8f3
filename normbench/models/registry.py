"""The models by name; an entry is a function `(layers, num_outputs, *, options)` of a module."""

from __future__ import annotations

from torch import nn

from normbench.registry import Registry

models: Registry[nn.Module] = Registry("model")
