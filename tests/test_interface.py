"""normbench in Python: the same runs, tables and refusals as on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import TINY
from torch import Tensor, nn

import normbench as nb
from normbench.config.compose import compose
from normbench.config.grammar import parse_assignments
from normbench.training.resolve import resolve
from normbench.users_code import given_name

SETTINGS = parse_assignments(TINY)


class Halved(nn.Module):
    """A norm that is given as a class."""

    conv_bias = True

    def __init__(self, num_features: int, factor: float = 0.5) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def other_of_this_name() -> type[nn.Module]:
    class Halved(nn.Module):
        """Another norm of the same name."""

        def __init__(self, num_features: int) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x / 3

    return Halved


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_that_of_the_command_line_and_is_reported_again() -> None:
    run = nb.train(SETTINGS, norm="gn", lr=0.01)
    config, _ = resolve(compose([*TINY, "norm=gn", "optim.lr=0.01"]))
    assert run.path.name == config.run_id
    assert run.status == "done"
    assert list(run.metrics["epoch"]) == [1, 2]
    assert run.result == run.metrics["test_accuracy"].iloc[-1]
    changed = (run.path / "metrics.csv").stat().st_mtime_ns
    assert nb.train(SETTINGS, norm="gn", lr=0.01) == run
    assert (run.path / "metrics.csv").stat().st_mtime_ns == changed
    assert config.run_id in repr(run)


def test_a_sweep_gives_tables_figures_comparisons_and_a_report(place: Path) -> None:
    # A setting that is a list stands in a list.
    fixed = {**SETTINGS, "model.widths": [[4, 8]]}
    runs = nb.sweep(fixed, norm=["bn", Halved], seed=np.arange(2))
    assert len(runs) == 4
    table = runs.table(by="norm")
    assert {*table["norm"]} == {"bn", "Halved"}
    assert "seed" in table.attrs["caption"]
    assert runs.plot("epochs").axes
    (paired,) = nb.compare(runs, "bn", Halved)
    assert paired.difference.estimate.n == 2
    page = nb.report(runs, place / "out")
    with pytest.raises(nb.NormbenchError, match="holds runs that are not in this report"):
        nb.report(runs.where("norm=bn"), place / "out")
    assert "Halved" in page.read_text()
    again = nb.load([path.parent for path in place.rglob("config.yaml")])
    assert len(again) == 4
    assert len(again.where("norm=bn")) == 2
    assert "4 done" in repr(again)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: nb.train(norm="batchnorm"), "did you mean 'bn'"),
        (lambda: nb.train({"optim.lr": 0.1}, lr=0.2), "'optim.lr' is given twice"),
        (lambda: nb.train(norm=["bn", "gn"]), "norm="),
        (lambda: nb.sweep(norm=["bn", Halved], launcher="processes"), "cannot see a class"),
        (lambda: nb.sweep(norm=Halved, jobs=2), "one run after the other"),
        (lambda: nb.sweep(norm=[Halved, other_of_this_name()]), "are classes of one name"),
        (lambda: nb.sweep("tabel"), "did you mean 'table'"),
        (lambda: nb.load("nowhere"), "there is no such folder"),
        (lambda: nb.train(norm="given:Absent"), "not known in this process"),
        (lambda: nb.train(norm=type("Made", (nn.Module,), {})), "the source of Made cannot be"),
        (lambda: nb.norm("LayerNorm", 8), "did you mean 'ln'"),
        (lambda: nb.norm("gn", 6), "num_groups=4 does not divide 6 channels"),
        (lambda: nb.train("gn"), "is no mapping of settings"),
        (lambda: nb.train(norm=len), "is no class and no function"),
        (lambda: nb.train(norm=nn.Identity()), "is no class and no function"),
        (lambda: nb.norm("gn", 8, groups=2), "unknown option of norm gn 'groups'"),
        (lambda: nb.norm("gn", 0), "num_features: should be a number from 1 on, not 0"),
        (lambda: nb.report("nowhere", "out"), "no runs in nowhere: there is no such folder"),
        (lambda: nb.compare("nowhere", "gn", "bn"), "no runs in nowhere: there is no such folder"),
    ],
)
def test_a_mistake_is_an_error_of_one_line(call: Any, told: str) -> None:
    with pytest.raises(nb.NormbenchError) as caught:
        call()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_layers_and_certificates_of_norms_by_name_and_by_class() -> None:
    x = torch.randn(4, 8, 3, 3)
    assert torch.equal(nb.norm("gn", 8, num_groups=2)(x), nn.GroupNorm(2, 8)(x))
    assert torch.equal(nb.norm(Halved, 8, factor=0.25)(x), x / 4)
    assert nb.certificate("gn") == nb.certificate("gn", num_groups=4)
    # A fixed factor normalizes nothing.
    assert nb.certificate(Halved) == nb.certificate("none") != nb.certificate("gn")


def test_a_certificate_shows_itself_as_the_command_does(normbench: Any) -> None:
    code, out, _ = normbench("norms", "gn", "norm.num_groups=2")
    assert (code, out) == (0, f"{nb.certificate('gn', num_groups=2)!r}\n")
    assert nb.certificate("gn").facts.mean_0_over == ("c/4 h w",)


def test_of_classes_of_one_name_in_a_file_each_has_its_own_source() -> None:
    x = torch.randn(2, 8, 3, 3)
    for made, factor in ((Halved, 2), (other_of_this_name(), 3), (Halved, 2)):
        assert torch.allclose(nb.norm(made, 8)(x), x / factor)
    contents = set()
    for made in (Halved, other_of_this_name()):
        config, _ = resolve(compose((), {**SETTINGS, "norm": given_name(made)}))
        contents.add(config.norm.options["content"])
    assert len(contents) == 2


class Plain(nn.GroupNorm):
    """A norm without functions of its own."""

    def __init__(self, num_features: int) -> None:
        super().__init__(2, num_features)


class Derived(Plain):
    """A norm that changes nothing."""


def test_a_class_without_functions_is_found_in_its_file() -> None:
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(nb.norm(Derived, 8)(x), nn.GroupNorm(2, 8)(x))


def test_another_source_is_another_run(tmp_path: Path) -> None:
    ids = set()
    for factor in (1, 2):
        file = tmp_path / f"cell{factor}.py"
        file.write_text(
            "from torch import nn\n"
            "class Scaled(nn.Module):\n"
            "    def __init__(self, num_features):\n"
            "        super().__init__()\n"
            "    def forward(self, x):\n"
            f"        return x * {factor}\n"
        )
        space: dict[str, Any] = {}
        exec(compile(file.read_text(), str(file), "exec"), space)
        ids.add(nb.train(SETTINGS, norm=space["Scaled"]).path.name)
    assert len(ids) == 2


def test_the_import_alone_loads_neither_torch_nor_pandas() -> None:
    code = "import sys, normbench as nb; print({'torch', 'pandas'} & {*sys.modules}); nb.train"
    # The working directory is not the project's.
    path = {"PYTHONPATH": str(Path(nb.__file__).parents[1])}
    environment = {**os.environ, **path}
    out = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert out == "set()\n"


def test_every_name_that_is_offered_is_there() -> None:
    for name in nb.__all__:
        assert getattr(nb, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        nb.trian  # noqa: B018


@pytest.mark.slow
def test_a_script_needs_no_guard_for_its_runs_in_other_processes(place: Path) -> None:
    """Processes of a run do not execute the script that starts them."""
    settings = {**SETTINGS, "model.widths": [[4, 8]]}
    script = place / "script.py"
    script.write_text(
        "import normbench as nb\n"
        "print('once')\n"
        f"runs = nb.sweep({settings!r}, norm=['bn', 'gn'], jobs=2)\n"
        "print(runs)\n"
    )
    told = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert told.stdout.count("once") == 1
    assert told.stdout.endswith("Runs(2 done)\n")
    assert told.stderr == ""
