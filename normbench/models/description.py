"""The norms of a network for people: where they stand, on which shape, and what stands around."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from normbench.models import own
from normbench.models.exchange import Exchange, ExchangedSite, preview
from normbench.models.exchange.found import run_images
from normbench.models.layers import Layers
from normbench.models.registry import models
from normbench.models.sites import PLACEHOLDER, Site, check_outputs, site_of
from normbench.models.tokens import OnTokens
from normbench.norms.spec import NormSpec
from normbench.users_code import is_own


@dataclass(frozen=True)
class Description:
    """What stands at each norm of a network, and its parameters; None where one is refused."""

    exchange: Exchange
    num_parameters: int | None


def describe(
    name: str,
    options: Mapping[str, Any],
    layers: Layers,
    num_outputs: int,
    batch_size: int,
) -> Description:
    """Where the norms of a network stand under the norm of `layers`, and what is refused there.

    Raises NormbenchError where the network cannot be built, has no norm, or makes other outputs.
    """

    def build(layers: Layers) -> nn.Module:
        return models.build(name, layers, num_outputs, options=options)

    if is_own(name) and not own.takes_layers(own.find(name, options)):
        plain = own.build_plain(name, options, layers, num_outputs)
        outputs = run_images(plain, layers.image_shape, training=True)
        check_outputs(outputs, 2, (num_outputs,))
        exchange = preview(plain, layers.spec, layers.image_shape, batch_size)
    else:
        exchange = _asked_for(build, layers, batch_size)
    number = None
    if all(site.refusal is None for site in exchange.sites):
        number = sum(parameter.numel() for parameter in build(layers).parameters())
    return Description(exchange, number)


class RecordingLayers(Layers):
    """Layers that remembers each norm and whether an activation follows it."""

    def __init__(self, spec: NormSpec, seed: int, image_shape: Site) -> None:
        super().__init__(spec, seed, image_shape)
        self.made: dict[nn.Module, bool] = {}

    def norm(
        self, num_features: int, *, zero_gamma: bool = False, is_block_start: bool = True
    ) -> nn.Module:
        layer = super().norm(num_features, zero_gamma=zero_gamma, is_block_start=is_block_start)
        self.made[layer] = False
        return layer

    def norm_act(self, num_features: int, *, is_block_start: bool = True) -> nn.Module:
        layer = super().norm_act(num_features, is_block_start=is_block_start)
        # Where norm and activation are two modules, the norm has been recorded already.
        parts = [module for module in layer.modules() if module in self.made]
        self.made[parts[0] if parts else layer] = True
        return layer

    def token_norm(self, num_features: int) -> nn.Module:
        layer = super().token_norm(num_features)
        self.made[layer] = False
        return layer


def _asked_for(build: Callable[[Layers], nn.Module], layers: Layers, batch_size: int) -> Exchange:
    """The norms that a network asks of its layers, in forward order."""
    spec = layers.spec
    # A norm that is refused somewhere cannot be made: then others stand for all of them.
    without = RecordingLayers(PLACEHOLDER, layers.seed, layers.image_shape)
    sites = []
    for _, shape, activation in _reached(build(without), without):
        refused = spec.refusal((batch_size, *shape))
        sites.append((shape, activation, refused.reason if refused else None))
    is_refused = any(refusal for _, _, refusal in sites)
    recording = without
    if not is_refused:
        recording = RecordingLayers(spec, layers.seed, layers.image_shape)
    model = build(recording)
    names = {module: name for name, module in model.named_modules()}
    reached = _reached(model, recording)
    found = []
    for (shape, activation, refusal), (module, _, _) in zip(sites, reached, strict=True):
        layer = module.norm if isinstance(module, OnTokens) else module
        found.append(
            ExchangedSite(
                name=names[module],
                found="",
                shape=shape,
                feeder=None,
                activation="ReLU" if activation else None,
                made=None if is_refused else type(layer).__name__,
                replaces_activation=activation and spec.norm_act is not None,
                refusal=refusal,
            )
        )
    return Exchange(tuple(found))


def _reached(model: nn.Module, recording: RecordingLayers) -> list[tuple[nn.Module, Site, bool]]:
    """The norms in forward order: shape of the input, whether an activation follows.

    A norm that runs several times on one shape stands there once.
    """
    found: dict[tuple[nn.Module, Site, bool], None] = {}

    def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found[module, site_of(module, inputs[0]), recording.made[module]] = None

    hooks = [module.register_forward_pre_hook(record) for module in recording.made]
    try:
        run_images(model, recording.image_shape, training=False)
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)
