"""normbench models: the networks, and where a network's norms stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from normbench.cli import complete
from normbench.text import say

if TYPE_CHECKING:
    from normbench.models.exchange import ExchangedSite


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A network, or anybody's as file.py:NAME or package.module:NAME.",
            autocompletion=complete.choices("model"),
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings, as model.depth=56 or norm.num_groups=8.",
            autocompletion=complete.settings,
        ),
    ] = None,
    norm: Annotated[
        str, typer.Option(help="See `normbench norms`.", autocompletion=complete.choices("norm"))
    ] = "bn",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images whose statistics are taken together; without: 64."),
    ] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Height and width, in pixels.")] = 32,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, help="Outputs of the network; without: 10, of images 3 channels."),
    ] = None,
) -> None:
    """List what --model takes; of one network show where its norms stand, and under a norm what.

    \b
    normbench models
    normbench models resnet model.depth=56 --norm ibn
    normbench models torchvision.models:resnet18 --norm evonorm_s0
    """
    from normbench.models import Layers
    from normbench.models import models as registry
    from normbench.norms import norms

    if name is None:
        width = max(len(entry.name) for entry in registry)
        for entry in registry:
            say(f"{entry.name:<{width}}  {entry.summary}")
        say(
            "and anybody's: FILE.py:NAME or package.module:NAME, a function or class that makes one"
        )
        return
    from normbench.analysis.decision_tree import load_tree
    from normbench.config.compose import compose
    from normbench.models.description import describe
    from normbench.models.exchange.record import too_few

    flags = {"model": name, "norm": norm, "batch_size": batch_size}
    config = compose(options or (), {key: flags[key] for key in flags if flags[key] is not None})
    model = config.model
    given = registry.check(model.name, model.options)
    spec = norms.build(config.norm.name, options=config.norm.options)
    layers = Layers(spec, config.seed, (3, image_size, image_size))
    if num_classes is None:
        num_classes = 3 if load_tree().kind_of(model.name) == "style" else 10
    found = describe(model.name, given, layers, num_classes, config.batch_size)
    say(_as_text(found.exchange.sites), lines=True)
    for remark in found.exchange.remarks:
        say(remark)
    place = f"{model.label} under {config.norm.label} at batch size {config.batch_size}"
    if found.num_parameters is None:
        say(f"{place}: refused, see above")
    elif config.batch_size < found.exchange.least_batch:
        say(f"{place}: refused: {too_few(found.exchange)}")
    else:
        say(f"{place}: {found.num_parameters:,} parameters")


def _as_text(sites: tuple[ExchangedSite, ...]) -> str:
    """A row for each site; columns that no site has anything for are left out."""
    from tabulate import tabulate

    rows = []
    for site in sites:
        made = f"refused: {site.refusal}" if site.refusal else site.made
        if site.replaces_activation:
            made = f"{made}, for norm and activation"
        rows.append(
            {
                "norm": site.name,
                "input": "x".join(map(str, site.shape)),
                "fed by": site.feeder or "",
                "is": site.found,
                "followed by": site.activation or "",
                "becomes": made,
                "remark": "; ".join(site.remarks),
            }
        )
    columns = []
    for column in rows[0] if rows else ():
        if any(row[column] for row in rows):
            columns.append(column)
    shown = [{column: row[column] for column in columns} for row in rows]
    return tabulate(shown, headers="keys")
