"""Runs side by side on this machine, in separate processes, with shares of cores and GPUs."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from multiprocessing.connection import wait

from normbench.config.schema import RunConfig
from normbench.environment import available_memory_gib, num_cores
from normbench.sweeps.launchers.child import Child, start_server
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
    share,
    train,
)

POLL_SECONDS = 0.2
GIB_PER_RUN = 2  # resident at batch 64: 1.5 to 1.6 GiB

Slot = Mapping[str, str]  # environment variables to pin a run to a share of the machine


@launchers.register("processes", title="Processes")
def processes(
    restart: bool = False,
    work: Work = train,
    *,
    jobs: Jobs = None,
    timeout: Seconds = None,
    runs_per_gpu: Number = 1,
) -> Launcher:
    """Runs side by side on this machine, each in a process of its own, cores and GPUs divided."""

    def places(configs: Sequence[RunConfig]) -> int:
        return max(1, jobs or default_jobs(configs, runs_per_gpu))

    def at_once(configs: Sequence[RunConfig]) -> int:
        return max(1, min(places(configs), len(configs)))

    def cores_each(configs: Sequence[RunConfig]) -> int | None:
        num_places = places(configs)
        return max(1, num_cores() // num_places) if num_places > 1 else None

    def launch(configs: Sequence[RunConfig], should_stop: StopAsked) -> Generator[Event]:
        num_jobs = at_once(configs)
        cores = cores_each(configs)
        waiting: deque[RunConfig] = deque()
        for config in configs:
            threads = None if cores is None else max(1, cores // config.runtime.processes)
            waiting.append(share(config, num_jobs, threads))
        free = deque(_slots(configs, num_jobs, runs_per_gpu))
        active: dict[int, tuple[Child, Slot]] = {}
        if waiting:
            start_server(configs)  # before the first child, with the modules of all runs
        try:
            while active or (waiting and not should_stop()):
                while waiting and free and not should_stop():
                    config, slot = waiting.popleft(), free.popleft()
                    child = Child(
                        config, restart=restart, timeout=timeout, environment=slot, work=work
                    )
                    active[child.sentinel] = child, slot
                    yield Event("started", config)
                for child, _ in active.values():
                    if should_stop():
                        child.stop()
                    child.watch()
                for sentinel in wait(list(active), POLL_SECONDS):
                    assert isinstance(sentinel, int)
                    child, slot = active.pop(sentinel)
                    trouble = child.settle()
                    free.append(slot)
                    yield Event("ended", child.config, trouble)
        finally:
            for child, _ in active.values():
                child.kill()

    return Launcher(launch, at_once, threads=cores_each)


def default_jobs(configs: Sequence[RunConfig], runs_per_gpu: int) -> int:
    """Returns a job per core as far as memory goes (results/LOG.md), or some jobs per GPU.

    A run of several processes takes as many cores, memory and GPUs as runs of one process.
    """
    processes = most_processes(configs)
    if _on_gpu(configs):
        return num_gpus() // processes * runs_per_gpu
    places = min(num_cores(), available_memory_gib() // GIB_PER_RUN)
    return int(places // processes)


def gpu_slots(count: int, runs_per_gpu: int, processes: int = 1) -> list[Slot]:
    """Returns the environments to pin runs to the first `count` GPUs visible to this process.

    Each has a GPU for every process of a run. The list goes round the GPUs `runs_per_gpu` times:
    few runs have GPUs of their own.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if not names:
        names = [str(index) for index in range(count)]
    slots: list[Slot] = []
    for first in range(0, min(count, len(names)) - processes + 1, processes):
        slots.append({"CUDA_VISIBLE_DEVICES": ",".join(names[first : first + processes])})
    return slots * runs_per_gpu


def num_gpus() -> int:
    """Counts the GPUs visible to this process."""
    import torch

    return torch.cuda.device_count()


def _slots(configs: Sequence[RunConfig], jobs: int, runs_per_gpu: int) -> list[Slot]:
    """Returns a slot per job; jobs beyond the number of places share places in turn."""
    places: list[Slot] = [{}]
    if _on_gpu(configs):
        places = gpu_slots(num_gpus(), runs_per_gpu, most_processes(configs)) or places
    return list(itertools.islice(itertools.cycle(places), jobs))


def _on_gpu(configs: Sequence[RunConfig]) -> bool:
    return any(config.runtime.device == "cuda" for config in configs)
