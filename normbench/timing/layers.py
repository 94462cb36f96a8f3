"""Each norm layer alone, at every place where a network has one: both layouts, eager and compiled, timed in turns."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError
from normbench.models import Layers, Site, materialize
from normbench.norms import NormSpec, norms
from normbench.timing.race import Work, race, timer_for
from normbench.timing.steps import LEAST_SECONDS, machine
from normbench.train.build import runtime_of
from normbench.train.choose import PLAIN
from normbench.train.resolve import Resolver
from normbench.train.runtime import Runtime, compile_all

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = ("eager", "compiled")
PARTS = ("forward", "both")
Key = tuple[str, str, str, str]  # norm, layout, mode, part


def sites_of(config: RunConfig) -> list[Site]:
    """The distinct shapes (c, h, w) at which the network of this configuration has a norm."""
    resolver = Resolver()
    return [*dict.fromkeys(resolver.norm_sites(config.model, resolver.source(config)))]


def bench_layers(
    configs: Sequence[RunConfig], rounds: int, done: Callable[[], object]
) -> Iterator[dict[str, Any]]:
    """A row for each norm, site, layout, mode, part (forward; forward and backward: both) and round.

    All of one site and batch size are timed in turns. Raises NormbenchError for a norm that comes twice.
    """
    _check(configs)
    for config in {config.batch_size: config for config in configs}.values():
        chosen = {one.norm.label: one for one in configs if one.batch_size == config.batch_size}
        with runtime_of(config) as runtime:
            facts = {
                "batch_size": config.batch_size,
                "precision": runtime.precision,
                **machine(config.runtime.device),
            }
            for site in sites_of(config):
                specs = {
                    name: norms.build(one.norm.name, options=one.norm.options)
                    for name, one in chosen.items()
                }
                for turn in _race_at(site, specs, config.batch_size, runtime, rounds):
                    yield from (facts | row for row in turn)
                    done()


def _check(configs: Sequence[RunConfig]) -> None:
    """What else the configurations say, a layer alone does not see, or a row does not tell."""
    for name, value in PLAIN.items():
        if any(getattr(config.runtime, name) != value for config in configs):
            raise NormbenchError(
                f"--layers: leave out runtime.{name}; both layouts are timed, eager and compiled"
            )
    if any(config.train.accumulate > 1 for config in configs):
        raise NormbenchError(
            "--layers: leave out train.accumulate, of which a layer alone sees nothing"
        )
    for (label, batch_size), number in Counter(
        (one.norm.label, one.batch_size) for one in configs
    ).items():
        if number > 1:
            raise NormbenchError(
                f"--layers: {label} at batch size {batch_size} comes {number} times; a layer is timed with one choice "
                "of options, in both layouts, eager and compiled"
            )


def _race_at(
    site: Site, specs: dict[str, NormSpec], batch_size: int, runtime: Runtime, rounds: int
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each round."""
    torch._dynamo.reset()  # what was compiled for other sites is done with
    compile_all()
    works = {
        "|".join((name, layout, mode, part)): _work(
            specs[name], (batch_size, *site), layout, mode, part, runtime
        )
        for name, layout, mode, part in itertools.product(specs, LAYOUTS, MODES, PARTS)
    }
    timed = race(works, timer_for(runtime.device), rounds=rounds, least_seconds=LEAST_SECONDS / 10)
    for number, seconds in enumerate(timed):
        place = {"site": "x".join(map(str, site)), "round": number}
        names = [
            dict(zip(("norm", "layout", "mode", "part"), key.split("|"), strict=True))
            for key in seconds
        ]
        yield [
            name
            | place
            | {"own_activation": specs[name["norm"]].norm_act is not None, "seconds": value}
            for name, value in zip(names, seconds.values(), strict=True)
        ]


def _work(
    spec: NormSpec, shape: Sequence[int], layout: str, mode: str, part: str, runtime: Runtime
) -> Work:
    """A pass through a layer of its own; with the gradients of input and parameters, if both ways are asked for."""
    dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    layer = _layer(spec, shape).to(runtime.device)
    x = torch.randn(*shape, device=runtime.device, dtype=dtype).contiguous(
        memory_format=LAYOUTS[layout]
    )
    x.requires_grad_()
    gradient = torch.ones_like(x)
    forward: Callable[[Tensor], Tensor] = (
        torch.compile(layer, dynamic=False) if mode == "compiled" else layer
    )

    def both() -> None:
        with runtime.autocast():
            y = forward(x)
        torch.autograd.grad(y, (x, *layer.parameters()), gradient, allow_unused=True)

    def there() -> None:
        with runtime.autocast():
            forward(x)

    return both if part == "both" else there


def _layer(spec: NormSpec, shape: Sequence[int]) -> nn.Module:
    """The norm at a place with this input, in training; with its activation where it owns one."""
    make = Layers(spec, seed=0).norm if spec.norm_act is None else Layers(spec, seed=0).norm_act
    return materialize(make(shape[1]), shape[1:])
