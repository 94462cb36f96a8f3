"""The sites of norms in a model, and whether a norm can train there: asked before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normbench.errors import NormbenchError, first_line
from normbench.models.layers import Layers
from normbench.models.tokens import OnTokens
from normbench.norms.spec import NormSpec, Refusal

# (c, h, w) of a norm's input, or (c, places) where it is tokens.
Site = tuple[int, ...]


class Placeholder(nn.Module):
    """The identity, with a gamma for networks that set its initial value."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return x


# A norm that every network can have at every site.
PLACEHOLDER = NormSpec(scope="none", norm=Placeholder)


def unsupported(spec: NormSpec, sites: Sequence[Site], batch_size: int) -> Refusal | None:
    """The first refusal of `spec` to train at these sites on batches of `batch_size`, if any."""
    for site in sites:
        refusal = spec.refusal((batch_size, *site))
        if refusal is not None:
            return refusal
    return None


def site_of(norm: nn.Module, x: Tensor) -> Site:
    """The site of a norm with the input x."""
    return tuple(x.mT.shape[1:]) if isinstance(norm, OnTokens) else tuple(x.shape[1:])


def norm_sites(
    build: Callable[[Layers], nn.Module],
    image_shape: Sequence[int],
    output_shape: Sequence[int] | None = None,
) -> list[Site]:
    """The shape (c, *places) that reaches each norm of the model `build(layers)`, in forward order.

    Blank images run through the model, with placeholders for the norms. The meta device would save
    the computation, but the first operation on it imports torch code for four seconds.

    Raises NormbenchError for a network that cannot take such images, and for one that does not make
    (n, *output_shape) of them.
    """
    model = build(Layers(PLACEHOLDER, 0, tuple(image_shape)))
    # A norm that runs several times on one shape is one site.
    met: dict[tuple[nn.Module, Site], None] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        met[module, site_of(module, inputs[0])] = None

    modules = list(model.modules())
    on_tokens = [module for module in modules if isinstance(module, OnTokens)]
    placeholders = [module for module in modules if isinstance(module, Placeholder)]
    inner = {module.norm for module in on_tokens}
    for module in (*on_tokens, *(each for each in placeholders if each not in inner)):
        module.register_forward_pre_hook(record)
    try:
        with torch.no_grad():
            outputs = model(torch.zeros(2, *image_shape))
    except Exception as error:
        size = "x".join(map(str, image_shape))
        raise NormbenchError(f"it cannot take images of {size}: {first_line(error)}") from error
    if output_shape is not None:
        check_outputs(outputs, 2, output_shape)
    return [site for _, site in met]


def check_outputs(outputs: object, num_images: int, output_shape: Sequence[int]) -> None:
    """Raises NormbenchError unless the outputs are of shape (num_images, *output_shape)."""
    made = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    needed = (num_images, *output_shape)
    if made != needed:
        meaning = "a score for each class"
        if len(output_shape) == 3:
            meaning = "an image of each, as model=style_transfer does"
        raise NormbenchError(
            f"it makes {made} of {num_images} images, and needs to make {needed}: {meaning}"
        )


def materialize(model: nn.Module, image_shape: Sequence[int]) -> nn.Module:
    """Gives lazy layers their shapes, which an optimizer needs; returns the model in training mode.

    A blank image runs through the model, in evaluation mode: no statistics are kept of it.
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        with torch.no_grad():
            model.eval()(torch.zeros(1, *image_shape))
    return model.train()
