"""The norms of any network: where they stand, on which shape, and what stands around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normbench.errors import NormbenchError, first_line
from normbench.models.exchange.kinds import (
    KNOWN,
    inherent_refusal,
    is_norm,
    is_scripted_norm,
    is_unknown_norm,
    own_activation,
)
from normbench.models.exchange.tracing import Neighbours, Traced, trace
from normbench.models.sites import Site
from normbench.seeds import stream


@dataclass(frozen=True)
class FoundNorm:
    """A norm of a network, in the order in which images reach them.

    name: the qualified name, such as layer1.0.bn1.
    shape: (c, *places) of its input.
    around: what feeds it and what follows it; nothing where the network cannot be traced.
    refusal: why it can be exchanged for no norm, or None.
    """

    name: str
    module: nn.Module
    shape: Site
    around: Neighbours
    refusal: str | None

    @property
    def activation(self) -> str | None:
        """The activation inside the norm, or the one that alone follows it."""
        inside = own_activation(self.module)
        if inside is not None:
            return type(inside).__name__
        return self.around.activation.kind if self.around.activation else None


@dataclass(frozen=True)
class Found:
    """The norms of a network on feature maps; `remarks` are for people.

    traced: None where torch.fx fails. least_batch: the fewest images on which the norms that are
    left in their places can train.
    """

    norms: tuple[FoundNorm, ...]
    traced: Traced | None
    remarks: tuple[str, ...] = field(default=())
    least_batch: int = 1


def find(model: nn.Module, image_shape: Sequence[int]) -> Found:
    """Finds the norms that images of shape (3, h, w) reach; the model stays as it is.

    A blank image runs through the model in evaluation mode, and two in training mode where some
    norm is reached in training alone; statistics are put back.

    A norm on features (n, c), such as a BatchNorm1d between linear layers, is left as it is.

    Raises NormbenchError where torch.jit has compiled a norm, where the network has none that is
    known and stands on a feature map, and where it cannot take such images.
    """
    names = {module: name for name, module in model.named_modules()}
    for module, name in names.items():
        if is_scripted_norm(module):
            raise NormbenchError(
                f"{name or 'the network'}: a norm inside a part that torch.jit has compiled "
                "cannot be exchanged: exchange first, compile then"
            )
    known = [module for module in names if is_norm(module)]
    if not known:
        raise NormbenchError(
            f"nothing to exchange: {type(model).__name__} has no norm that is known; "
            f"known are {KNOWN}"
        )
    shapes = _shapes(model, known, image_shape)
    traced, remarks = _traced(model)
    norms = []
    of_features = [module for module, found in shapes.items() if {*map(len, found)} == {1}]
    for module in of_features:
        del shapes[module]
    if of_features and not shapes:
        raise NormbenchError(
            f"nothing to exchange: the norms of {type(model).__name__} stand on features (n, c) "
            "and on no feature map (n, c, h, w)"
        )
    for module, found in shapes.items():
        around = traced.neighbours.get(module) if traced else None
        refusal = inherent_refusal(module, found[0])
        if len(found) > 1:
            refusal = f"it is used {len(found)} times"
        norms.append(FoundNorm(names[module], module, found[0], around or Neighbours(), refusal))
    reached = {*shapes, *of_features}
    unreached = [names[module] for module in known if module not in reached]
    unknown = [name for name, module in model.named_modules() if is_unknown_norm(name, module)]
    if unreached:
        remarks.append(f"left, since no image reaches them: {', '.join(unreached)}")
    if of_features:
        told = ", ".join(f"{names[module]} ({type(module).__name__})" for module in of_features)
        remarks.append(f"left, since they stand on features (n, c) and on no feature map: {told}")
    if unknown:
        remarks.append(f"left, since they are no norms that are known: {', '.join(unknown)}")
    takes_batch = any(isinstance(module, _BatchNorm) for module in of_features)
    return Found(tuple(norms), traced, tuple(remarks), least_batch=2 if takes_batch else 1)


def _traced(model: nn.Module) -> tuple[Traced | None, list[str]]:
    """The model's calls in training, or None with a remark on what is then unknown."""
    try:
        with in_mode(model, training=True):
            return trace(model), []
    except Exception as error:
        return None, [
            f"torch.fx cannot trace the network ({first_line(error)}): its norms are known by "
            "its modules alone, without what feeds or follows them"
        ]


def _shapes(
    model: nn.Module, norms: list[nn.Module], image_shape: Sequence[int]
) -> dict[nn.Module, list[Site]]:
    """The shapes that reach each norm, one for each call, in forward order."""
    shapes: dict[nn.Module, list[Site]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes.setdefault(module, []).append(tuple(output.shape[1:]))

    hooks = [module.register_forward_hook(record) for module in norms]
    try:
        run_images(model, image_shape, training=False)
        if len(shapes) < len(norms):
            in_evaluation = dict(shapes)
            shapes.clear()
            run_images(model, image_shape, training=True)
            shapes |= {key: value for key, value in in_evaluation.items() if key not in shapes}
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def run_images(
    model: nn.Module, image_shape: Sequence[int], *, training: bool, noise: bool = False
) -> object:
    """What the model makes of an image, blank or of noise; its mode and buffers are put back.

    In training there are two images. Raises NormbenchError where the model raises.
    """
    like = next(model.parameters(), torch.zeros(()))
    images = torch.zeros(2 if training else 1, *image_shape)
    if noise:
        images = torch.randn(images.shape, generator=stream(0, "exchange"))
    buffers = {}
    if training:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), in_mode(model, training):
            return model(images.to(like.device, like.dtype))
    except Exception as error:
        shape = "x".join(map(str, image_shape))
        raise NormbenchError(
            f"{type(model).__name__} cannot take images of {shape}: {first_line(error)}"
        ) from error
    finally:
        for name, buffer in buffers.items():
            model.get_buffer(name).copy_(buffer)


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode; afterwards every module is in the mode that it had."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before.items():
            module.training = was_training
