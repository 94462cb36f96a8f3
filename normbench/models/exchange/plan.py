"""Exchanges the norms of any network: planned and refused as a whole, then done in place."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from normbench.errors import Unsupported
from normbench.models.exchange.found import Found, FoundNorm, find, in_mode
from normbench.models.exchange.kinds import own_activation
from normbench.models.exchange.record import Exchange, ExchangedSite, too_few
from normbench.models.exchange.removal import Removals, put
from normbench.models.exchange.values import take_over
from normbench.norms.arithmetic import ScaleAndShift
from normbench.norms.spec import NormSpec
from normbench.seeds import stream, stream_seed

UNTRACED = "torch.fx cannot trace the network, and this norm needs to know "


def exchange(
    model: nn.Module,
    spec: NormSpec,
    image_shape: Sequence[int],
    batch_size: int | None = None,
    seed: int = 0,
) -> tuple[nn.Module, Exchange]:
    """Puts the norm into the places of all norms of `model`, in place; see `convert`.

    image_shape is (3, h, w). batch_size None refuses what works at no batch size above 1. The
    i-th new norm draws from the random stream ("norm", i) of the seed, a bias that it needs from
    ("bias", i); torch's own generator is left as it is.

    Returns the network, which is `model` unless its own forward calls an activation that a new norm
    contains, and what was done. Raises NormbenchError as `find` does, and Unsupported with the
    first site that refuses the norm; then nothing has changed.
    """
    with torch.random.fork_rng(devices=[]):
        plan = Plan.of(model, spec, image_shape, batch_size, seed)
        refused = [site for site in plan.record.sites if site.refusal is not None]
        if refused:
            more = f" (and {len(refused) - 1} more)" if refused[1:] else ""
            raise Unsupported(f"{refused[0].name}: {refused[0].refusal}{more}") from plan.error
        if batch_size is not None and batch_size < plan.record.least_batch:
            raise Unsupported(f"a batch of {batch_size}: {too_few(plan.record)}")
        return plan.carry_out(), plan.record


def preview(
    model: nn.Module, spec: NormSpec, image_shape: Sequence[int], batch_size: int | None = None
) -> Exchange:
    """What `exchange` would do, with its refusals, site by site; the model stays as it is."""
    with torch.random.fork_rng(devices=[]):
        return Plan.of(model, spec, image_shape, batch_size, seed=0).record


@dataclass
class Plan:
    """The new layers of a network, made but not in their places.

    error: what an own norm's code raised at the first site that refuses it.
    """

    model: nn.Module
    spec: NormSpec
    found: Found
    names: dict[nn.Module, str]
    removals: Removals | None
    record: Exchange
    layers: list[nn.Module | None] = field(default_factory=list)
    biases: list[Tensor | None] = field(default_factory=list)
    error: Exception | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        spec: NormSpec,
        image_shape: Sequence[int],
        batch_size: int | None,
        seed: int,
    ) -> Plan:
        """Plans the exchange; the arguments are those of `exchange`."""
        found = find(model, image_shape)
        removals = Removals(model, found.traced, image_shape) if found.traced else None
        names = {module: name for name, module in model.named_modules()}
        plan = cls(
            model, spec, found, names, removals, Exchange((), found.remarks, found.least_batch)
        )
        sites = [plan._add(norm, batch_size or 2, seed) for norm in found.norms]
        plan.record = replace(plan.record, sites=tuple(sites))
        return plan

    def carry_out(self) -> nn.Module:
        """Puts everything into its place; returns the network."""
        model = self.model
        for norm, layer, bias in zip(self.found.norms, self.layers, self.biases, strict=True):
            assert layer is not None, "refused"
            model = put(model, norm.module, layer)
            feeder = norm.around.feeder
            if feeder is not None and bias is not None:
                feeder.bias = nn.Parameter(bias)
            if feeder is not None and self.spec.reparametrize is not None:
                model = put(model, feeder, self.spec.reparametrize(feeder))
        return self.removals.carry_out(model) if self.removals else model

    def _add(self, norm: FoundNorm, batch_size: int, seed: int) -> ExchangedSite:
        """Plans the next site and describes it."""
        feeder, index = norm.around.feeder, len(self.layers)
        takes_activation = self.spec.norm_act is not None and norm.activation is not None
        site = ExchangedSite(
            name=norm.name,
            found=type(norm.module).__name__,
            shape=norm.shape,
            feeder=self.names[feeder] if feeder is not None else None,
            activation=norm.activation,
            made=None,
            replaces_activation=takes_activation,
            refusal=self._refusal(norm, batch_size),
        )
        if site.refusal is not None:
            self.layers.append(None)
            self.biases.append(None)
            return site
        make = self.spec.norm_act if takes_activation else self.spec.norm
        assert make is not None
        layer = self._layer(make, norm, stream_seed(seed, "norm", index))
        bias = _new_bias(feeder, seed, index) if self.spec.conv_bias else None
        remarks = [take_over(norm.module, layer, norm.shape)]
        if self.spec.conv_bias:
            remarks.append(_of_bias(feeder, bias))
        if self.spec.reparametrize is not None:
            remarks.append(f"acts on the weights of {site.feeder}")
        if type(layer) is ScaleAndShift:  # EvoNorm is one, too
            remarks.append("no activation to contain: a scale and shift, nothing is normalized")
        self.layers.append(layer if takes_activation else _activated(layer, norm.module))
        self.biases.append(bias)
        made, remarks = type(layer).__name__, [remark for remark in remarks if remark]
        return replace(site, made=made, remarks=tuple(remarks))

    def _refusal(self, norm: FoundNorm, batch_size: int) -> str | None:
        """Why the norm cannot stand here; where it can, its activation is planned to go."""
        if norm.refusal is not None:
            return norm.refusal
        refusal = self.spec.refuse((batch_size, *norm.shape))
        if refusal is not None:
            self.error = self.error or refusal.error
            return refusal.reason
        if self.found.traced is None:
            if self.spec.norm_act is not None:
                return UNTRACED + "which activation follows"
            if self.spec.reparametrize is not None or self.spec.conv_bias:
                return UNTRACED + "which layer feeds it"
        if self.spec.reparametrize is not None and norm.around.feeder is None:
            return "this norm acts on weights, and no convolution or linear layer alone feeds it"
        call = norm.around.activation
        is_inside = own_activation(norm.module) is not None
        if self.spec.norm_act is None or self.removals is None or call is None or is_inside:
            return None
        return self.removals.refusal(call)

    def _layer(self, make: Callable[[int], nn.Module], norm: FoundNorm, seed: int) -> nn.Module:
        """A new layer of the site's shape, of the device, type and mode of the norm there."""
        torch.default_generator.manual_seed(seed)
        layer = make(norm.shape[0])
        # Lazy layers take their shapes.
        with torch.no_grad(), in_mode(layer, training=False):
            blank = torch.zeros(2, *norm.shape)
            is_input = layer(blank).data_ptr() == blank.data_ptr()
        if is_input and norm.around.feeder is None:
            layer = Copy()
        values = [*norm.module.parameters(), *norm.module.buffers(), *self.model.parameters()]
        for like in values[:1]:
            layer.to(like.device, like.dtype)
        return layer.train(norm.module.training)


class Copy(nn.Module):
    """No norm where others may need its input: the activation that follows may work in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def _activated(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """The layer, with the activation that was inside the norm, if any."""
    inside = own_activation(norm)
    if inside is None:
        return layer
    parts = nn.Sequential(OrderedDict(norm=layer, act=inside))
    parts.training = norm.training
    return parts


def _new_bias(feeder: nn.Module | None, seed: int, index: int) -> Tensor | None:
    """Values for the bias of a layer that has none, from torch's default distribution."""
    if feeder is None or getattr(feeder, "bias", None) is not None:
        return None
    weight = feeder.weight
    assert isinstance(weight, Tensor)
    bound = 1 / math.sqrt(weight[0].numel())
    bias = torch.empty(len(weight)).uniform_(-bound, bound, generator=stream(seed, "bias", index))
    return bias.to(weight)


def _of_bias(feeder: nn.Module | None, bias: Tensor | None) -> str:
    if bias is not None:
        return "the layer before has a bias now"
    if feeder is not None:
        return ""
    return "no convolution or linear layer alone feeds it: no bias before it"
