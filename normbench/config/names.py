"""What people call norms: names of torch's layers and of papers, by the name in the registry."""

from __future__ import annotations

import re

# By the name in lower case, without punctuation, dimensions and the words torch, nn and norm.
SPOKEN = {
    "batch": "bn",
    "b": "bn",
    "customb": "bn_custom",
    "custombatch": "bn_custom",
    "lazybatch": "lazy_bn",
    "sync": "sync_bn",
    "syncbatch": "sync_bn",
    "ghostbatch": "ghost_bn",
    "batchre": "batch_renorm",
    "batchrenorm": "batch_renorm",
    "layer": "ln",
    "l": "ln",
    "instance": "in",
    "i": "in",
    "group": "gn",
    "g": "gn",
    "filterresponse": "frn",
    "rms": "rms",
    "rootmeansquare": "rms",
    "dynamictanh": "dyt",
    "weightstandardization": "ws_gn",
    "weightstandardized": "ws_gn",
    "evo": "evonorm_s0",
    "evos0": "evonorm_s0",
    "evob0": "evonorm_b0",
    "switchable": "switchable",
    "batchinstance": "bin",
    "batchchannel": "bcn",
    "extendedbatch": "ebn",
    "iterative": "iternorm",
    "movingaveragebatch": "mabn",
    "weight": "weight_norm",
    "spectral": "spectral_norm",
    "no": "none",
    "identity": "none",
}
LEFT_OUT = re.compile(r"\b(torch|nn|timm|layers)\b|normalization|normalisation|norm|[1-3]d$|\W|_")


def spoken(name: str) -> str | None:
    """The norm that people call so: `bn` for torch.nn.BatchNorm2d and `batch_norm`; else None."""
    return SPOKEN.get(LEFT_OUT.sub("", name.lower()))
