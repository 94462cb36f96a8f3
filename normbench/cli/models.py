"""normbench models: the networks, and where a network's norms stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from normbench.text import say

if TYPE_CHECKING:
    from normbench.config.schema import RunConfig
    from normbench.models.description import SiteLine


def models(
    name: Annotated[
        str | None,
        typer.Argument(help="A network, or anybody's as file.py:NAME or package.module:NAME."),
    ] = None,
    options: Annotated[
        list[str] | None, typer.Argument(help="Settings, as model.depth=56 or norm.num_groups=8.")
    ] = None,
    norm: Annotated[str, typer.Option(help="See `normbench norms`.")] = "bn",
    batch_size: Annotated[int, typer.Option(help="Images whose statistics are taken together.")] = 64,
    image_size: Annotated[int, typer.Option(help="Height and width of the images.")] = 32,
    num_classes: Annotated[int, typer.Option(help="Outputs of the network.")] = 10,
) -> None:
    """List what --model takes; of one network show where its norms stand.

    \b
    normbench models
    normbench models resnet model.depth=56 --norm ibn
    normbench models torchvision.models:resnet18 --norm evonorm_s0
    """
    from normbench.models import models as registry

    if name is None:
        width = max(len(entry.name) for entry in registry)
        for entry in registry:
            say(f"{entry.name:<{width}}  {entry.summary}")
        say("FILE.py:NAME or package.module:NAME  any function or class that makes a network")
        return
    from normbench.config.compose import compose

    config = compose(options or (), {"model": name, "norm": norm, "batch_size": batch_size})
    lines, remarks, number = _sites(config, (3, image_size, image_size), num_classes)
    say(f"{config.model.label} under {config.norm.label}: {number:,} parameters")
    say(_as_text(lines), lines=True)
    for remark in remarks:
        say(remark)


def _sites(
    config: RunConfig, image_shape: tuple[int, int, int], num_classes: int
) -> tuple[list[SiteLine], list[str], int]:
    """The sites of the network's norms, remarks on the whole, and the number of parameters."""
    from normbench.models.description import describe

    return describe(
        config.model.name,
        config.model.options,
        config.norm.name,
        config.norm.options,
        image_shape,
        config.batch_size,
        num_classes,
    )


def _as_text(lines: list[SiteLine]) -> str:
    from tabulate import tabulate

    rows = []
    for line in lines:
        row = {
            "norm": line.name,
            "shape": "x".join(map(str, line.shape)),
            "has": line.before,
            "then": line.activation,
            "gets": line.refusal and f"refused: {line.refusal}" or line.layer,
        }
        rows.append(row)
    return tabulate(rows, headers="keys")
