"""Kills at random moments of a sweep on a cluster: each kind once, in random order.

`NORMBENCH_KILLS=20 pytest -s tests/sweeps/launchers/test_random_kills.py` kills twenty times as
often, in a sweep of twenty times as many runs.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random

import pytest
from kit.clusters import RayCluster, SlurmCluster, slurm_jobs
from kit.kills import (
    ROUNDS,
    Besieged,
    Process,
    assert_nothing_left,
    assert_one_at_a_time,
    training,
)
from kit.launchers import RUNS, SweepCommand, planned, states

from normbench.sweeps.launchers.slurm import LOST

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 * ROUNDS)]
Kill = Callable[[Process], object]  # False: nothing was hit
CompareAlone = Callable[..., None]
SEEDS = f"seed=range(0,{6 * ROUNDS})"


class Siege:
    """A sweep of slow runs in the folder of a test, killed at random."""

    def __init__(self, folder: Path, *options: str, setup: str = "") -> None:
        self.folder = folder
        self.random = Random(ROUNDS)
        self.killed: set[str] = set()  # runs whose own process was killed
        arguments = [*RUNS, SEEDS, "system.threads=1", "--runs-dir", str(folder / "runs")]
        code = f"{setup}from kit.kills import Slow; kit.main(Slow({str(folder)!r}, 0.4))"

        def start() -> SweepCommand:
            return SweepCommand(folder, *arguments, "--retry-failed", *options, code=code)

        self.sweep = Besieged(start)

    def hit_each(self, kills: Mapping[str, Kill]) -> None:
        """Strikes with each kill as often as there are rounds, in random order."""
        names = sorted(kills) * ROUNDS
        self.random.shuffle(names)
        for name in names:
            self.sweep.until(lambda: training(self.folder))
            time.sleep(self.random.uniform(0, 2))
            print(f"kill: {name}", flush=True)
            self.sweep.until(partial(self._hits, kills[name]))

    def _hits(self, kill: Kill) -> bool:
        """Whether the kill has hit a random run in training."""
        runs = training(self.folder)
        if not runs:
            return False
        return kill(runs[self.random.choice(sorted(runs))]) is not False

    def kill_scheduler(self, process: Process) -> None:
        self.sweep.kill()

    def kill_run(self, process: Process) -> bool:
        self.killed |= {run for run, found in training(self.folder).items() if found == process}
        return process.kill()

    def check(self, assert_as_alone: CompareAlone) -> None:
        """Lets the runs finish; asserts that all are done, each as if executed alone."""
        (self.folder / "go").touch()
        self.sweep.finish()
        configs = planned(self.folder / "runs", SEEDS)
        assert states(configs) == ["done"] * len(configs)
        failed = {run for run, why in self.sweep.failed.items() if not why.endswith(LOST)}
        assert failed <= self.killed, self.sweep.failed
        assert_one_at_a_time(self.folder)
        assert_nothing_left(self.folder / "runs")
        assert_as_alone(configs)

    def stop(self) -> None:
        """Ends the sweep of a test that has failed."""
        (self.folder / "go").touch()
        self.sweep.command.process.kill()
        self.sweep.command.process.wait()


@pytest.fixture
def siege(tmp_path: Path) -> Iterator[Callable[..., Siege]]:
    """Starts a siege with options of the launcher, and with code before the command."""
    begun: list[Siege] = []

    def begin(*options: str, setup: str = "") -> Siege:
        begun.append(Siege(tmp_path, *options, setup=setup))
        return begun[-1]

    yield begin
    for each in begun:
        each.stop()


@pytest.mark.xdist_group("ray")
def test_a_sweep_on_ray_outlives_kills_of_any_of_its_processes(
    siege: Callable[..., Siege], ray_nodes: RayCluster, assert_as_alone: CompareAlone
) -> None:
    sweep = siege(*on(ray_nodes))
    sweep.hit_each(kills_on_ray(sweep, ray_nodes))
    sweep.check(assert_as_alone)


@pytest.mark.skipif(
    "NORMBENCH_KILLS" not in os.environ, reason="takes minutes more: asked for by NORMBENCH_KILLS"
)
@pytest.mark.xdist_group("ray")
def test_a_sweep_without_a_shared_disk_outlives_the_same_kills(
    siege: Callable[..., Siege], ray_nodes: RayCluster, assert_as_alone: CompareAlone
) -> None:
    unshared = (
        "import contextlib; from normbench.sweeps.launchers import ray; "
        "ray._marker = lambda configs: contextlib.nullcontext('/nowhere'); "
    )
    sweep = siege(*on(ray_nodes), setup=unshared)
    sweep.hit_each(kills_on_ray(sweep, ray_nodes))
    sweep.check(assert_as_alone)


def on(cluster: RayCluster) -> tuple[str, ...]:
    return ("--launcher", "ray", f"launcher.address={cluster.address}")


def kills_on_ray(sweep: Siege, cluster: RayCluster) -> dict[str, Kill]:
    return {
        "run": sweep.kill_run,
        "fork server": kill_fork_server,
        "worker": kill_worker,
        "node": lambda process: cluster.replace_node(),
        "scheduler": sweep.kill_scheduler,
    }


def kill_fork_server(process: Process) -> bool:
    """Kills the parent of a run on Ray."""
    server = process.parent()
    return server is not None and server.says("forkserver") and server.kill()


def kill_worker(process: Process) -> bool:
    """Kills the Ray process that waits for a run."""
    server = process.parent()
    worker = server.parent() if server else None
    return worker is not None and worker.says("ray::") and worker.kill()


@pytest.mark.xdist_group("slurm")
def test_a_sweep_on_slurm_outlives_kills_cancellations_requeues_and_lost_daemons(
    siege: Callable[..., Siege],
    slurm_node: SlurmCluster,
    assert_as_alone: CompareAlone,
    tmp_path: Path,
) -> None:
    poll_often = "from normbench.sweeps.launchers import slurm; slurm.POLL_SECONDS = 0.3; "
    sweep = siege("--launcher", "slurm", "launcher.partition=cpu", setup=poll_often)

    def tell(command: str) -> Kill:
        """Says `scontrol requeue` or the like of a random running task."""

        def say(process: Process) -> bool:
            running = slurm_jobs(tmp_path / "runs", "RUNNING")
            told = [*command.split(), sweep.random.choice(running)] if running else ["false"]
            return subprocess.run(told, check=False, capture_output=True).returncode == 0

        return say

    kills: dict[str, Kill] = {
        "run": sweep.kill_run,
        "requeue": tell("scontrol requeue"),
        "cancel": tell("scancel"),
        "scheduler": sweep.kill_scheduler,
    }
    if slurm_node.conf is not None:
        kills["slurmctld"] = lambda process: slurm_node.kill_daemons("slurmctld")
        kills["slurmd"] = lambda process: slurm_node.kill_daemons("slurmd")
        kills["both daemons"] = lambda process: slurm_node.kill_daemons("slurmctld", "slurmd")
    try:
        with slurm_node.administered():
            sweep.hit_each(kills)
            sweep.check(assert_as_alone)
    finally:
        for job in slurm_jobs(tmp_path / "runs"):
            subprocess.run(["scancel", job], check=False)
