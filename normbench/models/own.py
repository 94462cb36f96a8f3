"""Own networks: a function or class of anybody's, from a file or importable module.

It is called with `num_classes` and the options given. If it has a parameter `layers`, it asks these
for its convolutions, norms and activations, as a built-in network does. Otherwise it is built as it
is, and its norms are exchanged afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from normbench.errors import NormbenchError
from normbench.models.exchange import exchange
from normbench.models.layers import Layers
from normbench.seeds import stream_seed
from normbench.users_code import Own, find_own, users_code

NUM_CLASSES = "num_classes"
LAYERS = "layers"


def check(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Checks an own network's options; returns {"file", "content", "options"} for a configuration.

    Raises NormbenchError where the network cannot be found or run, is not the one of the content
    hash `given["content"]`, takes no num_classes, or has no such option.
    """
    own, options = _checked(name, given)
    return {"file": str(own.path), "content": own.content, "options": options}


def _checked(name: str, given: Mapping[str, Any]) -> tuple[Own, dict[str, Any]]:
    own = find(name, given)
    names = {parameter.name for parameter in own.parameters}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.parameters)
    if NUM_CLASSES not in names and not takes_any:
        raise NormbenchError(
            f"model {name} takes no num_classes: normbench gives it the number of classes"
        )
    reserved = dict.fromkeys([NUM_CLASSES, LAYERS] if takes_layers(own) else [NUM_CLASSES])
    return own, own.checked(given.get("options") or {}, reserved)


def build(name: str, given: Mapping[str, Any], layers: Layers, num_outputs: int) -> nn.Module:
    """The own network under the norm of `layers`; `normbench_exchange` says what was exchanged.

    Its initial weights are drawn under a seed that does not know the norm. Raises NormbenchError
    where it cannot be built, or has a norm that cannot be exchanged, and for an init_scale of
    weights that it draws itself.
    """
    own, options = _checked(name, given)
    if takes_layers(own):
        arguments = options | {NUM_CLASSES: num_outputs, LAYERS: layers}
        return _made(own, arguments, layers.seed)
    if layers.init_scale != 1:
        raise NormbenchError(
            f"model.init_scale={layers.init_scale:g}: the network draws its weights itself; "
            "allowed: 1, or a network with a parameter `layers`"
        )
    model = _made(own, options | {NUM_CLASSES: num_outputs}, layers.seed)
    network, record = exchange(model, layers.spec, layers.image_shape, seed=layers.seed)
    vars(network)["normbench_exchange"] = record
    return network


def build_plain(name: str, given: Mapping[str, Any], layers: Layers, num_outputs: int) -> nn.Module:
    """The own network as it is, with its own norms. Raises NormbenchError as `build`."""
    own, options = _checked(name, given)
    return _made(own, options | {NUM_CLASSES: num_outputs}, layers.seed)


def takes_layers(own: Own) -> bool:
    """Whether the network builds itself of normbench's layers.

    It has then a parameter `layers` without a default; with one, as a depth has, it is an option.
    """
    parameter = inspect.signature(own.make).parameters.get(LAYERS)
    return parameter is not None and parameter.default is parameter.empty


def _made(own: Own, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    # What the network itself draws is the same for every norm.
    with torch.random.fork_rng(devices=[]), users_code("model", own.name):
        torch.default_generator.manual_seed(stream_seed(seed, "model", 0))
        model: object = own.make(**arguments)
    if not isinstance(model, nn.Module):
        raise NormbenchError(
            f"model {own.name} is to make an nn.Module, and made a {type(model).__name__}"
        )
    return model


def find(name: str, given: Mapping[str, Any]) -> Own:
    """The function or class called `name`. Raises NormbenchError where there is none."""
    return find_own("model", name, given, lambda value: issubclass(value, nn.Module))
