"""normbench stylize: an image in the style that a run has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normbench.text import say


def stylize(
    run: Annotated[str, typer.Argument(help="The folder of a finished run of task=style.")],
    image: Annotated[Path, typer.Argument(help="A PNG or JPEG file of any size.")],
    style: Annotated[
        str | None,
        typer.Option(help="For a network of any style: dots, stripes, waves, or an image file."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write, PNG or JPEG.")
    ] = Path("stylized.png"),
) -> None:
    """Give an image the style that a finished style run has learned.

    \b
    normbench stylize results/style-first photo.jpg -o photo.png
    """
    from normbench.perceptual.stylize import stylize_file

    stylize_file(run, image, output, style)
    say(f"{output}")
