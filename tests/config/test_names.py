"""Names and spellings that people type are understood, or the right one is suggested."""

from __future__ import annotations

from pathlib import Path

import pytest

from normbench.config.compose import compose, config_dir, groups, studies
from normbench.config.grammar import SHORT, check_words, parse_axis
from normbench.config.names import SPOKEN, spoken
from normbench.errors import NormbenchError


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("batchnorm", "bn"),
        ("BatchNorm2d", "bn"),
        ("torch.nn.BatchNorm2d", "bn"),
        ("batch_norm", "bn"),
        ("GroupNorm", "gn"),
        ("layer_norm", "ln"),
        ("instance", "in"),
        ("RMSNorm", "rms"),
        ("Batch Normalization", "bn"),
    ],
)
def test_a_norm_by_another_name_is_suggested(typed: str, meant: str) -> None:
    with pytest.raises(NormbenchError, match=f"did you mean '{meant}'"):
        compose(flags={"norm": typed})


def test_what_people_call_norms_are_norms_and_no_name_is_called_otherwise() -> None:
    assert {*SPOKEN.values()} <= {*groups()["norm"]}
    for name in groups()["norm"]:
        assert spoken(name) in (None, name), name


@pytest.mark.parametrize("short", SHORT)
def test_the_name_of_an_option_is_a_key(short: str) -> None:
    values = {"device": "cpu", "precision": "fp32", "runs_dir": "elsewhere", "lr": "0.5"}
    value = values.get(short, "1")
    assert compose([f"{short}={value}"]) == compose([f"{SHORT[short]}={value}"])
    with pytest.raises(NormbenchError, match="given twice"):
        compose([f"{short}={value}", f"{SHORT[short]}={value}"])


def test_all_is_every_norm_and_others_stand_beside_it() -> None:
    every = groups()["norm"]
    assert parse_axis("norm=all", groups()) == ("norm", every)
    assert parse_axis("norm=all,my.py:Mine,bn", groups()) == ("norm", [*every, "my.py:Mine"])
    assert parse_axis("data=all", groups()) == ("data", ["all"])


def test_a_space_after_a_comma_is_seen() -> None:
    check_words(["norm=bn,gn", "seed=0,1"])
    with pytest.raises(NormbenchError, match=r"without a space, as in norm=bn,gn$"):
        check_words(["seed=0", "norm=bn,", "gn"])


def test_a_file_without_a_class_names_its_classes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import torch\nclass First: pass\nclass Second: pass\nraise SystemExit\n")
    with pytest.raises(NormbenchError, match=f"say which class: {file}:First, {file}:Second$"):
        compose(flags={"norm": str(file)})
    file.write_text("x = 1")
    with pytest.raises(NormbenchError, match="the file defines no class"):
        compose(flags={"norm": str(file)})
    with pytest.raises(NormbenchError, match="No such file"):
        compose(flags={"model": str(tmp_path / "absent.py")})


def test_studies_are_known_by_name() -> None:
    assert {"table", "batch_size"} <= {*studies(config_dir())}
