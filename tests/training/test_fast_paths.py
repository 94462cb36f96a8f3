"""Every fast path against the plain path: 50 steps and an evaluation, to rounding.

CUDA graphs are simulated: torch's tracer records the step. A recording keeps operations and
addresses of tensors, as a graph does, and no Python.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import tiny
from kit.training import CPU, PLAIN, figures, split_of, trainer_of
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from normbench.config.compose import compose
from normbench.timing.trial import trial
from normbench.training.build import runtime_of
from normbench.training.capture import WARM_UP_CALLS, Captured
from normbench.training.engine import Stopped, Trainer
from normbench.training.optim import schedule
from normbench.training.resolve import resolve
from normbench.training.runtime import Runtime

FOUR = ("bn", "ln", "in", "gn")
# In the quick tier the norm with most state, then the rest.
four_norms = pytest.mark.parametrize(
    "norm", ["bn", *(pytest.param(norm, marks=pytest.mark.slow) for norm in FOUR[1:])]
)
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"
)


def augmented(runtime: Runtime, norm: str, optim: str = "adam", **given: Any) -> Trainer:
    """84 images in batches of 8: ten full batches an epoch, then a batch of 4."""
    settings: dict[str, Any] = {"lr": 1e-2, "epochs": 5, "schedule": schedule("cosine", 0.1)}
    settings |= {"split": split_of(84), **given}
    return trainer_of(norm, optim, runtime=runtime, augment=True, **settings)


# Layout, compilation, precision


@pytest.mark.parametrize("norm", FOUR)
@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_channels_last_gives_the_losses_of_the_plain_path(norm: str, batch_size: int) -> None:
    runtime = Runtime(CPU, "fp32", channels_last=True, compile=False)
    trainer = augmented(runtime, norm, batch_size=batch_size, max_steps=50)
    weights = [parameter for parameter in trainer.model.parameters() if parameter.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    expected = figures(augmented(PLAIN, norm, batch_size=batch_size, max_steps=50))
    np.testing.assert_allclose(figures(trainer), expected, rtol=2e-3, atol=1e-5)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_compiled_machine_code_gives_the_losses_of_the_plain_path_over_50_steps(norm: str) -> None:
    compiled = Runtime(CPU, "fp32", channels_last=False, compile=True)
    # Full batches only: every shape costs many seconds of compilation.
    given = {"split": split_of(80), "max_steps": 50}
    expected = figures(augmented(PLAIN, norm, **given))
    found = figures(augmented(compiled, norm, **given))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)


@four_norms
def test_bf16_follows_the_losses_of_fp32_over_50_steps(norm: str) -> None:
    half = Runtime(CPU, "bf16", channels_last=False, compile=False)
    expected = np.array(figures(augmented(PLAIN, norm, max_steps=50))[:50])
    found = np.array(figures(augmented(half, norm, max_steps=50))[:50])
    assert np.abs(found - expected).max() < 0.05
    assert (found != expected).any(), "computed in fp32"


# CUDA graphs


@dataclass(frozen=True)
class Recording(Runtime):
    """A CPU with recorded steps, as on a GPU."""

    trainers: list[Trainer] = field(default_factory=list)
    recorded: list[torch.fx.GraphModule] = field(default_factory=list)

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        yield

    def capture(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        state = tensors_of(self.trainers[0])
        before = [tensor.detach().clone() for tensor in state]
        graph = make_fx(work)()
        # Tracing takes the step; capture on a GPU does not.
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
        self.recorded.append(graph)
        return graph


def tensors_of(trainer: Trainer) -> list[Tensor]:
    tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
    for state in trainer.optimizer.state.values():
        tensors += state.values()
    return [*tensors, *trainer.sums.totals.values(), trainer.sums.count]


def recording(norm: str, optim: str = "adam", **given: Any) -> tuple[Trainer, Recording]:
    runtime = Recording(CPU, "fp32", channels_last=False, compile=False, cuda_graphs=True)
    trainer = augmented(runtime, norm, optim, **given)
    runtime.trainers.append(trainer)
    return trainer, runtime


@four_norms
@pytest.mark.parametrize("optim", ["adam", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_recorded_step_gives_the_figures_of_the_plain_step(norm: str, optim: str) -> None:
    """Augmentation, learning rate and a short last batch change, although nothing is baked in."""
    trainer, runtime = recording(norm, optim)
    expected = figures(augmented(PLAIN, norm, optim))
    # A recorded Adam rounds otherwise than the plain one; in, whose gradients are nearly 0 on the
    # smallest maps, makes more of that. With SGD the two agree to the last bit.
    rtol = 2e-3 if (norm, optim) == ("in", "adam") else 1e-5
    np.testing.assert_allclose(figures(trainer), expected, rtol=rtol, atol=1e-7)
    assert len(runtime.recorded) == 1, "one graph: the short batch runs eagerly"


def test_a_recorded_step_of_several_batches_gives_the_figures_of_the_plain_step() -> None:
    trainer, _ = recording("gn", batch_size=4, accumulate=2, epochs=2)
    expected = figures(augmented(PLAIN, "gn", batch_size=4, accumulate=2, epochs=2))
    np.testing.assert_allclose(figures(trainer), expected, rtol=1e-5, atol=1e-7)


def test_a_recorded_run_that_was_stopped_goes_on_to_the_same_figures() -> None:
    (whole, _), (begun, _), (resumed, _) = (recording("bn", epochs=2) for _ in range(3))
    expected = figures(whole)
    with pytest.raises(Stopped):
        begun.train_epoch(lambda log: None, lambda: begun.step == 6)
    resumed.load_state_dict(begun.state_dict())
    assert resumed.step == 6
    assert figures(resumed) == expected[6:]


def test_work_runs_eagerly_in_the_warm_up_is_recorded_once_and_then_replayed() -> None:
    calls: list[int] = []

    def work(indices: Tensor) -> Tensor:
        calls.append(len(indices))
        return indices.sum()

    step = Captured(work, 3, recording("bn")[1])
    results = [step(torch.arange(3) + number).item() for number in range(WARM_UP_CALLS + 3)]
    assert results == [3 * number + 3 for number in range(WARM_UP_CALLS + 3)]
    assert calls == [3] * (WARM_UP_CALLS + 1)
    # Another size runs eagerly.
    assert step(torch.arange(2)).item() == 1
    assert calls[-1] == 2


# Trials


@pytest.mark.parametrize(
    "compiled", ["false", pytest.param("true", marks=[pytest.mark.slow, needs_compiler])]
)
def test_a_trial_takes_its_steps_in_training_mode(compiled: str) -> None:
    settings = tiny("model.widths=[2]", "batch_size=4", f"runtime.compile={compiled}")
    config, source = resolve(compose([*settings, "norm=bn", "runtime.device=cpu"]))
    with runtime_of(config) as runtime:
        ready = trial(config, source, runtime)
        running = dict(ready.trainer.model.named_buffers())
        before = {name: running[name].clone() for name in running if name.endswith("mean")}
        ready.take_step()
    assert ready.trainer.model.training
    assert before
    for name, mean in before.items():
        assert not torch.equal(running[name], mean)
