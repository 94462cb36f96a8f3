"""Every command of the README is run here, on tiny data; the table it shows is the committed one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench import cli
from normbench.data import DataHome, Source
from normbench.data.formats import cifar10
from normbench.data.source import sources
from normbench.train import resolve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
OWN_NORM = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
INSTALLING = [
    "uv venv && uv pip install -e .",
    "python3 -m venv .venv && .venv/bin/pip install -e .",
]


@pytest.fixture
def tiny_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in; every data source but an image folder gives 70 small synthetic images."""
    build = sources.build

    def build_tiny(
        name: str, home: DataHome, *, options: dict[str, object] | None = None
    ) -> Source:
        if name == "image_folder":
            return build(name, home, options=options)
        return build("synthetic", home, options={"num_train": 70, "num_test": 10})

    monkeypatch.setattr(sources, "build", build_tiny)
    monkeypatch.setattr(resolve, "sources", sources)
    monkeypatch.setattr(cifar10, "MIRRORS", ())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_norms.py").write_text(OWN_NORM)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "first-sweep").symlink_to(ROOT / "results" / "first-sweep")
    for path in (
        tmp_path / "pets" / split / kind for split in ("train", "test") for kind in ("cats", "dogs")
    ):
        path.mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path / "1.png")


@pytest.mark.usefixtures("tiny_world")
def test_every_normbench_command_of_the_readme_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [
        shlex.split(command.replace("~/", ""))
        for command in COMMANDS
        if command.startswith("normbench ")
    ]
    assert len(commands) >= 20
    for command in commands:
        if "--launcher" in command:
            continue  # tests/launchers runs such on a cluster
        if "sweep" in command and "--dry-run" not in command:
            command.append(
                "--dry-run"
            )  # hundreds of runs, in processes that know nothing of the tiny world
        if "bench" in command:
            command += ["--rounds", "6", "model.widths=[4,8]"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code, (command, capsys.readouterr())


def test_the_other_commands_of_the_readme_are_known() -> None:
    others = [command for command in COMMANDS if command and not command.startswith("normbench ")]
    assert others == ["make demo", "make test", *INSTALLING]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_demo_runs_the_demo_and_make_test_checks_style_types_and_tests() -> None:
    planned = {
        target: subprocess.run(
            ["make", "-n", "-C", str(ROOT), target], capture_output=True, text=True, check=True
        ).stdout
        for target in ("demo", "test")
    }
    assert "normbench demo" in planned["demo"]
    assert all(
        tool in planned["test"] for tool in ("ruff check", "ruff format --check", "mypy", "pytest")
    )


def test_the_table_of_the_readme_is_the_committed_one() -> None:
    table, _, _ = (ROOT / "results" / "first-light" / "table.md").read_text().partition("\n\n")
    assert table in README
    assert all(
        f"](results/{figure}.png)" in README
        for figure in ("first-light/loss", "first-sweep/batch-size")
    )


def test_every_file_that_the_documents_point_to_exists() -> None:
    for document in (*ROOT.glob("*.md"), ROOT / "results" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert target.startswith("http") or (document.parent / target).exists(), (
                document.name,
                target,
            )
