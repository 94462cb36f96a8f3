"""What counts as a norm and what as an activation.

Neither torchvision nor timm is imported: their layers are subclasses of torch's or known by name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

# _NormBase is torch's parent of BatchNorm, SyncBatchNorm and InstanceNorm.
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
KNOWN = "BatchNorm, SyncBatchNorm, InstanceNorm, GroupNorm, LayerNorm, RMSNorm and their subclasses"

# Classes, functions and methods in lower case; `Swish`, `SwishMe` and the like are timm's.
ACTIVATIONS = {
    *("relu", "relu6", "leakyrelu", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu"),
    *("gelu", "silu", "mish", "hardswish", "gelutanh", "quickgelu"),
    *("swish", "swishme", "mishme", "hardswishme", "hardmish", "hardmishme"),
}


def is_norm(module: nn.Module) -> bool:
    """Whether the module is a norm that can be found, if only to be refused."""
    return isinstance(module, NORMS) or is_frozen(module)


def is_frozen(module: nn.Module) -> bool:
    """Whether the module is a BatchNorm with fixed values: torchvision's and timm's."""
    return "FrozenBatchNorm" in type(module).__name__


def is_scripted_norm(module: nn.Module) -> bool:
    """Whether the module is a norm inside a network or part that torch.jit has compiled."""
    if not isinstance(module, torch.jit.ScriptModule):
        return False
    original = getattr(module, "original_name", "")
    return "Norm" in original and not list(module.children())


def is_unknown_norm(name: str, module: nn.Module) -> bool:
    """Whether a layer is called a norm without being one of those known; not one of weights."""
    is_called_norm = "norm" in type(module).__name__.lower()
    is_layer = not list(module.children()) and "parametrizations" not in name
    return is_called_norm and is_layer and not is_norm(module)


def is_activation(module: nn.Module) -> bool:
    """Whether the module is an activation such as nn.ReLU."""
    return type(module).__name__.lower() in ACTIVATIONS


def activation_of(node: fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """The activation that a node of a graph applies, as its class or function is called."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return type(module).__name__ if is_activation(module) else None
    called: Any = node.target
    name = called if isinstance(called, str) else getattr(called, "__name__", "")
    # relu_ works in place.
    is_call = node.op in ("call_function", "call_method")
    return name if is_call and name.rstrip("_") in ACTIVATIONS else None


def own_activation(norm: nn.Module) -> nn.Module | None:
    """The activation inside a norm such as timm's BatchNormAct2d, if it has one."""
    inside = getattr(norm, "act", None)
    is_activating = isinstance(inside, nn.Module) and not isinstance(inside, nn.Identity)
    return inside if is_activating else None


def inherent_refusal(norm: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why a norm on inputs of shape (c, *places) can be exchanged for none, or None."""
    if is_frozen(norm):
        return "it is frozen: its fixed values are part of the weights around it"
    if not isinstance(getattr(norm, "drop", None), nn.Identity | None):
        return "it contains a dropout"
    if len(shape) != 3:
        axes = ", ".join(map(str, ("n", *shape)))
        return f"it stands on ({axes}), which is no feature map (n, c, h, w)"
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm) and not _is_channels_first(norm, shape):
        return "it takes the channels from the last axis, and feature maps are (n, c, h, w)"
    return None


def _is_channels_first(norm: nn.LayerNorm | nn.RMSNorm, shape: tuple[int, ...]) -> bool:
    """Whether the layer takes (n, c, h, w): tried, since LayerNorm2d has its parent's options."""
    if tuple(norm.normalized_shape) == shape:
        return True
    channels = norm.normalized_shape[0]
    reference = next(norm.parameters(), torch.zeros(()))
    # The last axis is no number of channels: a layer that looks for them there fails.
    x = torch.zeros(1, channels, 1, channels + 1, dtype=reference.dtype, device=reference.device)
    try:
        with torch.no_grad():
            y: Tensor = norm(x)
    except RuntimeError:
        return False
    return len(norm.normalized_shape) == 1 and y.shape == x.shape and shape[0] == channels
