"""The contract of every norm, registered or own: what training, resuming and comparing rely on.

`certificates.breaches` tries a norm on the checks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

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
STEPS = 20

# A check of a norm on inputs of a shape that it accepts.
Check = Callable[[NormSpec, Shape], None]


class Broken(Exception):
    """A demand of the contract that does not hold; the message is one line."""


def one_line(error: Exception) -> str:
    """The type and the first line of an error in a norm's code."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def keeps_shape_and_type(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """The output has the input's shape and type, in training and in evaluation."""
    for dtype in (torch.float32, torch.float64):
        layer, x = layer_of(spec, shape, dtype), drawn(*shape, dtype=dtype)
        for training in (True, False):
            y = fresh(layer, x, training=training)
            _demand(y.shape == x.shape, f"{tuple(x.shape)} becomes {tuple(y.shape)}")
            _demand(y.dtype == dtype, f"{dtype} becomes {y.dtype}")


def stays_finite(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """Outputs, gradients and state are finite, also of constant and of large inputs."""
    for x in (drawn(*shape), torch.zeros(shape).double(), 1e4 + drawn(*shape)):
        layer, x = layer_of(spec, shape), x.requires_grad_()
        layer(x).square().sum().backward()
        assert x.grad is not None
        values = [x.grad, fresh(layer, x, training=False), *layer.state_dict().values()]
        _demand(_finite(values), f"not of inputs like {float(x.detach().flatten()[0]):g}")


def gradients_are_right(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """Gradients are those of finite differences, where the norm declares no backward of its own."""
    if spec.has_own_gradient:
        return
    small = (2, shape[1], 3, 3)
    block, x = block_of(spec, small), images(small).requires_grad_()
    parameters = dict(block.named_parameters())

    def forward(x: Tensor, *values: Tensor) -> Tensor:
        # Each call starts from the same buffers, or finite differences would see them move.
        state = {name: value.clone() for name, value in block.named_buffers()}
        state |= zip(parameters, values, strict=True)
        y: Tensor = functional_call(block, state, (x,))
        return y

    values = [parameter.detach().requires_grad_() for parameter in parameters.values()]
    torch.autograd.gradcheck(forward, (x, *values), eps=1e-4, atol=2e-3, rtol=2e-3, fast_mode=True)


def every_parameter_learns(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """A gradient reaches every parameter."""
    block = block_of(spec, shape)
    (block(images(shape)) * drawn(*shape, seed=1)).sum().backward()
    missing = [name for name, parameter in block.named_parameters() if parameter.grad is None]
    _demand(not missing, f"none reaches {', '.join(missing)}")


def scope_is_as_declared(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """The declared scope is how far a changed value reaches in training."""
    layer, x = layer_of(spec, shape), drawn(*shape)
    found = "none"
    for channel in (1, shape[1] - 2):  # ibn treats the halves of the channels differently
        changed = x.clone()
        changed[0, channel, 1, 1] += 3
        reached = (fresh(layer, changed) - fresh(layer, x)).abs() > 1e-12
        reached[0, channel, 1, 1] = False
        if reached[1:].any():
            found = "batch"
        elif reached.any() and found == "none":
            found = "sample"
    declared = {"weight": "none", "undeclared": found}.get(spec.scope, spec.scope)
    _demand(found == declared, f"declared {spec.scope}, found {found}")


# Without gradients here and below: a layer that keeps the last batch's mean for a look could not be
# copied with the mean's graph.
@torch.no_grad()
def evaluates_samples_alone(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """In evaluation a sample alone gives its output within a batch."""
    block, x = block_of(spec, shape), images(shape)
    block(x)
    together = fresh(block, x, training=False)
    alone = torch.cat([fresh(block, sample[None], training=False) for sample in x])
    difference = float((together - alone).abs().max())
    _demand(close(together, alone, 1e-6), f"differs by up to {difference:.3g}")


@torch.no_grad()
def evaluates_without_a_trace(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """Evaluation changes no state."""
    block, x = block_of(spec, shape), images(shape)
    block(x)
    before = copy.deepcopy(block.state_dict())
    block.eval()
    _demand(torch.equal(block(x), block(x)), "the same batch again differs")
    changed = [key for key, value in block.state_dict().items() if not value.equal(before[key])]
    _demand(not changed, f"it changes {', '.join(changed)}")


def refuses_what_fails(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """Refused shapes, and no more shapes, fail in training or make the output ignore the input."""
    for near in (shape, *_around(shape[1])):
        refusal = spec.refuse(near)
        reason = refusal.reason if refusal else None
        _demand("\n" not in str(reason), "a reason is one line")
        try:
            outcome = "works" if _trains_on(spec, near) else "fails"
        except Exception as error:
            outcome = one_line(error)
        agrees = (outcome == "works") == (refusal is None)
        _demand(agrees, f"shape {near}: {outcome}, refusal: {reason}")


def _around(channels: int) -> tuple[Shape, ...]:
    """Shapes around which norms refuse: single samples, pixels and channels, odd channels."""
    return (1, channels, 4, 4), (3, channels, 1, 1), (1, channels, 1, 1), (2, 3, 4, 4), (2, 1, 2, 2)


def _trains_on(spec: NormSpec, shape: Shape) -> bool:
    """Whether outputs depend on the input, and outputs and state are finite."""
    first, second = layer_of(spec, shape), layer_of(spec, shape)
    y, other = first(drawn(*shape, seed=0)), second(drawn(*shape, seed=1))
    state = [*first.state_dict().values(), *second.state_dict().values()]
    return not close(y, other, 1e-6) and _finite([y, other, *state])


@torch.no_grad()
def saves_and_loads(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """A new layer that loads the state of a trained layer evaluates to the same bits."""
    block = block_of(spec, shape)
    for seed in range(3):
        block(images(shape, seed=seed))
    again = block_of(spec, shape)
    again.load_state_dict(copy.deepcopy(block.state_dict()))
    x = images(shape, seed=3)
    before, after = fresh(block, x, training=False), fresh(again, x, training=False)
    _demand(torch.equal(before, after), "it does not")


def repeats_itself(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """Two layers of a seed, and two calls of a layer, give the same bits, as resuming demands."""
    x = images(shape)
    block = block_of(spec, shape)
    y = fresh(block, x)
    _demand(torch.equal(y, fresh(block_of(spec, shape), x)), "two layers of the same seed differ")
    _demand(torch.equal(y, fresh(block, x)), "two calls with the same input and state differ")


def knows_no_layout(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """The memory layout of the input does not change the output."""
    layer, x = layer_of(spec, shape), drawn(*shape)
    channels_last = x.to(memory_format=torch.channels_last)
    _demand(close(fresh(layer, x), fresh(layer, channels_last), 1e-6), "channels_last differs")


def computes_in_half(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """Under bf16 autocast the norm gives bf16 and learns; parameters and state stay in float32."""
    block = block_of(spec, shape, torch.float32)
    for seed in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            y = block(images(shape, seed=seed).float())
            evaluated = fresh(block, images(shape).float(), training=False)
        for found in (y.dtype, evaluated.dtype):
            _demand(found == torch.bfloat16, f"it gives {found}")
        y.float().square().sum().backward()
    values = list(block.state_dict().values())
    values += [p.grad for p in block.parameters() if p.grad is not None]
    _demand(_finite(values), "not finite")
    _demand(torch.bfloat16 not in {value.dtype for value in values}, "something is kept in bf16")


def trains(spec: NormSpec, shape: Shape = SHAPE) -> None:
    """A small NormResNet trains for 20 steps with finite losses at batch 8 and 1, or is refused."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, IMAGE_CHANNELS, 16, 16, generator=generator)
    labels = torch.arange(8)
    widths = (shape[1], 2 * shape[1])

    def build(layers: Layers) -> nn.Module:
        return models.build("normresnet", layers, 10, options={"widths": widths})

    for batch_size in (8, 1):
        if unsupported(spec, norm_sites(build, x.shape[1:]), batch_size):
            continue
        model = materialize(build(Layers(spec, seed=0)), x.shape[1:])
        for step in range(STEPS):
            chosen = (torch.arange(batch_size) + step * batch_size) % len(x)
            loss = cross_entropy(model(x[chosen]), labels[chosen])
            message = f"the loss of step {step} at batch {batch_size} is {loss.item()}"
            _demand(_finite([loss]), message)
            model.zero_grad()
            loss.backward()
            # torch.optim would import torch._dynamo, which takes seconds.
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.data.sub_(parameter.grad, alpha=0.01)


def _finite(values: list[Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in values)


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
    evaluates_without_a_trace,
    refuses_what_fails,
    saves_and_loads,
    repeats_itself,
    knows_no_layout,
    computes_in_half,
    trains,
)
