"""Clusters started once a test run, and runs executed alone, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from kit.clusters import RayCluster, SlurmCluster, ray_cluster, slurm_cluster
from kit.launchers import assert_same_numbers

from normbench.config.schema import RunConfig
from normbench.runs.standing import standing
from normbench.sweeps.launchers import slurm as slurm_launcher
from normbench.training.run import execute


@pytest.fixture(scope="session")
def assert_as_alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Compares runs with `execute` in the test's process, called once per configuration."""
    folder = tmp_path_factory.mktemp("alone")

    def check(configs: Sequence[RunConfig]) -> None:
        for config in configs:
            alone = config.with_system(runs_dir=str(folder), progress="none")
            if standing(alone.run_path).state == "new":
                execute(alone)
            assert standing(alone.run_path).state == "done"
            assert_same_numbers(config.run_path, alone.run_path)

    return check


@pytest.fixture(scope="session")
def ray_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_node() -> Iterator[SlurmCluster]:
    with slurm_cluster() as cluster, pytest.MonkeyPatch.context() as patched:
        patched.setattr(slurm_launcher, "POLL_SECONDS", 0.3)
        yield cluster


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of runs of a test."""
    return tmp_path / "runs"
