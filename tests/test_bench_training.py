"""The script that times training loops against each other: they train alike, it counts right, its workers end."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from normbench.config.compose import compose
from normbench.models import Layers, models
from normbench.norms import norms
from normbench.train.optim import optimizers

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import bench_training
import training_contestants
import training_loops
import training_tables
from training_contestants import Contestant, Variant

pytestmark = pytest.mark.timeout(
    600
)  # every worker imports torch, a minute in all on two busy cores


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled, Lightning is not loaded, and a round is over after the fewest steps."""
    monkeypatch.setattr(training_contestants, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(bench_training, "FIRST_STEP_ROUNDS", 1)
    monkeypatch.setattr(
        bench_training, "fast_settings", lambda: [(), ("runtime.channels_last=true",)]
    )
    for module in (bench_training, training_tables):
        monkeypatch.setattr(module, "has_lightning", lambda: False)


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


@pytest.mark.parametrize("norm", training_loops.NORMS)
def test_the_tutorial_s_network_and_optimizer_train_as_normbench_s_do(norm: str) -> None:
    config = compose([f"norm={norm}"])
    spec = norms.build(norm, options=config.norm.options)
    ours, plain = (
        models.build("normresnet", Layers(spec, 0), 10),
        training_loops.plain_normresnet(norm),
    )
    assert len(ours.state_dict()) == len(plain.state_dict())
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    adam = optimizers.build("adam", options=config.optim.options)(
        [{"params": [*ours.parameters()]}], config.optim.lr
    )
    expected = losses(plain, torch.optim.Adam(plain.parameters(), lr=1e-3))
    assert losses(ours, adam) == pytest.approx(expected, rel=1e-4)
    assert expected[2] != expected[0]


def test_a_step_costs_three_forward_passes_but_for_the_gradient_of_the_images() -> None:
    forward, first = 1024 * 64 * 27 + 3 * 256 * 128 * 576 + 5120, 1024 * 64 * 27
    assert training_tables.training_flops(64) == 64 * 2 * (3 * forward - first)
    assert round(training_tables.training_flops(64) / 1e9, 1) == 22.2


@pytest.mark.usefixtures("in_haste")
def test_a_whole_comparison_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_training.main(["--norms", "in", "--batches", "4", "--rounds", "2", "-o", str(tmp_path)])
    text = capsys.readouterr().out.rstrip("\n") + "\n"
    assert (tmp_path / "training.md").read_text() == text
    for part in (
        "# Training loops compared",
        "left out",
        "## Batch 4",
        "| normbench, fastest |",
        "its first step: ",
    ):
        assert part in text
    rows = pd.read_csv(tmp_path / "training.csv")
    assert [*rows] == ["batch_size", "norm", "contestant", "round", "ms_per_step"]
    names = {"source", "in-memory", "normbench", "normbench, fastest", "product in float32"}
    assert names | {"evaluation of 1000 images"} <= {*rows["contestant"]}
    assert all([*group] == [1, 2] for _, group in rows.groupby("contestant")["round"])
    assert (rows["ms_per_step"] > 0).all()


def test_at_batch_1_threads_are_raced_and_two_trainings_go_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    lineup = bench_training.lineup(1)
    assert [variant.threads for variant in lineup["source"]] == [1, 2]
    assert lineup["normbench x2"] == [Variant("normbench", 1, copies=2)]
    assert {(one.threads, one.copies) for one in lineup["normbench x2, fastest"]} == {(1, 2)}
    assert [variant.threads for variant in bench_training.lineup(64)["source"]] == [2]
    assert "normbench x2" not in bench_training.lineup(64)


def test_lightning_takes_steps_when_it_is_told_to() -> None:
    pytest.importorskip("lightning", reason="the extra `bench` is for measuring, and not in `dev`")
    contestant = Contestant("lightning", Variant("lightning", 1), "bn", 4)
    try:
        contestant.wait_until_ready()
        assert contestant.take(2) > 0
    finally:
        contestant.close()


def test_a_worker_ends_when_its_pipe_closes() -> None:
    worker = training_contestants.Worker(Variant("matrix product", 1, ("float32",)), "bn", 4)
    try:
        assert worker.receive() > 0
        assert worker.peak_mib > 1
        worker.process.stdin.close()
        assert worker.process.wait(60) == 0
    finally:
        worker.close()


def test_a_worker_that_dies_ends_the_script_with_its_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "loops.py"
    script.write_text("raise MemoryError('none left')")
    monkeypatch.setattr(training_contestants, "LOOPS", script)
    with pytest.raises(
        SystemExit, match=r"^bench_training: the worker of 'source' .* ended with exit code 1$"
    ):
        bench_training.main(["--norms", "bn", "--batches", "4"])
    assert "MemoryError: none left" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--norms", "bn,batch"], "unknown norm 'batch'; allowed: bn, ln, in, gn"),
        (["--rounds", "0"], "from 1 on"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench_training.main(arguments)
    assert message in capsys.readouterr().err
