"""A Ray cluster of two simulated nodes, and a Slurm of a single node."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kit.launchers import TESTS, search_path

SLURM_SCRIPT = TESTS.parent / "scripts" / "slurm_local.sh"

# Every line on standard input loses and replaces the second node.
RAY_SCRIPT = """
import sys
from ray.cluster_utils import Cluster

size = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
head = {**size, "include_dashboard": False, "temp_dir": sys.argv[1]}
cluster = Cluster(True, head_node_args=head)

def add_node():
    for trial in range(5):
        try:
            return cluster.add_node(**size)
        except Exception as error:  # a node of a loaded machine may exceed Ray's patience
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
class RayCluster:
    """A cluster in a child process. cache_dir: the nodes' folder of data."""

    process: subprocess.Popen[str]
    address: str
    cache_dir: Path

    def replace_node(self) -> None:
        """Kills the second node and all processes of the node, then adds a node."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("replace\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "replace\n"


@contextmanager
def ray_cluster(folder: Path) -> Iterator[RayCluster]:
    """Starts two nodes with a core each; skips the test without Ray."""
    ray = pytest.importorskip("ray")
    # In /tmp, since the path of a socket in the folder may have 107 characters at most.
    ray_folder = tempfile.mkdtemp(prefix="nb-", dir="/tmp")
    # The simulated cluster writes an address into $RAY_TMPDIR/ray without making the folder.
    (Path(ray_folder) / "ray").mkdir()
    environment = {
        **os.environ,
        "NORMBENCH_CACHE": str(folder / "cache"),
        "PYTHONPATH": search_path(),
        "RAY_TMPDIR": ray_folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # 15 unless told: starved on a loaded machine
        "RAY_health_check_period_ms": "1000",
        "RAY_raylet_start_wait_time_s": "300",  # 30 unless told: too short on a loaded machine
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", RAY_SCRIPT, ray_folder],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, (folder / "log").read_text()
        yield RayCluster(process, address, folder / "cache")
    finally:
        ray.shutdown()
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()
            shutil.rmtree(ray_folder, ignore_errors=True)


@dataclass(frozen=True)
class SlurmCluster:
    """A Slurm of one node. conf: slurm.conf, or None for a Slurm that is not the tests' own."""

    conf: Path | None

    def kill_daemons(self, *names: str) -> None:
        """Kills slurmctld, slurmd or both, and starts them again; both: running jobs requeue."""
        assert self.conf is not None
        for daemon in names:
            os.kill(int((self.conf.parent / f"{daemon}.pid").read_text()), signal.SIGKILL)
        subprocess.run(["bash", SLURM_SCRIPT, "start"], check=True, capture_output=True)

    @contextmanager
    def administered(self) -> Iterator[None]:
        """Within, the node is put back to work after Slurm has drained the node.

        Slurm does so where a killed daemon has forgotten a task, and waits for an administrator.
        """
        over = threading.Event()

        def administer() -> None:
            asked = ["sinfo", "-h", "-p", "cpu", "-o", "%n %t"]
            while not over.wait(1):
                told = subprocess.run(asked, check=False, capture_output=True, text=True).stdout
                node, _, state = told.strip().partition(" ")
                if state.startswith(("drain", "drng", "down")):
                    update = ["scontrol", "update", f"nodename={node}", "state=resume"]
                    subprocess.run(update, check=False, capture_output=True)

        administrator = threading.Thread(target=administer)
        administrator.start()
        try:
            yield
        finally:
            over.set()
            administrator.join()


@contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Uses a running Slurm or starts a new one; skips the test where neither is possible."""
    pytest.importorskip("submitit")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", search_path())
        if shutil.which("sinfo"):
            asked = subprocess.run(["sinfo", "-h", "-p", "cpu"], capture_output=True, check=False)
            if asked.stdout:
                yield SlurmCluster(None)
                return
        done = subprocess.run(["bash", SLURM_SCRIPT, "start"], capture_output=True, text=True)
        # Not every machine has Slurm or lets it be started; .ci/run installs it where it can.
        if done.returncode != 0:
            pytest.skip(f"no Slurm: {done.stderr.strip()}")
        conf = done.stdout.partition("=")[2].strip()
        patched.setenv("SLURM_CONF", conf)
        try:
            yield SlurmCluster(Path(conf))
        finally:
            subprocess.run(["bash", SLURM_SCRIPT, "stop"], check=True)


def slurm_jobs(folder: Path, states: str = "PENDING,RUNNING,COMPLETING") -> list[str]:
    """The tasks in some states of sweeps in `folder`; jobs of other users are left out."""
    arrays = {path.name.partition("_")[0] for path in (folder / ".slurm").glob("*_submission.sh")}
    command = ["squeue", "--me", "-h", "-r", "-t", states, "-o", "%i"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return [job for job in listed.stdout.split() if job.partition("_")[0] in arrays]
