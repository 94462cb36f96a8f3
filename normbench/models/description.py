"""The norms of a network for people: where they stand, on which shape, and what stands around."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.models.layers import Layers
from normbench.models.sites import Site
from normbench.norms.spec import NormSpec


@dataclass(frozen=True)
class SiteLine:
    """A site of a norm in a network.

    name: the qualified name of the module. shape: (c, *places) of what reaches it. before: what the
    network has there itself, empty for a network that asks for its norms. activation: the one that
    follows alone. layer: what stands there under the norm. refusal: why it cannot stand there.
    """

    name: str
    shape: Site
    before: str
    activation: str
    layer: str
    refusal: str


class RecordingLayers(Layers):
    """Layers that remembers each norm and whether an activation follows it."""

    def __init__(self, spec: NormSpec, seed: int, image_shape: Site) -> None:
        super().__init__(spec, seed, image_shape)
        self.made: dict[nn.Module, bool] = {}

    def norm(
        self, num_features: int, *, zero_gamma: bool = False, is_block_start: bool = True
    ) -> nn.Module:
        layer = super().norm(
            num_features, zero_gamma=zero_gamma, is_block_start=is_block_start
        )
        self.made[layer] = False
        return layer

    def norm_act(self, num_features: int, *, is_block_start: bool = True) -> nn.Module:
        layer = super().norm_act(num_features, is_block_start=is_block_start)
        # Where norm and activation are two modules, the norm has been recorded already.
        parts = [module for module in layer.modules() if module in self.made]
        self.made[parts[0] if parts else layer] = True
        return layer


def describe_sites(
    build: Callable[[Layers], nn.Module],
    spec: NormSpec,
    image_shape: Site,
    batch_size: int,
) -> list[SiteLine]:
    """The sites of a network that asks `Layers` for its norms, in the order of the forward pass."""
    layers = RecordingLayers(spec, 0, image_shape)
    model = build(layers)
    names = {module: name for name, module in model.named_modules()}
    lines = []
    for module, shape in _shapes(model, list(layers.made), image_shape):
        refusal = spec.refuse((batch_size, *shape))
        activation = "ReLU" if layers.made[module] else ""
        owned = activation and spec.norm_act is not None
        lines.append(
            SiteLine(
                names[module],
                shape,
                "",
                activation,
                type(module).__name__ + (" (with activation)" if owned else ""),
                refusal.reason if refusal else "",
            )
        )
    return lines


def _shapes(
    model: nn.Module, norms: Sequence[nn.Module], image_shape: Site
) -> list[tuple[nn.Module, Site]]:
    """The norms with the shapes that reach them, in forward order."""
    found: list[tuple[nn.Module, Site]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append((module, tuple(inputs[0].shape[1:])))

    hooks = [module.register_forward_pre_hook(record) for module in norms]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return found
