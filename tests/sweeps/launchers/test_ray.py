"""Sweeps on a Ray cluster of two nodes with a core each; the second node can be lost."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kit.clusters import RayCluster
from kit.launchers import (
    RUNS,
    Scripted,
    SweepCommand,
    launched,
    noted,
    planned,
    states,
    times_resumed,
)
from PIL import Image

from normbench.config.schema import RunConfig
from normbench.sweeps.launchers import Launcher, launchers
from normbench.sweeps.launchers import ray as ray_launcher
from normbench.sweeps.launchers.launcher import Work, train
from normbench.sweeps.plan import make_plan
from normbench.sweeps.sweep import Sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("ray")]
Run = Callable[..., tuple[int, str, str]]
CompareAlone = Callable[..., None]


@pytest.fixture
def cluster(ray_nodes: RayCluster) -> RayCluster:
    """The cluster, with nodes without data."""
    shutil.rmtree(ray_nodes.cache_dir, ignore_errors=True)
    return ray_nodes


def built(cluster: RayCluster, work: Work = train) -> Launcher:
    return launchers.build("ray", False, work, options={"address": cluster.address})


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places actors without a strategy on the node to be lost."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote

    def placed(*functions: Any, **options: Any) -> Any:
        if options.get("num_cpus") == 0 and "scheduling_strategy" not in options:
            here = ray.get_runtime_context().get_node_id()
            nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
            there = next(node for node in nodes if node != here)
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(there, soft=False)
        return remote(*functions, **options)

    monkeypatch.setattr(ray, "remote", placed)


@pytest.mark.usefixtures("unlucky")
def test_runs_of_a_lost_node_go_on_on_another(
    cluster: RayCluster, tmp_path: Path, assert_as_alone: CompareAlone
) -> None:
    configs = planned(tmp_path / "runs", "seed=0,1,2")
    lost: list[bool] = []

    def lose_a_node() -> bool:
        if len(noted(tmp_path, "held")) == 2 and not lost:
            cluster.replace_node()
            lost.append(True)
        # The lost run again, on the new node.
        if len(noted(tmp_path, "tries")) == 3:
            (tmp_path / "go").touch()
        return False

    work = Scripted(str(tmp_path), dict.fromkeys((0, 1, 2), ("holds", 9)))
    launched(built(cluster, work), configs, lose_a_node)
    assert lost
    assert states(configs) == ["done"] * 3
    tries = Counter(noted(tmp_path, "tries"))
    assert sorted(tries.values()) == [1, 1, 2]
    resumed = [int(tries[config.run_id] == 2) for config in configs]
    assert times_resumed(configs) == resumed
    assert list((tmp_path / "runs").glob(".shared-*")) == []
    assert_as_alone(configs)


def images(folder: Path) -> None:
    """Two classes of 16 training images and 4 test images each, told apart by their brightness."""
    for side, number in (("train", 16), ("test", 4)):
        for value, name in ((60, "dark"), (180, "light")):
            (folder / side / name).mkdir(parents=True)
            for index in range(number):
                image = Image.new("RGB", (8, 8), (value, 3 * index, 100))
                image.save(folder / side / name / f"{index}.png")


def test_without_a_shared_disk_data_go_there_and_files_come_back(
    cluster: RayCluster,
    tmp_path: Path,
    normbench: Run,
    monkeypatch: pytest.MonkeyPatch,
    assert_as_alone: CompareAlone,
) -> None:
    images(tmp_path / "pets")
    assert normbench("data", "import", str(tmp_path / "pets"))[0] == 0
    shutil.rmtree(tmp_path / "pets")  # decoding fails from now on
    settings = ["data=image_folder", "model.widths=[4,8]", "batch_size=8", "epochs=3", "seed=0,1"]

    @contextmanager
    def nowhere(configs: Sequence[RunConfig]) -> Iterator[str]:
        yield "/nowhere/.shared"

    monkeypatch.setattr(ray_launcher, "_marker", nowhere)
    system = {"system.runs_dir": str(tmp_path / "runs"), "system.threads": 1}
    plan = make_plan(Sweep("pets", ()).with_overrides(settings), system)
    configs = plan.open()
    work = Scripted(str(tmp_path), dict.fromkeys((0, 1), ("holds", 6)))

    def stop() -> bool:
        if len(noted(tmp_path, "held")) == 2:
            return True
        assert not list((tmp_path / "runs").glob("*/metrics.csv"))
        return False

    launched(built(cluster, work), configs, stop)
    assert states(configs) == ["interrupted"] * 2
    assert list(cluster.cache_dir.glob("folder-pets-*"))

    launched(built(cluster), configs)
    assert states(configs) == ["done"] * 2
    assert times_resumed(configs) == [1, 1]
    written = {"config.yaml", "env.json", "status.json", "metrics.csv", "steps.csv", "correct.bits"}
    for config in configs:
        names = {file.name for file in config.run_path.iterdir()} - {".lock"}
        assert names == written | {"checkpoint.pt", "output.log"}
    assert_as_alone(configs)


def test_ctrl_c_saves_the_runs_and_the_command_it_names_goes_on(
    cluster: RayCluster, tmp_path: Path, assert_as_alone: CompareAlone
) -> None:
    configs = planned(tmp_path / "runs", "seed=0,1,2")
    settings = [*RUNS, "seed=0,1,2", "system.threads=1", "--runs-dir", str(tmp_path / "runs")]
    options = ["--launcher", "ray", f"launcher.address={cluster.address}"]
    code = f"kit.main(kit.Scripted({str(tmp_path)!r}, dict.fromkeys((0, 1), ('holds', 9))))"
    command = SweepCommand(tmp_path, *settings, *options, code=code)
    command.until(lambda: len(noted(tmp_path, "held")) == 2)
    assert command.ctrl_c() == 130
    assert states(configs) == ["interrupted", "interrupted", "new"]
    words, _, again = command.output.splitlines()[-1].partition(": normbench sweep ")
    assert words == "  not finished; the same command goes on"
    assert SweepCommand(tmp_path, *shlex.split(again)).exit_code() == 0
    assert times_resumed(configs) == [1, 1, 0]
    assert_as_alone(configs)


# Refused before anything is written


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("cpus_per_run=2", "a run needs 2 CPU, and the most that a node has is 1 CPU"),
        (
            "gpus_per_run=0.5",
            "a run needs 1 CPU, 0.5 GPU, and the most that a node has is 1 CPU, 0 GPU",
        ),
    ],
)
def test_what_the_cluster_cannot_do_is_refused(
    cluster: RayCluster, tmp_path: Path, normbench: Run, option: str, told: str
) -> None:
    options = [f"launcher.address={cluster.address}", f"launcher.{option}"]
    code, _, error = normbench("sweep", "data=synthetic", "seed=0", "--launcher", "ray", *options)
    assert code == 2
    assert error == f"normbench: launcher ray: {told}\n"
    assert not (tmp_path / "results").exists()


def test_an_address_where_nobody_listens_is_refused(
    tmp_path: Path, normbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # an earlier test has connected
    options = ["--launcher", "ray", "launcher.address=127.0.0.1:1"]
    code, _, error = normbench("sweep", "data=synthetic", "seed=0", *options)
    assert code == 2
    assert error.startswith("normbench: launcher ray: no cluster at '127.0.0.1:1': ")
    assert error.count("\n") == 1
    assert not (tmp_path / "results").exists()
