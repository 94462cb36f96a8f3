"""The contract of every norm, registered or the user's own: what training, resuming and comparing rely on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from normbench.certificates.probes import (
    IMAGE_CHANNELS,
    block_of,
    close,
    drawn,
    fresh,
    images,
    layer_of,
)
from normbench.models import Layers, materialize, models, norm_sites, unsupported
from normbench.norms import NormSpec
from normbench.norms.spec import Shape

SHAPE: Shape = (4, 16, 5, 3)
SHAPES: tuple[Shape, ...] = (
    SHAPE,
    (1, 16, 4, 4),
    (3, 16, 1, 1),
    (1, 16, 1, 1),
    (2, 3, 4, 4),
    (2, 1, 2, 2),
)
STEPS = 20

Check = Callable[[NormSpec], None]


class Broken(Exception):
    """What of the contract does not hold, in one line."""


def broken(spec: NormSpec) -> Iterator[tuple[str, str | None]]:
    """Every check in a sentence, and what is wrong with it, or None where it holds.

    An error that the norm's code raises is what is wrong. Raises Broken for a norm that refuses every network.
    """
    if reason := spec.refuse(SHAPE):
        raise Broken(reason)
    for check in CHECKS:
        sentence = (check.__doc__ or "").rstrip(".")
        try:
            check(spec)
        except Exception as error:
            line = str(error).partition("\n")[0]
            yield sentence, line if isinstance(error, Broken) else f"{type(error).__name__}: {line}"
        else:
            yield sentence, None


def keeps_shape_and_type(spec: NormSpec) -> None:
    """The output has the input's shape and type, in training and in evaluation."""
    for dtype in (torch.float32, torch.float64):
        for training in (True, False):
            y = fresh(layer_of(spec, SHAPE, dtype), drawn(*SHAPE, dtype=dtype), training=training)
            _demand(
                (y.shape, y.dtype) == (SHAPE, dtype),
                f"{dtype} of {SHAPE} becomes {y.dtype} of {tuple(y.shape)}",
            )


def stays_finite(spec: NormSpec) -> None:
    """Outputs, gradients and state are finite, also of constant and of large inputs."""
    for x in (drawn(*SHAPE), torch.zeros(SHAPE).double(), 1e4 + drawn(*SHAPE)):
        layer, given = layer_of(spec, SHAPE), x.clone().requires_grad_()
        layer(given).square().sum().backward()
        assert given.grad is not None
        values = [given.grad, fresh(layer, x, training=False), *layer.state_dict().values()]
        _demand(
            all(bool(value.isfinite().all()) for value in values),
            f"not of inputs like {float(x.flatten()[0]):g}",
        )


def gradients_are_right(spec: NormSpec) -> None:
    """Gradients are those of finite differences, for the input, the weights and all other parameters."""
    block, x = block_of(spec, (2, 8, 3, 3)), images((2, 8, 3, 3)).requires_grad_()
    names = [name for name, _ in block.named_parameters()]
    buffers = {name: value.clone() for name, value in block.named_buffers()}

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True)) | {
            name: value.clone() for name, value in buffers.items()
        }
        y: Tensor = functional_call(block, state, (x,))
        return y

    values = [parameter.detach().clone().requires_grad_() for parameter in block.parameters()]
    torch.autograd.gradcheck(forward, (x, *values), eps=1e-4, atol=2e-3, rtol=2e-3, fast_mode=True)


def every_parameter_learns(spec: NormSpec) -> None:
    """A gradient reaches every parameter."""
    block = block_of(spec, SHAPE)
    (block(images(SHAPE)) * drawn(*SHAPE, seed=1)).sum().backward()
    for name, parameter in block.named_parameters():
        _demand(parameter.grad is not None, f"none reaches {name}")


def scope_is_as_declared(spec: NormSpec) -> None:
    """The declared scope is what one changed value reaches in training."""
    layer, x = layer_of(spec, SHAPE), drawn(*SHAPE)
    others: list[Tensor] = []
    for channel in (1, 14):  # a norm may treat channels differently
        changed = x.clone()
        changed[0, channel, 1, 1] += 3
        reached = (fresh(layer, changed) - fresh(layer, x)).abs() > 1e-12
        reached[0, channel, 1, 1] = False
        others.append(reached)
    found = (
        "batch"
        if any(o[1:].any() for o in others)
        else "sample"
        if any(o.any() for o in others)
        else "none"
    )
    declared = {"weight": "none", "undeclared": found}.get(spec.scope, spec.scope)
    _demand(found == declared, f"declared {spec.scope}, found {found}")


def evaluates_samples_alone(spec: NormSpec) -> None:
    """In evaluation a sample gives alone what it gives within a batch, and nothing is changed by it."""
    block, x = block_of(spec, SHAPE), images(SHAPE)
    block(x)
    block.eval()
    before = {name: value.clone() for name, value in block.state_dict().items()}
    with torch.no_grad():
        together = block(x)
        alone = torch.cat([block(sample[None]) for sample in x])
    _demand(
        close(together, alone, 1e-6),
        f"differs by up to {float((together - alone).abs().max()):.3g}",
    )
    _demand(
        all(torch.equal(value, before[name]) for name, value in block.state_dict().items()),
        "it changes state",
    )


def refuses_what_fails(spec: NormSpec) -> None:
    """What is refused fails or forgets its input in training, and nothing else does."""
    for shape in SHAPES:
        reason = spec.refuse(shape)
        _demand(reason is None or "\n" not in reason, "a reason is one line")
        try:
            layers = [layer_of(spec, shape) for _ in range(2)]
            one, other = (layer(drawn(*shape, seed=seed)) for seed, layer in enumerate(layers))
            state = [value for layer in layers for value in layer.state_dict().values()]
            works = not close(one, other, 1e-6) and all(
                bool(v.isfinite().all()) for v in (one, other, *state)
            )
        except Exception as error:
            works = False
            _demand(
                reason is not None,
                f"shape {shape} is not refused: {type(error).__name__}: {error}".partition("\n")[0],
            )
        _demand(
            works == (reason is None),
            f"shape {shape}: {'works' if works else 'fails'}, refusal: {reason}",
        )


def saves_and_loads(spec: NormSpec) -> None:
    """A new layer that loads the state of a trained one evaluates as it does."""
    block = block_of(spec, SHAPE)
    for seed in range(3):
        block(images(SHAPE, seed=seed))
    again = block_of(spec, SHAPE)
    again.load_state_dict(copy.deepcopy(block.state_dict()))
    x = images(SHAPE, seed=3)
    _demand(
        torch.equal(fresh(block, x, training=False), fresh(again, x, training=False)), "it does not"
    )


def repeats_itself(spec: NormSpec) -> None:
    """Made and called twice it gives the same bits, so that a run can be repeated and resumed."""
    x = images(SHAPE)
    block = block_of(spec, SHAPE)
    _demand(
        torch.equal(fresh(block, x), fresh(block_of(spec, SHAPE), x)),
        "two layers of the same seed differ",
    )
    _demand(
        torch.equal(fresh(block, x), fresh(block, x)),
        "two calls with the same input and state differ",
    )


def knows_no_layout(spec: NormSpec) -> None:
    """The memory layout changes nothing."""
    layer, x = layer_of(spec, SHAPE), drawn(*SHAPE)
    _demand(
        close(fresh(layer, x), fresh(layer, x.to(memory_format=torch.channels_last)), 1e-6),
        "channels_last differs",
    )


def computes_in_half(spec: NormSpec) -> None:
    """Under bf16 autocast it computes and learns, and its parameters and state stay in float32."""
    block = block_of(spec, SHAPE, torch.float32)
    for seed in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            y = block(images(SHAPE, seed=seed).float())
        y.float().square().sum().backward()
    values = [
        *block.state_dict().values(),
        *(p.grad for p in block.parameters() if p.grad is not None),
    ]
    _demand(all(bool(value.isfinite().all()) for value in values), "not finite")
    _demand(torch.bfloat16 not in {value.dtype for value in values}, "something is kept in bf16")


def trains(spec: NormSpec) -> None:
    """It trains a small NormResNet for 20 steps at batch 8 and at batch 1 with finite losses, or refuses to."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, IMAGE_CHANNELS, 16, 16, generator=generator)
    labels = torch.arange(8)

    def build(layers: Layers) -> nn.Module:
        return models.build("normresnet", layers, 10, options={"widths": (8, 16)})

    for batch_size in (8, 1):
        if unsupported(spec, norm_sites(build, x.shape[1:]), batch_size):
            continue
        model = materialize(build(Layers(spec, seed=0)), x.shape[1:])
        for step in range(STEPS):
            chosen = (torch.arange(batch_size) + step * batch_size) % len(x)
            loss = cross_entropy(model(x[chosen]), labels[chosen])
            _demand(
                bool(loss.isfinite()),
                f"the loss of step {step} at batch {batch_size} is {loss.item()}",
            )
            loss.backward()
            _descend(model, rate=0.01)


def _descend(model: nn.Module, rate: float) -> None:
    """A step of plain gradient descent, without torch.optim, whose first use imports torch._dynamo for seconds."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=rate)
                parameter.grad = None


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


CHECKS: tuple[Check, ...] = (
    keeps_shape_and_type,
    stays_finite,
    gradients_are_right,
    every_parameter_learns,
    scope_is_as_declared,
    evaluates_samples_alone,
    refuses_what_fails,
    saves_and_loads,
    repeats_itself,
    knows_no_layout,
    computes_in_half,
    trains,
)
