"""Sweeps for the tests of Ray and Slurm: commands of their own process, and work that dies or waits where it runs.

A run on a node finds the work functions by importing this file: its folder is on the node's PYTHONPATH.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MEASURED = {
    "train_seconds",
    "eval_seconds",
    "compile_seconds",
    "images_per_second",
    "peak_memory_mib",
}
TINY = [
    "data=synthetic",
    "data.num_train=640",
    "data.num_test=50",
    "model.widths=[8,16]",
    "batch_size=64",
]
TINY += ["train.log_every=2"]  # ten steps an epoch


# What a run does where it is


@dataclass(frozen=True)
class Held:
    """Work that trains, but waits after so many steps until `folder` holds a file `go`, or it is asked to stop."""

    folder: str
    after_steps: int

    def __call__(self, config: Any, restart: bool) -> None:
        from normbench.sweeps.launchers.launcher import train
        from normbench.train.engine import Trainer

        train_epoch = Trainer.train_epoch

        def held(trainer: Any, on_step: Any, should_stop: Callable[[], bool]) -> Any:
            def ask() -> bool:
                if trainer.step == self.after_steps:
                    note(self.folder, "held", config.run_id)
                    while not (Path(self.folder) / "go").exists() and not should_stop():
                        time.sleep(0.05)
                return should_stop()

            return train_epoch(trainer, on_step, ask)

        Trainer.train_epoch = held
        note(self.folder, "tries", config.run_id)
        train(config, restart)


@dataclass(frozen=True)
class Dying:
    """Work that trains, but the run of seed 1 is killed by itself."""

    folder: str

    def __call__(self, config: Any, restart: bool) -> None:
        from normbench.sweeps.launchers.launcher import train

        note(self.folder, "tries", config.run_id)
        if config.seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        train(config, restart)


def note(folder: str, name: str, line: str) -> None:
    with (Path(folder) / name).open("a") as file:
        file.write(f"{line}\n")


def noted(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines() if (folder / name).exists() else []


# The command


def main(work: object = None) -> None:
    """The command line, with other work than training for the runs if given. A process of the tests' own calls it."""
    from normbench import cli
    from normbench.sweeps.launchers import launchers

    if work is not None:
        build = launchers.build
        launchers.build = lambda name, restart, options: build(name, restart, work, options=options)  # type: ignore
    cli.main()


def hide_disk() -> None:
    """Whatever node a run is on, it does not see this machine's runs folder."""
    from normbench.sweeps.launchers import ray

    @contextmanager
    def nowhere(configs: object) -> Iterator[str]:
        yield "/nowhere/.shared"

    ray._marker = nowhere  # type: ignore


def be_unlucky() -> None:
    """What Ray may place on any node is on the one that will be lost, the one that is not this."""
    import ray
    import ray.dag  # else later, with actors of its own
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote

    def placed(*functions: Any, **options: Any) -> Any:
        if (
            ray.is_initialized()
            and options.get("num_cpus") == 0
            and "scheduling_strategy" not in options
        ):
            here = ray.get_runtime_context().get_node_id()
            there = next(
                node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here
            )
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(there, soft=False)
        return remote(*functions, **options)

    ray.remote = placed


@contextmanager
def started(*arguments: str, code: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """`normbench sweep` in a process of its own; `code` in place of its main function."""
    command = ["-m", "normbench"] if code is None else ["-c", f"import sweeps; {code}"]
    process = subprocess.Popen(
        [sys.executable, *command, "sweep", *arguments],
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


def sweep(*arguments: str, code: str | None = None, patience: float = 300) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a whole sweep."""
    with started(*arguments, code=code) as process:
        return ended(process, patience)


def ended(process: subprocess.Popen[str], patience: float = 300) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=patience)
    print(out, err, sep="\n")  # for whoever reads why a test failed
    return process.returncode, out, err


def until(
    condition: Callable[[], object], process: subprocess.Popen[str], patience: float = 180
) -> None:
    """Waits for something to happen while the sweep goes on."""
    end = time.monotonic() + patience
    while not condition():
        if process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(
                f"the sweep has ended with code {process.returncode}:\n{out}\n{err}"
            )
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.1)


# What became of it


def runs(folder: Path) -> dict[str, Path]:
    """The run directories by norm and seed, as `bn-s0`."""
    paths = (path.parent for path in folder.glob("*/config.yaml"))
    return {"-".join(path.name.split("-")[1::2]): path for path in paths}


def statuses(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        name: json.loads((path / "status.json").read_text()) for name, path in runs(folder).items()
    }


def states(folder: Path) -> dict[str, str]:
    return {name: status["state"] for name, status in statuses(folder).items()}


def times_resumed(path: Path) -> int:
    return len(json.loads((path / "env.json").read_text())["resumed"])


def numbers(path: Path) -> tuple[list[dict[str, str]], str]:
    """What must be equal bit for bit: the rows without their clocks, and the logged steps."""
    with (path / "metrics.csv").open() as file:
        rows = [
            {key: value for key, value in row.items() if key not in MEASURED}
            for row in csv.DictReader(file)
        ]
    return rows, (path / "steps.csv").read_text()


def assert_equals_inline(folder: Path, overrides: Sequence[str], elsewhere: Path) -> None:
    """Each run in `folder` has the numbers of the same run in this process, weights included."""
    import torch

    from normbench.sweeps.carry_out import run_plan
    from normbench.sweeps.launchers import launchers
    from normbench.sweeps.plan import make_plan
    from normbench.sweeps.sweep import Study

    plan = make_plan(
        Study("sweep", ()).with_overrides(list(overrides)),
        {"system.runs_dir": str(elsewhere), "system.threads": 1},
    )
    run_plan(plan, plan.open(), launchers.build("inline"), live=False)
    expected = runs(elsewhere)
    assert set(runs(folder)) == set(expected)
    for name, path in runs(folder).items():
        assert numbers(path) == numbers(expected[name])
        weights, others = (
            torch.load(p / "checkpoint.pt", weights_only=True)["model"]
            for p in (path, expected[name])
        )
        assert all(torch.equal(weight, others[key]) for key, weight in weights.items())
