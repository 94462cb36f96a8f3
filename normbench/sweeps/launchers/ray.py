"""Runs as tasks of a Ray cluster (the extra `ray`).

A task starts a run in a child process: a crash belongs to the run, and a retry by Ray means a lost
node. Without a shared disk, the files of the run travel with the task and come back with the
result. Decoded data are put into the object store once, for nodes without the data.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import tempfile
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import Field

from normbench.atomic import disk_errors, write_bytes
from normbench.config.schema import RunConfig
from normbench.data.cache import cached_source, pack, unpack
from normbench.errors import NormbenchError
from normbench.runs.rundir import FILES, open_run
from normbench.runs.state import status_bytes
from normbench.sweeps.launchers.child import Child, settle
from normbench.sweeps.launchers.launcher import (
    Event,
    Jobs,
    Launcher,
    Number,
    Seconds,
    StopAsked,
    Work,
    launchers,
    most_processes,
    share_elsewhere,
    train,
)
from normbench.training.resolve import Resolver, data_home

POLL_SECONDS = 0.5
MAX_LOST_NODES = 3  # per run

Files = dict[str, bytes]  # contents by name


@launchers.register("ray", title="Ray")
def ray(
    restart: bool = False,
    work: Work = train,
    *,
    jobs: Jobs = None,
    timeout: Seconds = None,
    address: str | None = None,
    cpus_per_run: Number = 1,
    gpus_per_run: Annotated[float, Field(ge=0)] = 0.0,
) -> Launcher:
    """Tasks on a Ray cluster, local without an address; GPUs may be shared: 0.25 a run.

    A run of several processes has `cpus_per_run` and `gpus_per_run` for each of them, on one node.
    """

    def at_once(configs: Sequence[RunConfig]) -> int:
        processes = most_processes(configs)
        needs = {"CPU": float(cpus_per_run * processes), "GPU": gpus_per_run * processes}
        return max(1, min(jobs or len(configs), _places(address, needs), len(configs)))

    def launch(configs: Sequence[RunConfig], should_stop: StopAsked) -> Generator[Event]:
        api = _connect(address)
        stop = api.remote(num_cpus=0, scheduling_strategy=_here(api))(_StopFlag).remote()
        task = api.remote(max_retries=MAX_LOST_NODES)(_run_on_node)
        places = at_once(configs)
        waiting = deque(share_elsewhere(config, places, cpus_per_run) for config in configs)
        by_content = {config.data.content: config for config in configs}
        data = {}
        for content, config in by_content.items():
            packed = pack(Resolver().source(config), data_home(config))
            data[content] = api.put(packed)
        active: dict[Any, tuple[RunConfig, bytes | None]] = {}
        with _marker(waiting) as marker:
            while active or (waiting and not should_stop()):
                if should_stop():
                    stop.set.remote()
                while waiting and len(active) < places and not should_stop():
                    config = waiting.popleft()
                    files = {} if restart else _files(config.run_path)
                    # In a list, references travel as references; Ray would fetch bare arguments.
                    carried = [data[config.data.content], stop]
                    processes = config.runtime.processes
                    reserved = task.options(
                        num_cpus=cpus_per_run * processes, num_gpus=gpus_per_run * processes
                    )
                    given = config, restart, timeout, work, marker, files, carried
                    reference = reserved.remote(*given)
                    active[reference] = config, status_bytes(config.run_path)
                    yield Event("started", config)
                for reference in api.wait(list(active), timeout=POLL_SECONDS)[0]:
                    config, before = active.pop(reference)
                    trouble = _bring_back(api, reference, config, before, restart)
                    yield Event("ended", config, trouble)

    return Launcher(launch, at_once, "cuda" if gpus_per_run else "cpu")


class _StopFlag:
    """An actor polled by the tasks. Cancelled tasks would neither save nor return files."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


def _run_on_node(
    config: RunConfig,
    restart: bool,
    timeout: float | None,
    work: Work,
    marker: str,
    files: Files,
    carried: Sequence[Any],
) -> Files | None:
    """Trains the run in a child process; returns its files where the disk is not shared."""
    import ray as api

    data, stop = carried
    home = data_home(config)
    if cached_source(str(config.data.content), home) is None:
        name, files_of_data = api.get(data)
        unpack(name, files_of_data, home)

    def train_in_child(there: RunConfig) -> None:
        child = Child(there, restart=restart, timeout=timeout, work=work)
        child.wait(lambda: bool(api.get(stop.is_set.remote())), every=1.0)

    if Path(marker).exists():
        train_in_child(config)
        return None
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        away = config.with_system(runs_dir=folder)
        away.run_path.mkdir(parents=True)
        for name, content in files.items():
            (away.run_path / name).write_bytes(content)
        train_in_child(away)
        return _files(away.run_path)


def _bring_back(
    api: Any, reference: Any, config: RunConfig, before: bytes | None, restart: bool
) -> str | None:
    """Writes the files of a run from its node; returns the reason of a failure not recorded."""
    try:
        # A task that returns has settled its run on the node. Without a status: stopped early.
        files = api.get(reference)
        if files is not None:
            _write(config.run_path, files)
    except (api.exceptions.RayError, NormbenchError) as error:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()  # Ray colours its tracebacks
        reason = f"{type(error).__name__}: {plain.splitlines()[-1]}"
        return settle(config, before, reason, restart=restart)
    return None


def _write(path: Path, files: Files) -> None:
    """Writes the status last: after a kill half-way the run is not over and is trained again.

    Checkpoints come after the rows that they vouch for.
    """

    def order(name: str) -> tuple[bool, bool]:
        return name == "status.json", name.startswith("checkpoint")

    with open_run(path):
        for name in sorted(files, key=order):
            write_bytes(path / name, files[name])
        # With a status all files have come: the run removed the others on its node.
        removed = {*FILES} - files.keys() if "status.json" in files else set()
        for name in removed:
            with disk_errors(path / name):
                (path / name).unlink(missing_ok=True)


def _files(path: Path) -> Files:
    return {file.name: file.read_bytes() for file in path.glob("[!.]*") if file.is_file()}


@contextmanager
def _marker(configs: Sequence[RunConfig]) -> Iterator[str]:
    """Creates a file in the runs folder, the sign of a shared disk for tasks.

    Removes the files of killed sweeps: a living sweep holds a lock on its file.
    """
    folder = configs[0].run_path.parent
    path = folder / f".shared-{uuid.uuid4().hex}"
    lock = FileLock(path)
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.glob(".shared-*"):
            _remove_unlocked(other)
        lock.acquire()
    try:
        yield str(path)
    finally:
        lock.release()
        _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError), FileLock(path, timeout=0):  # a timeout is an OSError
        path.unlink()


def _here(api: Any) -> Any:
    """Places an actor on this node. Ray would choose any node, and may lose the node later."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(api.get_runtime_context().get_node_id(), soft=False)


def _connect(address: str | None) -> Any:
    """Returns the package ray, connected to the cluster at `address` or to a new local cluster."""
    # Workers of a sweep under `uv run` would otherwise build environments of their own.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray as api
    except ModuleNotFoundError:
        raise NormbenchError("launcher ray needs ray: pip install 'normbench[ray]'") from None
    if api.is_initialized():
        return api
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options["include_dashboard"] = False
    try:
        _knock(address)
        # Not None: Ray would join any cluster found on the machine.
        api.init(address=address or "local", **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise NormbenchError(f"launcher ray: no cluster at '{address}': {reason}") from None
    return api


def _knock(address: str | None) -> None:
    """Raises OSError where nobody listens at host:port; Ray would go on trying for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _places(address: str | None, needs: Mapping[str, float]) -> int:
    """Counts the places for runs in the cluster; none is an error: Ray would wait in silence."""
    nodes = [node["Resources"] for node in _connect(address).nodes() if node["Alive"]]
    asked = {name: amount for name, amount in needs.items() if amount > 0}
    places = 0
    for node in nodes:
        # The small term: 1 / 0.1 runs per GPU are 10, and rounding may have made 9.999.
        places += min(int(node.get(name, 0) / amount + 1e-9) for name, amount in asked.items())
    if places == 0:
        most = {name: max(node.get(name, 0) for node in nodes) for name in asked}
        raise NormbenchError(
            f"launcher ray: a run needs {_listed(asked)}, "
            f"and the most that a node has is {_listed(most)}"
        )
    return places


def _listed(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items())
