"""Learned shares: the softmaxes of switchable, means over layers, own norms, and refusals."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from kit.training import model_of, run_in
from torch import nn

from normbench.errors import NormbenchError
from normbench.norms.mixed import SwitchableNorm
from normbench.norms.shares import mean_shares
from normbench.runs.files import read_run

NAMES = [f"{moment}_{part}" for moment in ("mean", "var") for part in ("in", "ln", "bn")]


def with_logits(mean: list[float], var: list[float]) -> SwitchableNorm:
    layer = SwitchableNorm(4, 1e-5, 0.1)
    with torch.no_grad():
        layer.mean_logits.copy_(torch.tensor(mean))
        layer.var_logits.copy_(torch.tensor(var))
    return layer


def test_a_new_switchable_norm_has_equal_shares() -> None:
    assert mean_shares(model_of("switchable")) == pytest.approx(dict.fromkeys(NAMES, 1 / 3))


def test_a_large_logit_gives_the_whole_share_to_the_part_that_the_norm_then_is() -> None:
    """The names fit the parts: with all weight on one part the layer computes that norm."""
    x = torch.randn(6, 4, 5, 5)
    norms = {
        "in": nn.InstanceNorm2d(4),
        "ln": nn.GroupNorm(1, 4),
        "bn": nn.BatchNorm2d(4),
    }
    for place, (part, norm) in enumerate(norms.items()):
        logits = [0.0, 0.0, 0.0]
        logits[place] = 50.0
        layer = with_logits(logits, logits)
        shares = mean_shares(layer)
        assert shares[f"mean_{part}"] == shares[f"var_{part}"] == pytest.approx(1)
        torch.testing.assert_close(layer.train()(x), norm.train()(x), rtol=1e-4, atol=1e-5)


def test_shares_are_means_over_layers_of_each_softmax() -> None:
    first = with_logits([0.0, 1.0, 2.0], [0.0, 0.0, 0.0])
    second = with_logits([3.0, 0.0, 0.0], [1.0, 0.0, -1.0])
    found = mean_shares(nn.Sequential(first, nn.ReLU(), second))
    for moment in ("mean", "var"):
        layers = [getattr(layer, f"{moment}_logits").softmax(0) for layer in (first, second)]
        wanted = torch.stack(layers).mean(0).tolist()
        parts = [found[f"{moment}_{part}"] for part in ("in", "ln", "bn")]
        assert parts == pytest.approx(wanted)
        assert sum(parts) == pytest.approx(1)


def test_other_norms_tell_none() -> None:
    assert mean_shares(model_of("bn")) == mean_shares(model_of("ibn")) == {}


class Own(nn.Module):
    def __init__(self, name: str, share: float) -> None:
        super().__init__()
        self.told = {name: share}

    def learned_shares(self) -> dict[str, float]:
        return self.told


def test_an_own_norm_tells_its_own_and_odd_ones_are_refused() -> None:
    assert mean_shares(nn.Sequential(Own("rho", 0.2), Own("rho", 0.6))) == {"rho": 0.4}
    with pytest.raises(NormbenchError, match=r"of Own: rho is 1\.2; allowed: from 0 to 1"):
        mean_shares(Own("rho", 1.2))
    with pytest.raises(NormbenchError, match="rho is nan"):
        mean_shares(Own("rho", float("nan")))
    with pytest.raises(NormbenchError, match="the name 'a,b'"):
        mean_shares(Own("a,b", 0.5))


def test_a_run_has_the_shares_of_every_epoch(tmp_path: Path) -> None:
    path = run_in(tmp_path, "norm=switchable", "optim.lr=0.05").path
    assert read_run(path).damaged == {}
    rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
    assert [name for name in rows[0] if name.startswith("share_")] == [
        f"share_{name}" for name in NAMES
    ]
    state = torch.load(path / "checkpoint.pt", weights_only=True)["model"]
    layers = [value for name, value in state.items() if name.endswith("var_logits")]
    bn = torch.stack(layers).softmax(1).mean(0)[2]
    assert float(rows[1]["share_var_bn"]) == pytest.approx(float(bn), abs=1e-6)
    assert rows[0]["share_var_bn"] != rows[1]["share_var_bn"]
