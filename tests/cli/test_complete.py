"""Completion by the shells' own protocol, as typer's scripts ask for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit.launchers import search_path
from kit.runs import leave_run
from kit.tiny import tiny

from normbench.analysis.outputs import outputs
from normbench.cli import complete
from normbench.config.compose import compose, config_dir, groups, studies
from normbench.config.schema import RunConfig, flatten
from normbench.sweeps.launchers import launchers

MAIN = "import sys; sys.argv[0] = 'normbench'; from normbench.cli import main; main()"
# bash parts words at = as well.
PARTS = str.maketrans({"=": " = "})


def asked(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", MAIN],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search_path(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def in_bash(folder: Path, line: str, *options: str) -> subprocess.CompletedProcess[str]:
    """What bash gets for a line whose end is to be completed."""
    parted = line.translate(PARTS)
    number = len(parted.split()) - (0 if parted.endswith(" ") and not line.endswith("=") else 1)
    variables = {"COMP_WORDS": parted, "COMP_CWORD": str(number)}
    return asked(folder, *options, _NORMBENCH_COMPLETE="complete_bash", **variables)


def in_zsh(folder: Path, line: str) -> str:
    variables = {"_NORMBENCH_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    return asked(folder, **variables).stdout


def in_fish(folder: Path, line: str) -> list[str]:
    variables = {"_NORMBENCH_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": line}
    return asked(folder, _TYPER_COMPLETE_FISH_ACTION="get-args", **variables).stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("normbench tra", ["train"]),
        ("normbench train --norm evonorm_b", ["evonorm_b0", "evonorm_b1", "evonorm_b2"]),
        ("normbench train --model res", ["resnet", "resnet18"]),
        ("normbench train --data syn", ["synthetic"]),
        ("normbench train optim.l", ["optim.lr_scaling=", "optim.lr="]),
        ("normbench train --norm gn norm.nu", ["norm.num_groups="]),
        ("normbench train norm=gn norm.nu", ["norm.num_groups="]),
        ("normbench train norm.nu", []),  # of bn
        ("normbench train norm=ws_", ["ws_bn", "ws_gn"]),
        ("normbench sweep norm=bn,ws_", ["bn,ws_bn", "bn,ws_gn"]),
        ("normbench train runtime.compile=", ["true", "false"]),
        ("normbench train runtime.precision=f", ["fast", "fp32", "fp16"]),
        ("normbench train device=c", ["cpu", "cuda"]),
        ("normbench train batch", ["batch_size="]),
        ("normbench sweep transf", ["transformer", "transformer_tuning"]),
        ("normbench sweep table see", ["seed="]),
        ("normbench sweep norm=bn --launcher s", ["slurm"]),
        ("normbench table --kind p", ["pairs"]),
        ("normbench plot l", ["learning-rate", "loss"]),
        ("normbench compare gn ws_b", ["ws_bn"]),
        ("normbench norms lazy", ["lazy_bn"]),
        ("normbench models vg", ["vgg"]),
        ("normbench bench optim=ada", ["adam", "adamw"]),
        ("normbench train --norm gn --norm ws_g", ["ws_gn"]),  # refused only when it is run
    ],
)
def test_bash_gets_what_the_line_can_go_on_with(
    tmp_path: Path, line: str, found: list[str]
) -> None:
    answer = in_bash(tmp_path, line)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.split() == found


def test_an_equals_sign_alone_is_followed_by_every_value(tmp_path: Path) -> None:
    assert in_bash(tmp_path, "normbench train norm=").stdout.split() == groups()["norm"]


def test_zsh_and_fish_keep_the_word_whole(tmp_path: Path) -> None:
    assert in_zsh(tmp_path, "normbench train norm=ws_g") == "_arguments '*: :((\"norm=ws_gn\"))'\n"
    assert in_fish(tmp_path, "normbench train norm=bn,ws_g") == ["norm=bn,ws_gn"]
    assert in_fish(tmp_path, "normbench sweep tab") == ["table"]


def test_runs_are_completed_from_their_folder(tmp_path: Path) -> None:
    paths = []
    for norm in ("bn", "gn"):
        folder = f"system.runs_dir={tmp_path / 'mine'}"
        paths.append(leave_run(compose(tiny(f"norm={norm}", folder))))
    names = [path.name for path in paths]
    for command in ("diff", "rm", f"diff {names[0]}"):
        line = f"normbench runs {command} --runs-dir mine normres"
        assert in_bash(tmp_path, line).stdout.split() == names
    assert in_bash(tmp_path, "normbench runs rm normres").stdout.split() == []


def test_completion_loads_none_of_the_heavy_packages(tmp_path: Path) -> None:
    for line in ("normbench train optim.l", "normbench sweep ta", "normbench runs rm n"):
        loaded = in_bash(tmp_path, line, "-X", "importtime").stderr
        names = {found.rpartition("|")[2].strip().partition(".")[0] for found in loaded.split("\n")}
        assert "normbench" in names
        assert not names & {"torch", "pandas", "hydra", "matplotlib", "omegaconf"}


def test_every_key_of_a_configuration_is_offered() -> None:
    config = compose(["norm=gn", "optim=sgd", "model=vit"])
    given = ["norm=gn", "optim=sgd", "model=vit"]
    settable = {key for key in flatten(config.model_dump()) if not key.endswith(".name")}
    settable -= {"data.content"}  # found, and not set
    assert settable <= {*complete._keys(given, {})}


def test_every_key_that_is_offered_can_be_set() -> None:
    for key in complete._keys([], {}):
        section, _, name = key.partition(".")
        values = compose().model_dump()[section]
        assert section in RunConfig.model_fields
        assert not name or name in values


def test_the_names_are_those_that_there_are() -> None:
    assert {*complete.TABLES} == {output.name for output in outputs("table")}
    assert {*complete.FIGURES} == {output.name for output in outputs("figure")}
    assert {*complete.LAUNCHERS} == {entry.name for entry in launchers}
    assert "table" in studies(config_dir())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_is_installed_for_a_shell(tmp_path: Path, shell: str) -> None:
    code = MAIN.replace(
        "'normbench'", f"'normbench'; sys.argv += ['--install-completion', '{shell}']"
    )
    variables = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": search_path(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "_NORMBENCH_COMPLETE" in written
