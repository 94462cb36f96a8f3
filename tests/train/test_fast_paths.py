"""Every fast path against the plain one: 50 steps and an evaluation, to rounding; and what a CUDA graph would record.

There is no GPU in these tests: the step is recorded by torch's tracer instead, which, as a graph does, keeps the
operations and the places of the tensors, and none of the Python around them.
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
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from normbench.config.compose import compose
from normbench.data import sources
from normbench.data.augment import FlipAndCrop
from normbench.data.loader import DeviceLoader
from normbench.data.source import Split
from normbench.models import Layers, models
from normbench.norms import norms
from normbench.timing.trial import trial
from normbench.train.build import runtime_of
from normbench.train.capture import WARM_UP, Captured
from normbench.train.engine import StepLog, Stopped, Trainer, evaluate
from normbench.train.optim import optimizers, parameter_groups, schedule
from normbench.train.resolve import data_home
from normbench.train.runtime import Runtime

CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)
PLAIN = Runtime(CPU, "fp32", channels_last=False, compile=False)
FOUR = ("bn", "ln", "in", "gn")


@dataclass(frozen=True)
class Recording(Runtime):
    """A CPU that records a step instead of doing it, as a GPU does."""

    trainers: list[Trainer] = field(default_factory=list)
    recorded: list[torch.fx.GraphModule] = field(default_factory=list)

    @contextmanager
    def beside(self) -> Iterator[None]:
        yield

    def capture(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        state = tensors_of(self.trainers[0])
        before = [tensor.detach().clone() for tensor in state]
        graph = make_fx(work)()  # it works while it records: put back
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
        self.recorded.append(graph)
        return graph


def tensors_of(trainer: Trainer) -> list[Tensor]:
    of_optimizer = [value for state in trainer.optimizer.state.values() for value in state.values()]
    return [
        *trainer.model.parameters(),
        *trainer.model.buffers(),
        *of_optimizer,
        *vars(trainer.metrics).values(),
    ]


def trainer_of(
    where: Runtime, norm: str, *, batch_size: int = 8, epochs: int = 5, **given: Any
) -> Trainer:
    """84 images in batches of 8: ten full ones an epoch, and one of 4."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (84, 3, 8, 8), dtype=np.uint8)
    split = Split.of(images=images, labels=generator.integers(0, 10, 84))
    model = where.prepare(
        models.build("normresnet", Layers(norms.build(norm), 0), 10, options={"widths": (4, 8)})
    )
    optim = given.pop("optim", "adam")
    trainer = Trainer(
        model=model,
        optimizer=optimizers.build(optim)(parameter_groups(model), 1e-2),
        loader=DeviceLoader(
            split,
            mean=HALF,
            std=HALF,
            device=CPU,
            channels_last=where.channels_last,
            augment=FlipAndCrop(len(split), 0, CPU),
        ),
        runtime=where,
        lr=1e-2,
        seed=0,
        **{
            "batch_size": batch_size,
            "epochs": epochs,
            "log_every": 1,
            "schedule": schedule("cosine", 0.1),
        }
        | given,
    )
    if isinstance(where, Recording):
        where.trainers.append(trainer)
    return trainer


def figures(trainer: Trainer) -> list[float]:
    """Every step's loss, each epoch's mean and accuracy, then the evaluation."""
    found: list[float] = []

    def on_step(log: StepLog | None) -> None:
        assert log is not None
        found.append(log.loss)

    while not trainer.is_done:
        epoch = trainer.train_epoch(on_step, lambda: False)
        found += [epoch.loss, epoch.accuracy, epoch.num_images]
    return [*found, *evaluate(trainer.model, trainer.loader, trainer.runtime)]


@pytest.mark.parametrize("norm", FOUR)
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize(("channels_last", "onednn"), [(True, True), (False, False), (True, False)])
def test_layout_and_kernels_give_the_losses_of_the_plain_path_over_50_steps(
    norm: str, batch_size: int, channels_last: bool, onednn: bool
) -> None:
    other_way = Runtime(CPU, "fp32", channels_last=channels_last, compile=False, onednn=onednn)
    one, other = (
        trainer_of(where, norm, batch_size=batch_size, max_steps=50) for where in (PLAIN, other_way)
    )
    np.testing.assert_allclose(figures(other), figures(one), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("onednn", [True, False])
def test_a_step_has_its_kernels_both_ways_and_an_evaluation_those_of_before(onednn: bool) -> None:
    trainer = trainer_of(
        Runtime(CPU, "fp32", channels_last=False, compile=False, onednn=onednn), "bn", max_steps=1
    )
    told: list[object] = []

    def tell(module: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        told.append(torch.backends.mkldnn.enabled)
        if output.requires_grad:
            output.register_hook(lambda gradient: told.append(torch.backends.mkldnn.enabled))

    trainer.model.register_forward_hook(tell)
    figures(trainer)
    assert told == [onednn, onednn, True], "forward, backward, the evaluation"


def test_a_run_without_onednn_that_was_stopped_goes_on_to_the_same_bits() -> None:
    where = Runtime(CPU, "fp32", channels_last=False, compile=False, onednn=False)
    whole, begun, resumed = (trainer_of(where, "bn") for _ in range(3))
    expected = figures(whole)
    with pytest.raises(Stopped):
        begun.train_epoch(lambda log: None, lambda: begun.step == 6)
    resumed.load_state_dict(begun.state_dict())
    assert figures(resumed) == expected[6:]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_compiled_machine_code_gives_the_losses_of_the_plain_path_over_50_steps(norm: str) -> None:
    compiled = Runtime(CPU, "fp32", channels_last=False, compile=True)
    one, other = (trainer_of(where, norm, max_steps=50) for where in (PLAIN, compiled))
    np.testing.assert_allclose(figures(other), figures(one), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("norm", FOUR)
def test_bf16_follows_the_losses_of_fp32_over_50_steps(norm: str) -> None:
    half = Runtime(CPU, "bf16", channels_last=False, compile=False)
    one, other = (trainer_of(where, norm, max_steps=50) for where in (PLAIN, half))
    expected, found = np.array(figures(one)[:50]), np.array(figures(other)[:50])
    assert np.abs(found - expected).max() < 0.05
    assert (found != expected).any(), "it was not bf16"


@pytest.mark.parametrize("norm", FOUR)
@pytest.mark.parametrize("optim", ["adam", "sgd"])
def test_a_recorded_step_gives_the_figures_of_the_plain_one(norm: str, optim: str) -> None:
    """Over five epochs, with augmentation, a changing learning rate and a short last batch: nothing is baked in."""
    where = Recording(CPU, "fp32", channels_last=False, compile=False, cuda_graphs=True)
    recorded, plain = trainer_of(where, norm, optim=optim), trainer_of(PLAIN, norm, optim=optim)
    np.testing.assert_allclose(figures(recorded), figures(plain), rtol=1e-5, atol=1e-7)
    assert len(where.recorded) == 1, "one graph: the short batch takes the plain way"


def test_a_recorded_step_of_several_batches_gives_the_figures_of_the_plain_one() -> None:
    where = Recording(CPU, "fp32", channels_last=False, compile=False, cuda_graphs=True)
    recorded, plain = (trainer_of(one, "gn", batch_size=4, accumulate=2) for one in (where, PLAIN))
    np.testing.assert_allclose(figures(recorded), figures(plain), rtol=1e-5, atol=1e-7)


def test_a_recorded_run_that_was_stopped_goes_on_to_the_same_figures() -> None:
    def fresh() -> Trainer:
        return trainer_of(
            Recording(CPU, "fp32", channels_last=False, compile=False, cuda_graphs=True), "bn"
        )

    whole, begun, resumed = fresh(), fresh(), fresh()
    expected = figures(whole)
    with pytest.raises(Stopped):
        begun.train_epoch(lambda log: None, lambda: begun.step == 6)
    resumed.load_state_dict(begun.state_dict())
    assert resumed.step == 6
    found = figures(resumed)
    assert found == expected[6:]


def test_before_recording_the_work_is_done_as_it_is_and_then_never_again() -> None:
    calls: list[int] = []

    def work(indices: Tensor) -> Tensor:
        calls.append(len(indices))
        return indices.sum()

    where = Recording(CPU, "fp32", channels_last=False, compile=False, cuda_graphs=True)
    where.trainers.append(trainer_of(PLAIN, "bn"))
    step = Captured(work, 3, where)
    results = [step(torch.arange(3) + number).item() for number in range(WARM_UP + 3)]
    assert results == [3 * number + 3 for number in range(WARM_UP + 3)]
    assert calls == [3] * (WARM_UP + 1), "each time of the warm-up, and once to record"
    assert step(torch.arange(2)).item() == 1
    assert calls[-1] == 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_a_trial_takes_its_steps_in_training_mode(compiled: str) -> None:
    settings = [
        "data=synthetic",
        "data.num_train=64",
        "data.num_test=10",
        "model.widths=[2]",
        "batch_size=4",
    ]
    config = compose([*settings, "norm=bn", "runtime.device=cpu", f"runtime.compile={compiled}"])
    source = sources.build(
        "synthetic", data_home(config), options={"num_train": 64, "num_test": 10}
    )
    with runtime_of(config) as runtime:
        ready = trial(config, source, runtime)
        means = {
            name: buffer.clone()
            for name, buffer in ready.trainer.model.named_buffers()
            if "mean" in name
        }
        ready.take_step()
    assert ready.trainer.model.training
    assert means
    assert not any(
        torch.equal(dict(ready.trainer.model.named_buffers())[name], mean)
        for name, mean in means.items()
    )
