"""The distributions carry every file they need, and the top level stays as it is meant to be."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from normbench import __version__
from normbench.config.compose import config_dir

ROOT = Path(__file__).parents[1]


def tracked() -> set[str]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    # An unpacked sdist has no index to ask.
    if listed.returncode:
        pytest.skip("not a git checkout")
    return set(listed.stdout.splitlines())


def test_committed_studies_name_no_folder_of_one_machine() -> None:
    records = [ROOT / name for name in tracked() if name.endswith("/env.json")]
    assert records
    for record in records:
        for environment in json.loads(record.read_text()).values():
            words = str(environment.get("command")).replace("=", " ").split()
            assert not [word for word in words if word.startswith(("/", "~"))], record


def of_the_packages(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a slow test of one worker, where the packages are built once."""
    return pytest.mark.xdist_group("packages")(pytest.mark.slow(test))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the sdist, and of the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@of_the_packages
def test_the_sdist_carries_every_file_but_those_of_the_checks(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    assert {name for name in tracked() if not name.startswith(".ci/")} <= packed


@of_the_packages
def test_the_wheel_carries_every_config_and_every_file_of_the_package(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    found = config_dir().rglob("*.yaml")
    configs = {f"normbench/configs/{path.relative_to(config_dir())}" for path in found}
    files = {name for name in tracked() if name.startswith("normbench/")}
    assert {"normbench/py.typed", "normbench/analysis/published.yaml"} <= files
    assert configs | files <= packed
    assert __version__ in wheel.name


@of_the_packages
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
    files = ".gitignore ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md LICENSE Makefile README.md"
    folders = ".ci configs docs normbench results scripts tests"
    found = {name.split("/")[0] for name in tracked()}
    assert found == {*files.split(), *folders.split(), "pyproject.toml"}
