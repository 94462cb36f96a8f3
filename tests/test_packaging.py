"""What is installed: a wheel carries every config file, and the top level stays as it is meant to be."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from normbench import __version__
from normbench.config.compose import config_dir

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    subprocess.run([*command, "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_carries_every_config_and_module(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    found = config_dir().rglob("*.yaml")
    configs = {f"normbench/configs/{path.relative_to(config_dir())}" for path in found}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "normbench").rglob("*.py")}
    assert configs | modules <= packed
    assert "normbench/py.typed" in packed
    assert __version__ in wheel.name


@pytest.mark.slow
def test_configs_are_found_from_an_unpacked_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import normbench.config.compose as c\n"
        "print(c.config_dir()); print(c.compose(['data=synthetic']).norm.name)"
    )
    printed = subprocess.check_output([sys.executable, "-c", script], cwd=tmp_path, text=True)
    assert printed.splitlines() == [str(tmp_path / "site" / "normbench" / "configs"), "bn"]


def test_the_top_level_is_what_it_is_meant_to_be() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    # An unpacked sdist has no index to ask, and carries the files listed in pyproject.toml.
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = ".gitignore ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md LICENSE Makefile README.md"
    folders = ".ci configs docs normbench results scripts tests"
    found = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert found == {*files.split(), *folders.split(), "pyproject.toml"}
