"""Training loops timed in turns: equal training, steps on request, processes that end."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_post_hook

from normbench.config.compose import compose
from normbench.errors import RunFailure
from normbench.models import Layers, models
from normbench.norms import norms
from normbench.timing import loops, other_loops
from normbench.training.optim import optimizers, without_compiler_guards

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_training.py"


class Enough(Exception):
    """Ends a loop."""


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps an epoch at batch size 4, and an Adam that does not import torch._dynamo."""
    monkeypatch.setattr(other_loops, "NUM_IMAGES", 6)
    monkeypatch.setattr(torch.optim, "Adam", without_compiler_guards(torch.optim.Adam))


def losses(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(3):
        loss = cross_entropy(model(torch.randn(4, 3, 32, 32, generator=draw)), torch.arange(4))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("norm", other_loops.NORMS)
def test_the_plain_network_and_optimizer_train_as_normbench_s_do(norm: str) -> None:
    config = compose([f"norm={norm}"])
    spec = norms.build(norm, options=config.norm.options)
    ours = models.build("normresnet", Layers(spec, 0), 10)
    plain = other_loops.plain_normresnet(norm)
    state = zip(plain.state_dict(), ours.state_dict().values(), strict=True)
    plain.load_state_dict(dict(state))
    adam = optimizers.build("adam", options=config.optim.options)(
        [{"params": [*ours.parameters()]}], config.optim.lr
    )
    expected = losses(plain, torch.optim.Adam(plain.parameters(), lr=1e-3))
    assert losses(ours, adam) == pytest.approx(expected, rel=1e-4)
    assert expected[2] != expected[0]


# Lightning and torchvision take seconds to import.
SLOW_TO_IMPORT = [pytest.param(name, marks=pytest.mark.slow) for name in ("tutorial", "lightning")]
NEEDS_COMPILER = pytest.param("by hand", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["in memory", "normbench", *SLOW_TO_IMPORT, NEEDS_COMPILER])
def test_a_loop_tells_every_step_epoch_after_epoch(name: str) -> None:
    if name == "lightning":
        pytest.importorskip("lightning", reason="belongs to the extra `bench`, not to `dev`")
    taken: list[torch.optim.Optimizer] = []
    told: list[int] = []

    def on_step() -> None:
        told.append(len(taken))
        if len(told) == 3:
            raise Enough

    hook = register_optimizer_step_post_hook(lambda optimizer, *_: taken.append(optimizer))
    try:
        with pytest.raises(Enough):
            loops.loops()[name][0]("gn", 4, on_step)
    finally:
        hook.remove()
    assert told == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("norm", other_loops.NORMS)
def test_keras_s_network_is_the_plain_one(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="belongs to the extra `bench`, not to `dev`")
    plain = other_loops.plain_normresnet(norm).eval()
    with keras.device("cpu"):
        model = other_loops.keras_normresnet(norm)
        weights = []
        for layer in plain:
            found = [*layer.parameters()]
            if isinstance(layer, torch.nn.Conv2d):
                found = [layer.weight.permute(2, 3, 1, 0)]
            if isinstance(layer, torch.nn.Linear):
                found = [layer.weight.T, layer.bias]
            if isinstance(layer, torch.nn.BatchNorm2d):
                found += [layer.running_mean, layer.running_var]
            weights += [tensor.detach().numpy() for tensor in found]
        model.set_weights(weights)
        images = torch.randn(2, 3, 32, 32)
        logits = model(images.numpy(), training=False)
    assert torch.allclose(logits.cpu(), plain(images), atol=1e-4)


@pytest.mark.slow
def test_keras_tells_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="belongs to the extra `bench`, not to `dev`")
    optimizers: list[object] = []
    told: list[int] = []
    make = keras.optimizers.Adam

    def kept(rate: float) -> object:
        optimizers.append(make(rate))
        return optimizers[0]

    def on_step() -> None:
        told.append(int(optimizers[0].iterations))  # type: ignore[attr-defined]
        if len(told) == 3:
            raise Enough

    monkeypatch.setattr(keras.optimizers, "Adam", kept)
    with pytest.raises(Enough):
        other_loops.keras("gn", 4, on_step)
    assert told == [1, 2, 3]


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_package_takes_part_where_it_is_installed(
    is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = object() if is_installed else None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert {"lightning", "keras"}.isdisjoint(loops.loops()) != is_installed


class Taking:
    """A process whose steps take so many seconds each; begins are counted at each end."""

    begun = 0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def begin(self, steps: int) -> None:
        type(self).begun += 1
        self.steps = steps

    def end(self) -> float:
        assert self.begun == 2
        return self.steps * self.seconds


def test_a_step_of_either_of_two_runs_counts_as_one() -> None:
    assert loops.take([Taking(2.0), Taking(4.0)], 5) == 5 * 3.0 / 2  # type: ignore[list-item]


def test_a_loop_takes_the_steps_that_are_asked_for_and_ends_with_the_pipe() -> None:
    here, there = multiprocessing.Pipe()
    taken: list[tuple[str, int]] = []

    def endless(norm: str, batch_size: int, on_step: Callable[[], None]) -> None:
        while True:
            taken.append((norm, batch_size))
            on_step()

    thread = threading.Thread(target=loops.serve, args=(there, endless, "bn", 8), daemon=True)
    thread.start()
    for steps, in_all in [(3, 3), (1, 4)]:
        here.send(steps)
        assert here.recv() > 0
        assert taken == [("bn", 8)] * in_all
    here.close()
    thread.join(10)
    assert not thread.is_alive()


def no_memory(norm: str, batch_size: int, on_step: Callable[[], None]) -> None:
    """Fails, as a loop without memory for its images does."""
    raise MemoryError("none left")


@pytest.mark.slow
def test_a_loop_that_fails_ends_the_comparison_with_its_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loops, "loops", lambda: {"tutorial": [no_memory]})
    with pytest.raises(RunFailure, match=r"^the loop 'tutorial' ended with exit code 1$"):
        next(loops.compare(["tutorial"], "bn", 4, 1))
    assert "MemoryError: none left" in capfd.readouterr().err


COMPARED = ["tutorial", "normbench", "normbench, 2 runs, 1 thread"]


@pytest.mark.slow
def test_the_script_compares_loops(tmp_path: Path) -> None:
    folder = tmp_path / "found"
    options = ["--norms", "in", "--batches", "2", "--rounds", "3", "--processes", "2"]
    options += ["--loops", *COMPARED[1:], "-o", str(folder)]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options], capture_output=True, text=True, check=True
    )
    rounds = pd.read_csv(folder / "training.csv")
    assert (folder / "training.md").read_text() == done.stdout
    assert (folder / "training.svg").read_text().count("tutorial") >= 1
    assert set(rounds["loop"]) == set(COMPARED)
    assert (rounds["seconds"] > 0).all()
    for _, group in rounds.groupby("loop"):
        assert [*group[["process", "round"]].itertuples(index=False, name=None)] == [
            (1, 0),
            (1, 1),
            (2, 0),
        ]
    for name in COMPARED:
        assert f"| {name} " in done.stdout
    first, last = (rounds[rounds["process"] == process]["loop"] for process in (1, 2))
    assert [*first][:3] != [*last]
    assert "Median of 3 rounds" in done.stdout
    assert "of 2 processes, without an interval" in done.stdout


@pytest.mark.slow
def test_the_parts_of_a_step_are_timed() -> None:
    script = SCRIPT.parent / "bench_step.py"
    options = ["--batch", "2", "--norm", "gn", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, script, *options], capture_output=True, text=True, check=True
    )
    for part in ("256 to 512 channels: weight gradient, product", "GroupNorm", "whole step"):
        assert part in done.stdout
