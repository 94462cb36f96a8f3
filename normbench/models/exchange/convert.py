"""normbench.convert: the norms of a network exchanged in people's own training code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from normbench.errors import NormbenchError, Unsupported
from normbench.models.exchange.plan import exchange
from normbench.norms import norms
from normbench.norms.own import is_own


def convert(
    model: nn.Module,
    norm: str,
    *,
    image_shape: Sequence[int] = (3, 224, 224),
    batch_size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """Exchanges every norm of `model` for `norm`, in place, and returns the network.

    model: takes images (n, *image_shape), of any number of outputs; on any device.
    norm: a name of `normbench norms`, or your own as file.py:Class.
    image_shape: (channels, height, width) of the images that the network will see, in pixels.
    batch_size: refuses what cannot train on such batches; None: what can train on none.
    seed: of initial values that the new layers draw; torch's own generator is left as it is.
    options: the norm's, as num_groups=32.

    A norm that contains its activation stands in the place of the norm and of the activation that
    alone follows, whichever that is. Where the activation is an nn.ReLU called under a name of its
    own, nn.Identity takes its name. Where it is a function, or called several times in one
    forward, the module that calls it, a residual block for example, becomes a torch.fx.GraphModule
    of the same parameters and attributes; if the network itself calls it, so does the network. All
    other classes stay. Weights of convolutions stay, and a norm's values where they mean the same.

    `network.normbench_exchange` is an Exchange: `print(network.normbench_exchange)` says what stood
    where, what stands there now, and what became of its values.

    Raises NormbenchError, before anything is changed, for an unknown norm or option, a network
    without norms, one that cannot take the images, and with the name of the first layer that cannot
    be exchanged.
    """
    if not isinstance(model, nn.Module):
        raise NormbenchError(f"model is to be an nn.Module, not a {type(model).__name__}")
    if not isinstance(norm, str):
        raise NormbenchError(f"norm is to be a name, as 'gn' or 'file.py:Class', not {norm!r}")
    if not _is_image_shape(image_shape):
        raise NormbenchError(
            f"image_shape is to be (channels, height, width), as (3, 224, 224), not {image_shape!r}"
        )
    if batch_size is not None and not _is_positive(batch_size):
        raise NormbenchError(f"batch_size is to be a whole number from 1, not {batch_size!r}")
    given = {"options": options} if is_own(norm) else options
    spec = norms.build(norm, options=given)
    try:
        network, record = exchange(model, spec, image_shape, batch_size, seed)
    except Unsupported as error:
        raise Unsupported(f"norm {norm} at {error}") from error.__cause__
    vars(network)["normbench_exchange"] = record
    return network


def _is_image_shape(given: object) -> bool:
    if not isinstance(given, Sequence) or isinstance(given, str):
        return False
    return len(given) == 3 and all(_is_positive(number) for number in given)


def _is_positive(given: object) -> bool:
    return isinstance(given, int) and given >= 1
