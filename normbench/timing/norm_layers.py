"""Norm layers alone, at every site of a network: both layouts, eager and compiled, in turns."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError
from normbench.models import Layers, Site, materialize
from normbench.norms import NormSpec, norms
from normbench.timing.race import Work, race, race_now, timer_for
from normbench.timing.steps import LEAST_SECONDS, machine
from normbench.training.build import runtime_of
from normbench.training.resolve import Resolver
from normbench.training.runtime import Runtime, compile_all

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = ("eager", "compiled")
# Forward alone, and forward with backward: their difference is the backward pass.
PARTS = ("forward", "both")


class Contest(NamedTuple):
    """A norm in a layout and a mode, and the timed part."""

    norm: str
    layout: str
    mode: str
    part: str


def sites_of(config: RunConfig) -> list[Site]:
    """The distinct shapes at which the network of this configuration has a norm.

    Raises NormbenchError for sites of tokens, whose layout is always the same.
    """
    resolver = Resolver()
    sites = [*dict.fromkeys(resolver.norm_sites(config, resolver.source(config)))]
    if any(len(site) == 2 for site in sites):
        raise NormbenchError(
            f"--layers times both layouts of maps, and the norms of {config.model.label} have "
            "tokens: choose another model, or leave out --layers"
        )
    return sites


def bench_layers(
    configs: Sequence[RunConfig],
    rounds: int,
    done: Callable[[], object],
    process: int = 1,
    modes: Sequence[str] = MODES,
) -> Iterator[dict[str, Any]]:
    """A row of layers.csv for each norm, site, layout, mode, part and round.

    All contestants of one site and batch size are timed in turns; `done` is called after each
    round. process: the number of this process among those that repeat the bench. Raises
    NormbenchError for a norm that comes twice and for settings of whole steps.
    """
    check_layers(configs)
    by_batch_size = {config.batch_size: config for config in configs}
    for config in by_batch_size.values():
        specs = {}
        for contestant in configs:
            if contestant.batch_size == config.batch_size:
                norm = contestant.norm
                specs[norm.label] = norms.build(norm.name, options=norm.options)
        with runtime_of(config) as runtime:
            facts = {
                "batch_size": config.batch_size,
                "race": race_now(process, config.batch_size),
                "precision": runtime.precision,
                **machine(config.runtime.device),
            }
            for site in sites_of(config):
                for rows in _race_at(site, specs, config.batch_size, modes, runtime, rounds):
                    yield from (facts | row for row in rows)
                    done()


def check_layers(configs: Sequence[RunConfig]) -> None:
    """Raises NormbenchError for a norm that comes twice and for settings of whole steps."""
    """Refuses settings of whole steps, which a layer alone does not see or a row does not tell."""
    for config in configs:
        for name in ("channels_last", "compile"):
            if getattr(config.runtime, name):
                raise NormbenchError(
                    f"--layers: leave out runtime.{name}: both layouts and modes are timed"
                )
        if config.train.accumulate > 1:
            raise NormbenchError(
                "--layers: leave out train.accumulate, which changes nothing for a layer alone"
            )
    counts = Counter((config.norm.label, config.batch_size) for config in configs)
    for (label, batch_size), number in counts.items():
        if number > 1:
            raise NormbenchError(
                f"--layers: {label} at batch size {batch_size} comes {number} times; a layer is "
                "timed with one choice of options, in both layouts, eager and compiled"
            )


def _race_at(
    site: Site,
    specs: dict[str, NormSpec],
    batch_size: int,
    modes: Sequence[str],
    runtime: Runtime,
    rounds: int,
) -> Iterator[list[dict[str, Any]]]:
    if "compiled" in modes:
        # Code compiled for other sites only fills the cache.
        torch._dynamo.reset()
        compile_all()
    by_name, works = {}, {}
    for names in itertools.product(specs, LAYOUTS, modes, PARTS):
        # A race knows its contestants by a string.
        name, contest = "|".join(names), Contest(*names)
        by_name[name] = contest
        works[name] = _work(specs[contest.norm], (batch_size, *site), contest, runtime)
    timer = timer_for(runtime.device)
    timed = race(works, timer, rounds=rounds, least_seconds=LEAST_SECONDS / 10)
    for number, seconds in enumerate(timed):
        rows = []
        for name, contest in by_name.items():
            row = contest._asdict() | {"site": "x".join(map(str, site)), "round": number}
            row["own_activation"] = specs[contest.norm].norm_act is not None
            row["seconds"] = seconds[name]
            rows.append(row)
        yield rows


def _work(spec: NormSpec, shape: Sequence[int], contest: Contest, runtime: Runtime) -> Work:
    """A pass through a new layer; both ways with the gradients of input and parameters."""
    dtype = runtime.dtype
    layer = _layer(spec, shape).to(runtime.device)
    x = torch.randn(*shape, device=runtime.device, dtype=dtype)
    x = x.contiguous(memory_format=LAYOUTS[contest.layout]).requires_grad_()
    gradient = torch.ones_like(x)
    forward: Callable[[Tensor], Tensor] = layer
    if contest.mode == "compiled":
        forward = torch.compile(layer, dynamic=False)

    def pass_forward() -> None:
        with runtime.autocast():
            forward(x)

    def pass_both() -> None:
        with runtime.autocast():
            y = forward(x)
        torch.autograd.grad(y, (x, *layer.parameters()), gradient, allow_unused=True)

    return pass_both if contest.part == "both" else pass_forward


def _layer(spec: NormSpec, shape: Sequence[int]) -> nn.Module:
    """The norm in training at a site of this shape, with its activation where it owns one."""
    layers = Layers(spec, seed=0)
    make = layers.norm if spec.norm_act is None else layers.norm_act
    return materialize(make(shape[1]), shape[1:])
