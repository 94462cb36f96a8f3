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
from normbench.timing import loops
from normbench.training.optim import optimizers, without_compiler_guards

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_training.py"


class Enough(Exception):
    """Ends a loop."""


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps an epoch at batch size 4, and an Adam that does not import torch._dynamo."""
    monkeypatch.setattr(loops, "NUM_IMAGES", 6)
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


@pytest.mark.parametrize("norm", loops.NORMS)
def test_the_plain_network_and_optimizer_train_as_normbench_s_do(norm: str) -> None:
    config = compose([f"norm={norm}"])
    spec = norms.build(norm, options=config.norm.options)
    ours = models.build("normresnet", Layers(spec, 0), 10)
    plain = loops.plain_normresnet(norm)
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


@pytest.mark.parametrize("name", ["in memory", "normbench", *SLOW_TO_IMPORT])
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
            loops.loops()[name]("gn", 4, on_step)
    finally:
        hook.remove()
    assert told == [1, 2, 3]


@pytest.mark.parametrize("is_installed", [True, False])
def test_lightning_takes_part_where_it_is_installed(
    is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = object() if is_installed else None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert ("lightning" in loops.loops()) == is_installed


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
    monkeypatch.setattr(loops, "loops", lambda: {"tutorial": no_memory})
    with pytest.raises(RunFailure, match=r"^the loop 'tutorial' ended with exit code 1$"):
        next(loops.compare("bn", 4, 1))
    assert "MemoryError: none left" in capfd.readouterr().err


@pytest.mark.slow
def test_the_script_compares_all_loops(tmp_path: Path) -> None:
    file = tmp_path / "rounds.csv"
    options = ["--norms", "in", "--batches", "2", "--rounds", "3", "--processes", "2"]
    options += ["-o", str(file)]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options], capture_output=True, text=True, check=True
    )
    rounds = pd.read_csv(file)
    names = set(loops.loops())
    assert set(rounds["loop"]) == names
    assert (rounds["seconds"] > 0).all()
    for _, group in rounds.groupby("loop"):
        assert [*group[["process", "round"]].itertuples(index=False, name=None)] == [
            (1, 0),
            (1, 1),
            (2, 0),
        ]
    for name in names:
        assert f"| {name} " in done.stdout
    assert [*rounds["loop"].iloc[: len(names)]] != [*rounds["loop"].iloc[-len(names) :]]
    assert "Median of 3 rounds" in done.stdout
    assert "of 2 processes, without an interval" in done.stdout
