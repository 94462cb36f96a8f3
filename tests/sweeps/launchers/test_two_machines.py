"""Two machines with one folder of runs, imitated by namespaces of mounts and of processes.

The folder is mounted at another path on each machine, and processes of both have equal numbers.
What one machine cannot imitate: attributes that NFS caches for seconds, and locks that outlive
a dead machine until its lease ends.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
from kit.kills import ROUNDS, Besieged, assert_nothing_left, assert_one_at_a_time
from kit.launchers import RUNS, SweepCommand, noted, planned, states

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
# The shell stays, as process 1 of the machine: with its death all of them die.
MOUNT = 'mount --bind "$1" "$2" && shift 2 && "$@"; exit $?'
SEEDS = "seed=range(0,6)"
NUM_KILLS = 3


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Besieged]]:
    """The same sweep on two machines, with a run at a time each."""
    allowed = subprocess.run([*UNSHARE, "true"], check=False, capture_output=True)
    # Containers and some kernels let only the administrator make namespaces.
    if allowed.returncode != 0:
        pytest.skip(f"no namespaces here: {allowed.stderr.decode().strip()}")
    (tmp_path / "runs").mkdir()

    def start(name: str) -> SweepCommand:
        mounted = tmp_path / name
        mounted.mkdir(exist_ok=True)
        cache = f"NORMBENCH_CACHE={tmp_path / 'cache'}-{name}"
        mount = ["sh", "-c", MOUNT, "sh", str(tmp_path / "runs"), str(mounted)]
        arguments = [*RUNS, SEEDS, "system.threads=1", "--runs-dir", str(mounted), "--jobs", "1"]
        code = f"from kit.kills import Slow; kit.main(Slow({str(tmp_path)!r}, 0.4))"
        return SweepCommand(
            tmp_path, *arguments, code=code, within=["env", cache, *UNSHARE, *mount]
        )

    started = [Besieged(partial(start, name)) for name in ("first", "second")]
    yield started
    for machine in started:
        machine.command.process.kill()
        machine.command.process.wait()


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_two_machines_share_a_sweep_and_either_may_lose_its_power(
    machines: list[Besieged], tmp_path: Path, assert_as_alone: Callable[..., None], seed: int
) -> None:
    random = Random(seed)

    def has_gone_on(steps: int) -> bool:
        return len(noted(tmp_path, "steps")) >= steps

    for _ in range(NUM_KILLS):
        machine = random.choice(machines)
        steps = len(noted(tmp_path, "steps")) + random.randint(1, 12)
        machine.until(partial(has_gone_on, steps))
        machine.kill()
    (tmp_path / "go").touch()
    for machine in machines:
        machine.finish()
        assert machine.failed == {}
    configs = planned(tmp_path / "runs", SEEDS)
    assert states(configs) == ["done"] * len(configs)
    assert_one_at_a_time(tmp_path)
    assert_nothing_left(tmp_path / "runs")
    assert_as_alone(configs)
