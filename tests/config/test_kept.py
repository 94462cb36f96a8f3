"""Compositions kept for later processes: those of Hydra, and none of files that have changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from normbench.config import compose as compose_module
from normbench.config.compose import compose, config_dir
from normbench.config.kept import FILE, Kept


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_dir: Path) -> Path:
    """A copy of configs/, composed from in place of configs/; nothing of it is kept yet."""
    folder = tmp_path / "configs"
    shutil.copytree(config_dir(), folder)
    monkeypatch.setattr(compose_module, "config_dir", lambda: folder)
    forget()
    return folder


def forget() -> None:
    """Forgets what this process has read, as a new process would."""
    compose_module._kept.cache_clear()
    compose_module._groups.cache_clear()


def test_what_is_kept_is_what_hydra_composes(configs: Path) -> None:
    first = compose(["norm=gn", "optim=sgd"])
    kept = Kept(configs)
    for name in ("train", "norm/gn", "optim/sgd"):
        assert kept.get(name) == compose_module._by_hydra(name, configs)
    forget()
    assert compose(["norm=gn", "optim=sgd"]) == first


def test_a_process_after_another_composes_without_hydra(cache_dir: Path) -> None:
    code = (
        "import sys; from normbench.config.compose import compose; "
        "compose(['norm=gn', 'epochs=2', 'optim.lr=3e-4', 'system.runs_dir=/tmp/a-b']); "
        "print('hydra' in sys.modules)"
    )
    found = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        found.append(done.stdout.decode().strip())
    assert found == ["True", "False"]


@pytest.mark.parametrize("file", ["norm/gn.yaml", "data/_common.yaml", "train.yaml"])
def test_a_changed_file_is_composed_anew(configs: Path, file: str) -> None:
    before = compose(["norm=gn"])
    text = (configs / file).read_text()
    for old, new in (
        ("num_groups: 4", "num_groups: 8"),
        ("none #", "standard #"),
        ("64 #", "65 #"),
    ):
        text = text.replace(old, new)
    (configs / file).write_text(text)
    forget()
    assert compose(["norm=gn"]) != before


@pytest.mark.parametrize("damage", [b"", b"null", b'{"content": 1}', b"\xff\x00"])
def test_a_damaged_file_is_composed_and_written_anew(
    configs: Path, cache_dir: Path, damage: bytes
) -> None:
    before = compose()
    whole = (cache_dir / FILE).read_bytes()
    (cache_dir / FILE).write_bytes(damage)
    forget()
    assert compose() == before
    assert (cache_dir / FILE).read_bytes() == whole


def test_a_changed_value_in_the_kept_file_is_not_believed(configs: Path, cache_dir: Path) -> None:
    before = compose()
    kept = (cache_dir / FILE).read_bytes()
    assert b"0.001" in kept
    (cache_dir / FILE).write_bytes(kept.replace(b"0.001", b"0.002"))
    forget()
    assert compose() == before


def test_a_disk_that_refuses_is_no_hindrance(configs: Path, cache_dir: Path) -> None:
    cache_dir.write_text("no folder")
    assert compose().norm.name == "bn"


def test_a_cache_that_is_no_path_is_no_hindrance(
    configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMBENCH_CACHE", "~nobody-here")
    assert compose().norm.name == "bn"


def test_what_hydra_composed_while_a_file_changed_is_not_kept(
    configs: Path, cache_dir: Path
) -> None:
    kept = Kept(configs)
    (configs / "norm" / "gn.yaml").write_text("name: gn\n")
    kept.add("norm/gn", "{}")
    assert not (cache_dir / FILE).exists()
