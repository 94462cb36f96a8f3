"""Own norms, from a file or a module: options, identity, errors, and a place in a sweep."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from kit.tiny import tiny

from normbench.certificates import CHECKS
from normbench.config.compose import compose
from normbench.config.schema import from_yaml
from normbench.errors import NormbenchError
from normbench.norms import NormSpec, norms
from normbench.training.resolve import resolve

Run = Callable[..., tuple[int, str, str]]

SOURCE = '''"""Norms to try."""
import torch
from torch import nn


class MyNorm(nn.Module):
    """Divides by a power of the deviation.

    After arXiv:1234.56789.
    """

    conv_bias = True
    scope = "sample"

    def __init__(self, num_features, alpha: float = 1.0, mode="plain", axes=(1, 2, 3)):
        super().__init__()
        self.alpha, self.axes = alpha, axes
        self.weight = nn.Parameter(torch.ones(num_features, 1, 1))

    def forward(self, x):
        y = x / (x.var(self.axes, keepdim=True) + 1e-5) ** (self.alpha / 2) * self.weight
        return y.to(x.dtype)


class Activated(nn.Module):
    owns_activation = True

    def __init__(self, num_features, *, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


class Plain(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        return x


class FailsInInit(Plain):
    def __init__(self, num_features):
        super().__init__(num_features + undefined_name)


class FailsInForward(Plain):
    def forward(self, x):
        return helper(x)


class FailsLater(Plain):
    def forward(self, x):
        self.calls += x.requires_grad
        return helper(x) if self.calls > 3 else x


class NeedsFour(Plain):
    def forward(self, x):
        if len(x) < 4:
            raise ValueError("fewer than 4 samples")
        return x


class Pools(Plain):
    def forward(self, x):
        return x.mean((2, 3))


class NotANumber(Plain):
    def forward(self, x):
        return x * float("nan")


class Mates(Plain):
    def forward(self, x):
        return x - x.mean()


class Remembers(Plain):
    def forward(self, x):
        if self.training:
            self.mean = x.mean().detach()
        return x - getattr(self, "mean", 0)


class Twice(Plain):
    def forward(self, x):
        return x, x


class Grouped(nn.GroupNorm):
    def __init__(self, num_features, groups=32):
        super().__init__(groups, num_features)


class TakesNothing(nn.Module):
    pass


class WrongScope(MyNorm):
    scope = "smaple"


class Remarked(Plain):
    def __init__(
        self, num_features, a: "a number from 0 to 1" = 0.5, b: "Tensr" = 1, copy=2, _c=3, json=4
    ):
        super().__init__(num_features)
        self.options = a, b, copy, _c, json


class Numbered(Remarked):
    def __init__(self, num_features, a: 0.5 = 0.5):
        super().__init__(num_features, a)


def makes_a_number(num_features):
    return 3


def made(num_features, eps=0.5):
    return nn.GroupNorm(1, num_features, eps)


def helper(x):
    return x + undefined_name


number = 3
'''
SMALL = tiny("data.num_train=48", "batch_size=8", "epochs=1")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_norms.py"
    path.write_text(SOURCE)
    return path


def build(name: str, **options: Any) -> NormSpec:
    return norms.build(name, options={"options": options})


def test_it_trains_and_is_known_by_its_class_its_file_and_its_options(
    file: Path, normbench: Run
) -> None:
    code, _, err = normbench(
        "train", "--norm", "my_norms.py:MyNorm", "norm.options.alpha=0.5", *SMALL
    )
    assert code == 0, err
    [path] = (file.parent / "results" / "runs").glob("normresnet-MyNorm-b8-s0-*")
    config = yaml.safe_load((path / "config.yaml").read_text())["norm"]
    assert (config["name"], config["file"]) == ("my_norms.py:MyNorm", str(file))
    assert config["options"] == {"alpha": 0.5, "mode": "plain", "axes": [1, 2, 3]}
    assert len(config["content"]) == 16


@pytest.mark.parametrize(
    ("name", "defects"),
    [
        ("MyNorm", []),
        ("Mates", ["evaluates with batch mates"]),
        ("Remembers", ["keeps state outside its checkpoint"]),
    ],
)
def test_a_run_warns_of_the_defects_that_spoil_its_figures_and_records_them(
    file: Path, normbench: Run, name: str, defects: list[str]
) -> None:
    norm = f"my_norms.py:{name}"
    code, _, err = normbench("train", "--norm", norm, *SMALL)
    assert code == 0, err
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == len(defects)
    for warning, defect in zip(warnings, defects, strict=True):
        assert warning.startswith(f"warning: norm {norm} {defect} (")
        assert warning.endswith(
            "): its figures are not comparable; normbench norms --check says more"
        )
    [environment] = (file.parent / "results" / "runs").glob("*/env.json")
    assert json.loads(environment.read_text())["broken"] == defects


@pytest.mark.slow
def test_a_run_of_a_sweep_warns_in_its_log_and_the_table_has_the_mark(
    file: Path, normbench: Run
) -> None:
    processes = ["--launcher", "processes"]
    code, out, err = normbench("sweep", "norm=gn,my_norms.py:Mates", *SMALL, *processes)
    assert code == 0, err
    assert "Mates evaluates with batch mates: its figures are not comparable" in out
    runs = file.parent / "results" / "runs"
    [log] = runs.glob("normresnet-Mates-*/output.log")
    assert "warning: norm my_norms.py:Mates evaluates with batch mates" in log.read_text()
    [of_gn] = runs.glob("normresnet-gn-*/env.json")
    assert json.loads(of_gn.read_text())["broken"] == []


@pytest.mark.slow
def test_it_is_swept_beside_others(file: Path, normbench: Run) -> None:
    norm = "norm=gn,my_norms.py:MyNorm"
    inline = ["--launcher", "inline", "-o", "compared"]
    code, _, err = normbench("sweep", norm, *SMALL, *inline)
    assert code == 0, err
    table = (file.parent / "compared" / "table.md").read_text()
    assert "| MyNorm" in table
    assert str(file.parent) not in (file.parent / "compared" / "runs.csv").read_text()


def test_its_layer_has_the_options_and_its_class_says_the_rest(file: Path) -> None:
    spec = build("my_norms.py:MyNorm", alpha=2.0)
    assert spec.norm(4).alpha == 2.0
    assert (spec.conv_bias, spec.scope, spec.norm_act) == (True, "sample", None)
    assert build("my_norms.py:FailsInForward").scope == "undeclared"
    activated = build("my_norms.py:Activated", slope=0.25)
    assert activated.norm_act is not None
    assert activated.norm_act(4)(torch.tensor([-1.0])).item() == -0.25
    assert build("my_norms.py:made", eps=0.25).norm(4).eps == 0.25
    assert build("torch.nn:BatchNorm2d", momentum=0.5).norm(4).momentum == 0.5


def test_annotations_that_are_remarks_check_nothing_and_any_name_can_be_an_option(
    file: Path,
) -> None:
    given = {"a": 2, "b": 3, "copy": 4, "_c": 5, "json": 6}
    assert build("my_norms.py:Remarked", **given).norm(4).options == (2, 3, 4, 5, 6)
    checked = norms.check("my_norms.py:Remarked", {})["options"]
    assert checked == {"a": 0.5, "b": 1, "copy": 2, "_c": 3, "json": 4}
    assert norms.check("my_norms.py:Numbered", {"options": {"a": 1}})["options"] == {"a": 1}


def fingerprint(*overrides: str) -> str:
    return resolve(compose([*SMALL, *overrides]))[0].fingerprint


def test_the_run_s_id_changes_with_the_content_and_not_with_the_place(
    file: Path, tmp_path: Path
) -> None:
    before = fingerprint("norm=my_norms.py:MyNorm")
    elsewhere = tmp_path / "deep down" / "other.py"
    elsewhere.parent.mkdir()
    elsewhere.write_text(SOURCE)
    assert fingerprint(f"norm={elsewhere}:MyNorm") == before
    assert fingerprint("norm=my_norms.py:MyNorm", "norm.options.alpha=1.0") == before
    assert fingerprint("norm=my_norms.py:MyNorm", "norm.options.alpha=0.5") != before
    file.write_text(SOURCE + "# another line\n")
    assert fingerprint("norm=my_norms.py:MyNorm") != before


def test_a_configuration_is_for_the_file_it_was_made_with(file: Path) -> None:
    config, _ = resolve(compose([*SMALL, "norm=my_norms.py:MyNorm"]))
    assert resolve(from_yaml(config.to_yaml()))[0].fingerprint == config.fingerprint
    file.write_text(SOURCE + "\n")
    with pytest.raises(
        NormbenchError, match="is not the file that this configuration was made for"
    ):
        resolve(from_yaml(config.to_yaml()))


def test_it_finds_its_neighbours_and_leaves_the_path_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (file.parent / "beside_my_norms.py").write_text("from torch import nn\nlayer = nn.GroupNorm\n")
    other = file.parent / "other.py"
    other.write_text(
        "from beside_my_norms import layer\n\n\n"
        "def wide(num_features):\n    return layer(2, num_features)\n"
    )
    before = list(sys.path)
    monkeypatch.chdir("/")
    assert norms.build(f"{other}:wide").norm(4).num_groups == 2
    assert sys.path == before


MY = "my_norms.py"


@pytest.mark.parametrize(
    ("norm", "more", "message"),
    [
        (f"{MY}:MyNom", (), f"unknown class of {MY} 'MyNom': did you mean 'MyNorm'? allowed: "),
        (f"{MY}:number", (), "norm {norm}: number is no subclass of nn.Module and no function"),
        (f"{MY}:TakesNothing", (), "norm {norm}: its constructor takes no num_features"),
        ("my_nrms.py:MyNorm", (), "norm {norm}: there is no file '"),
        ("no_such.module:MyNorm", (), "norm {norm}: there is no module 'no_such.module' to import"),
        (":MyNorm", (), "norm {norm}: there is no module '' to import"),
        (f"{MY}:MyNorm", ("options.alfa=1",), "unknown option of norm {norm} 'alfa': did you mean"),
        (
            f"{MY}:MyNorm",
            ("options.alpha=much",),
            "norm.options.alpha: should be a valid number, not 'much'",
        ),
        (
            f"{MY}:MyNorm",
            ("alpha=1",),
            "unknown key 'norm.alpha': an own norm's options are set as 'norm.options.alpha'",
        ),
        (f"{MY}:Activated", (), "norm {norm} needs norm.options.slope=VALUE"),
        (f"{MY}:WrongScope", (), "unknown scope of norm {norm} 'smaple': did you mean 'sample'?"),
        (f"{MY}:makes_a_number", (), "norm {norm} is to make an nn.Module, and made a int"),
        (
            f"{MY}:Pools",
            (),
            "norm {norm} cannot train normresnet at batch 8: it makes (8, 4) of a batch",
        ),
    ],
)
def test_a_mistake_is_said_in_one_line_before_any_work(
    file: Path, norm: str, more: tuple[str, ...], message: str
) -> None:
    with pytest.raises(NormbenchError) as caught:
        resolve(compose([*SMALL, f"norm={norm}", *(f"norm.{setting}" for setting in more)]))
    assert str(caught.value).startswith(message.replace("{norm}", norm))
    assert "\n" not in str(caught.value)


def test_of_a_mistake_the_command_prints_the_line_and_writes_nothing(
    file: Path, normbench: Run
) -> None:
    code, _, err = normbench("train", f"norm={MY}:TakesNothing", *SMALL)
    assert code == 2
    assert err.startswith(f"normbench: norm {MY}:TakesNothing: its constructor takes no ")
    assert len(err.splitlines()) == 1
    assert not (file.parent / "results").exists()


def line_in(text: str, part: str) -> int:
    """The number of the first line with this part."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize("name", ["FailsInInit", "FailsInForward"])
def test_an_error_of_the_user_s_code_is_a_line_with_its_place(
    file: Path, normbench: Run, name: str
) -> None:
    code, _, err = normbench("train", f"norm=my_norms.py:{name}", *SMALL)
    assert (code, err.count("\n")) == (2, 1)
    of_class = file.read_text().partition(f"class {name}")
    number = of_class[0].count("\n") + line_in(of_class[2], "undefined_name")
    told = f"norm my_norms.py:{name} cannot train normresnet at batch 8: "
    assert err.startswith(f"normbench: my_norms.py:{number}: {told}")
    assert "NameError: name 'undefined_name' is not defined" in err
    assert err.endswith("; --debug shows the traceback\n")


def test_so_is_one_in_the_middle_of_training_and_debug_shows_all(
    file: Path, normbench: Run
) -> None:
    code, _, err = normbench("train", "norm=my_norms.py:FailsLater", *SMALL)
    assert (code, err.splitlines()[-1].partition(" ")[0]) == (1, "normbench:")
    assert re.search(r"my_norms\.py:\d+: \w+Error: .*; --debug shows the traceback", err)
    assert "Traceback" not in err
    [status] = (file.parent / "results" / "runs").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "failed"
    _, _, with_debug = normbench("train", "norm=my_norms.py:FailsLater", *SMALL, "--debug")
    assert "helper" in with_debug
    assert "normbench/" in with_debug
    assert "--debug" not in with_debug


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["inline", "processes"])
def test_a_run_of_a_sweep_shows_the_user_s_traceback_in_its_output(
    file: Path, normbench: Run, launcher: str
) -> None:
    code, out, err = normbench(
        "sweep", "norm=my_norms.py:FailsLater", *SMALL, "--launcher", launcher
    )
    logs = [path.read_text() for path in (file.parent / "results" / "runs").glob("*/output.log")]
    told = "\n".join([out, err, *logs])
    assert code == 1
    assert "Traceback of your code:" in told, told
    assert "train/engine.py" not in told


@pytest.mark.parametrize(
    ("text", "line", "error"),
    [
        ("import os\nraise KeyError('boom')\n", 2, "KeyError: 'boom'"),
        ("def f(:\n", 1, "SyntaxError: invalid syntax"),
        ("import no_such_package\n", 1, "ModuleNotFoundError: No module named 'no_such_package'"),
        ("import sys\nsys.exit(7)\n", 2, "SystemExit: 7"),
    ],
)
def test_a_file_that_cannot_be_run_shows_where_and_why(
    file: Path, normbench: Run, text: str, line: int, error: str
) -> None:
    file.write_text(text)
    code, _, err = normbench("train", "norm=my_norms.py:MyNorm", *SMALL)
    assert (code, err.count("\n")) == (2, 1)
    told = f"normbench: my_norms.py:{line}: norm my_norms.py:MyNorm: {error}"
    assert err.startswith(told)
    assert err.endswith("; --debug shows the traceback\n")


def test_a_batch_that_its_code_refuses_is_a_row_of_the_sweep_with_the_reason(
    file: Path, normbench: Run
) -> None:
    settings = tiny("norm=my_norms.py:NeedsFour", "batch_size=2,8", "data.num_train=48")
    code, out, err = normbench("sweep", *settings, "--dry-run")
    assert code == 0, err
    assert "1 refused" in out
    assert "ValueError: fewer than 4 samples" in out


def test_its_certificate_and_its_contract_are_computed(file: Path, normbench: Run) -> None:
    code, out, err = normbench("norms", "my_norms.py:MyNorm", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["title"], found["paper"]) == ("MyNorm", "arXiv:1234.56789")
    assert found["certificate"]["ignores_scale_of"] == ["sample", "batch"]
    code, out, err = normbench("norms", "my_norms.py:MyNorm", "--check")
    assert code == 0, out
    code, out, err = normbench("norms", "my_norms.py:Activated", "norm.options.slope=0.5")
    assert code == 0, err
    assert "norm.options.slope=0.5" in out
    code, out, err = normbench("norms", "my_norms.py:NeedsFour", "--check")
    assert code == 1
    assert "BROKEN" in out


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Pools", "it makes (4, 16) of a batch of shape (4, 16, 5, 3)"),
        ("NotANumber", "it gives values that are not finite on a batch of shape (4, 16, 5, 3)"),
        ("FailsInForward", "on a batch of shape (4, 16, 5, 3) it raises NameError: "),
        ("Twice", "it makes tuple of a batch of shape (4, 16, 5, 3)"),
        ("Grouped norm.options.groups=5", "on a batch of shape (4, 16, 5, 3) it raises ValueError"),
    ],
)
def test_the_check_calls_a_norm_broken_that_works_on_no_batch(
    file: Path, normbench: Run, name: str, reason: str
) -> None:
    norm, *options = f"my_norms.py:{name}".split()
    code, out, err = normbench("norms", norm, *options, "--check")
    assert code == 1
    assert out.startswith(f"{norm}: BROKEN {reason}")
    assert out.endswith("; it works with none of 16, 32, 48, 64, 96, 128 channels\n")
    assert out.count("\n") == 1
    assert ("Traceback of your code:" in err) == ("it raises" in reason)


def test_an_option_that_fits_no_16_channels_is_no_broken_norm(file: Path, normbench: Run) -> None:
    _, out, _ = normbench("norms", "my_norms.py:Grouped", "norm.options.groups=12", "--check")
    assert "BROKEN" not in out
    assert out.count(": ok ") == len(CHECKS)


def test_a_name_with_a_colon_is_no_list_of_names() -> None:
    with pytest.raises(NormbenchError, match="use sweep"):
        compose(["data=synthetic"], {"norm": "bn,my_norms.py:MyNorm"})
