"""fp16 with a loss scale: refused without cuda; on a CPU the scaling, as far as torch goes."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.tiny import tiny
from kit.training import CPU, never, run_in, trainer_of
from torch import Tensor, nn

from normbench.config.compose import compose
from normbench.errors import NormbenchError
from normbench.runs.files import read_run
from normbench.runs.standing import standing
from normbench.training import runtime as runtime_module
from normbench.training.engine import Stopped, Trainer
from normbench.training.resolve import Resolver, resolve
from normbench.training.runtime import Runtime
from normbench.training.scaling import LossScaler

HALF = Runtime(CPU, "fp16", channels_last=False, compile=False)
Run = Callable[..., tuple[int, str, str]]


class Overflowing(nn.Module):
    """A network whose gradients are infinite at the steps named, counted from 0."""

    def __init__(self, at: set[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 64, 10)
        self.at = at
        self.step = 0

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.linear(images.flatten(1))
        if self.training:
            if self.step in self.at:
                outputs.register_hook(lambda gradient: gradient * math.inf)
            self.step += 1
        return outputs


def train(trainer: Trainer) -> list[int]:
    """The number of skipped steps by epoch."""
    skipped = []
    while not trainer.is_done:
        skipped.append(trainer.train_epoch(lambda log: None, never).num_skipped)
    return skipped


# Refusals


def test_without_cuda_it_is_refused_in_a_line_that_names_bf16(normbench: Run) -> None:
    code, _, err = normbench("train", *tiny("runtime.device=cpu", "runtime.precision=fp16"))
    assert (code, err.count("\n")) == (2, 1)
    assert "runtime.precision=fp16: its loss scaling is for cuda, and this run is on cpu" in err
    assert "allowed: bf16" in err


def test_elsewhere_it_is_refused_on_a_cpu_and_taken_on_cuda() -> None:
    config = compose(tiny("runtime.precision=fp16"))
    with pytest.raises(NormbenchError, match="this run is on cpu; allowed: bf16"):
        Resolver("cpu").resolve(config)
    assert Resolver("cuda").resolve(config)[0].runtime.precision == "fp16"


def test_a_graph_cannot_skip_steps() -> None:
    given = tiny("runtime.precision=fp16", "runtime.cuda_graphs=true", "runtime.device=cuda")
    with pytest.raises(NormbenchError, match="set cuda_graphs=false or precision=bf16"):
        Resolver("cuda").resolve(compose(given))


def test_it_is_another_run_than_fp32_whose_id_stays() -> None:
    ids = set()
    for precision in ("fp32", "bf16", "fp16"):
        ids.add(compose(tiny(f"runtime.precision={precision}")).run_id)
    assert len(ids) == 3


# The scaling


def test_autocast_computes_in_fp16() -> None:
    with HALF.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float16


def test_a_scale_changes_no_step_that_does_not_overflow() -> None:
    """A power of two scales fp16's gradients without rounding: the loop without it is the same."""
    scaled, plain = (trainer_of("gn", runtime=HALF, epochs=1) for _ in range(2))
    plain.scaler = LossScaler(Runtime(CPU, "fp32", channels_last=False, compile=False))
    scaled.scaler.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    assert train(scaled) == train(plain) == [0]
    for one, other in zip(scaled.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optim", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("agc", [None, 0.1])
def test_a_step_with_infinite_gradients_is_skipped_counted_and_halves_the_scale(
    optim: str, agc: float | None
) -> None:
    trainer = trainer_of(optim=optim, model=Overflowing({2, 3, 9}), runtime=HALF, agc=agc)
    weights = []

    def on_step(log: object) -> None:
        weights.append(copy.deepcopy(trainer.model.linear.weight.detach()))

    skipped = []
    scale = trainer.scaler.scaler.get_scale()
    while not trainer.is_done:
        skipped.append(trainer.train_epoch(on_step, never).num_skipped)
    assert skipped == [2, 1, 0]
    assert trainer.scaler.scaler.get_scale() == scale / 8
    for step in range(1, 21):
        is_same = torch.equal(weights[step], weights[step - 1])
        assert is_same == (step in {2, 3, 9})
        assert weights[step].isfinite().all()


def test_clipping_sees_gradients_without_the_scale() -> None:
    """Lengths are those of the weights: with the scale in them every gradient would be clipped."""
    clipped, free = (
        trainer_of("gn", runtime=HALF, epochs=1, agc=agc, lr=1e-3) for agc in (1e4, None)
    )
    train(clipped)
    train(free)
    for one, other in zip(clipped.model.parameters(), free.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 7, 10])
def test_resumed_it_goes_on_bit_for_bit_with_scale_and_count(stop_at: int) -> None:
    def new() -> Trainer:
        return trainer_of(optim="adam", model=Overflowing({2, 3, 9}), runtime=HALF, augment=True)

    whole, first, resumed = (new() for _ in range(3))
    for trainer in (first, resumed):
        trainer.model.load_state_dict(whole.model.state_dict())
    expected = train(whole)
    skipped = []
    with suppress(Stopped):
        while True:
            result = first.train_epoch(lambda log: None, lambda: first.step == stop_at)
            skipped.append(result.num_skipped)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    resumed.model.step = stop_at  # type: ignore[assignment]
    assert skipped + train(resumed) == expected
    assert resumed.scaler.scaler.state_dict() == whole.scaler.scaler.state_dict()
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_it_a_checkpoint_is_as_before() -> None:
    assert "scaler" not in trainer_of().state_dict()
    with pytest.raises(KeyError):
        trainer_of(runtime=HALF).load_state_dict(trainer_of().state_dict())


def test_a_run_tells_its_skipped_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "check_fp16", lambda device: None)
    outcome = run_in(tmp_path, "runtime.device=cpu", "runtime.precision=fp16")
    files = read_run(outcome.path)
    assert standing(outcome.path, files).state == "done"
    assert len(files.metrics["skipped_steps"]) == 2
    assert "skipped_steps" not in read_run(run_in(tmp_path).path).metrics


@pytest.mark.gpu
def test_on_a_gpu_a_run_learns_and_resumes(tmp_path: Path) -> None:
    outcome = run_in(tmp_path, "runtime.device=cuda", "runtime.precision=fp16", "epochs=4")
    assert (outcome.state, math.isfinite(outcome.metrics["test_loss"])) == ("done", True)
    cuda = Runtime(torch.device("cuda"), "fp16", channels_last=False, compile=False)
    scaler: Any = LossScaler(cuda)
    assert scaler.scaler.is_enabled()
    config, _ = resolve(compose(tiny("runtime.device=cuda", "runtime.precision=fp16")))
    assert config.runtime.precision == "fp16"
