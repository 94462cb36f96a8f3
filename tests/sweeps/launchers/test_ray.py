"""Sweeps on a Ray cluster of two nodes of one core each, simulated on this machine, of which one can be lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from sweeps import (
    FOLDER,
    TINY,
    assert_equals_inline,
    ended,
    noted,
    runs,
    started,
    states,
    statuses,
    sweep,
    times_resumed,
    until,
)

pytestmark = pytest.mark.timeout(600)

# A process of its own: Ray's warnings are not ours. For every line it reads, the second node is lost and replaced.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

size = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
cluster = Cluster(True, head_node_args={**size, "include_dashboard": False, "temp_dir": sys.argv[1]})

def add_node():
    for trial in range(5):
        try:
            return cluster.add_node(**size)
        except Exception as error:  # Ray gives a node 30 s to start, which a loaded machine may exceed
            print(error, file=sys.stderr)

node = add_node()
print(cluster.address, flush=True)
for line in sys.stdin:  # "replace"
    cluster.remove_node(node, allow_graceful=False)
    node = add_node()
    print(line.strip(), flush=True)
cluster.shutdown()
"""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster in its process; launcher: the options of a sweep on it; cache_dir: where its nodes keep data."""

    process: subprocess.Popen[str]
    launcher: tuple[str, ...]
    cache_dir: Path

    def replace_node(self) -> None:
        """Kills the second node and whatever runs on it, then adds another."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("replace\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "replace\n"


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="nb-ray-")  # the path of a socket in it must be short
    cache_dir = tmp_path_factory.mktemp("nodes")
    environment = {
        **os.environ,
        "NORMBENCH_CACHE": str(cache_dir),
        "PYTHONPATH": str(FOLDER),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_period_ms": "1000",
        "RAY_raylet_start_wait_time_s": "120",  # 30 unless told, which a loaded machine may exceed
    }
    log = tmp_path_factory.mktemp("cluster") / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, folder],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, log.read_text()
        yield Cluster(process, ("--launcher", "ray", "--address", address), cache_dir)
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(two_nodes: Cluster) -> Cluster:
    """The cluster, its nodes without any data."""
    shutil.rmtree(two_nodes.cache_dir, ignore_errors=True)
    return two_nodes


def test_runs_of_a_lost_node_go_on_on_another(cluster: Cluster, tmp_path: Path) -> None:
    study = ["seed=0,1,2", "epochs=3", *TINY]
    main = f"sweeps.be_unlucky(); sweeps.main(sweeps.Held({str(tmp_path)!r}, after_steps=13))"
    with started(
        *study, "--runs-dir", str(tmp_path / "runs"), *cluster.launcher, code=main
    ) as process:
        until(lambda: len(noted(tmp_path, "held")) == 2, process)
        cluster.replace_node()
        until(
            lambda: len(noted(tmp_path, "tries")) == 4, process
        )  # the lost run and the third one are on the new node
        (tmp_path / "go").touch()
        code, out, _ = ended(process)
    assert code == 0
    assert out.count("] done ") == 3  # and none given up before its end
    assert set(states(tmp_path / "runs").values()) == {"done"}
    tries = noted(tmp_path, "tries")
    assert sorted(map(tries.count, set(tries))) == [1, 1, 2]
    (again,) = (path for path in runs(tmp_path / "runs").values() if tries.count(path.name) == 2)
    assert times_resumed(again) == 1
    assert [path.name for path in (tmp_path / "runs").glob(".shared-*")] == []
    assert_equals_inline(tmp_path / "runs", study, tmp_path / "inline")


def test_a_run_that_kills_itself_is_failed_and_not_tried_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    arguments = [
        "seed=0,1,2",
        "epochs=1",
        *TINY,
        "--runs-dir",
        str(tmp_path / "runs"),
        *cluster.launcher,
    ]
    code, out, _ = sweep(*arguments, code=f"sweeps.main(sweeps.Dying({str(tmp_path)!r}))")
    assert code == 1
    assert states(tmp_path / "runs") == {"bn-s0": "done", "bn-s1": "failed", "bn-s2": "done"}
    assert statuses(tmp_path / "runs")["bn-s1"]["reason"].startswith("killed by SIGKILL")
    assert "--retry-failed" in out
    assert len(noted(tmp_path, "tries")) == 3


def images(folder: Path) -> None:
    """Two classes of 16 training images and 4 test images each, told apart by their brightness."""
    for side, number in (("train", 16), ("test", 4)):
        for value, name in ((60, "dark"), (180, "light")):
            (folder / side / name).mkdir(parents=True)
            for index in range(number):
                Image.new("RGB", (8, 8), (value, 3 * index, 100)).save(
                    folder / side / name / f"{index}.png"
                )


def test_without_a_shared_disk_data_go_there_and_files_come_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    images(tmp_path / "pets")
    study = [
        "data=image_folder",
        "model.widths=[4,8]",
        "batch_size=8",
        "train.log_every=1",
        "seed=0,1",
        "epochs=3",
    ]
    arguments = [*study, "--runs-dir", str(tmp_path / "runs"), *cluster.launcher]
    command = [sys.executable, "-m", "normbench", "data", "import", str(tmp_path / "pets")]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(tmp_path / "pets")  # whoever would decode them now could not

    code = f"sweeps.hide_disk(); sweeps.main(sweeps.Held({str(tmp_path)!r}, after_steps=6))"
    with started(*arguments, code=code) as process:
        until(lambda: len(noted(tmp_path, "held")) == 2, process)
        assert not list((tmp_path / "runs").glob("*/metrics.csv"))
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 130
    assert states(tmp_path / "runs") == {"bn-s0": "interrupted", "bn-s1": "interrupted"}
    assert list(cluster.cache_dir.glob("folder-pets-*"))

    code, out, _ = sweep(*arguments, code="sweeps.hide_disk(); sweeps.main()")
    assert code == 0
    assert "2 done" in out
    for path in runs(tmp_path / "runs").values():
        names = {
            "config.yaml",
            "env.json",
            "status.json",
            "metrics.csv",
            "steps.csv",
            "checkpoint.pt",
            "output.log",
        }
        assert {file.name for file in path.iterdir()} - {".lock"} == names
        assert times_resumed(path) == 1
    assert_equals_inline(tmp_path / "runs", study, tmp_path / "inline")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--cpus-per-run", "2"], "a run needs 2 CPU, and the most that a node has is 1 CPU"),
        (
            ["--gpus-per-run", "0.5"],
            "a run needs 1 CPU, 0.5 GPU, and the most that a node has is 1 CPU, 0 GPU",
        ),
    ],
)
def test_what_the_cluster_cannot_do_is_refused(
    cluster: Cluster, tmp_path: Path, options: list[str], reason: str
) -> None:
    code, _, error = sweep(
        "norm=bn,gn",
        *TINY,
        "--runs-dir",
        str(tmp_path / "runs"),
        *cluster.launcher,
        *options,
        patience=120,
    )
    assert code == 2
    assert error.startswith(f"normbench: launcher ray: {reason}")
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_an_address_where_nobody_listens_is_refused(
    normbench: Callable[..., tuple[int, str, str]],
) -> None:
    pytest.importorskip("ray")
    code, _, error = normbench(
        "sweep", "norm=bn,gn", *TINY, "--launcher", "ray", "--address", "127.0.0.1:1"
    )
    assert code == 2
    assert error.startswith("normbench: launcher ray: no cluster at '127.0.0.1:1': ")
    assert error.count("\n") == 1
    assert not Path("results").exists()
