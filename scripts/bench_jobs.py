"""Does a CPU train more images a second in one run on all cores, or in as many runs of one thread
as there are cores?

Prints, for each batch size, the throughput of both, alternated over rounds: median (least to most)
and their ratio. The answer is the default of `normbench sweep --jobs`.
Usage: python scripts/bench_jobs.py [ROUNDS]
"""

import statistics
import sys
import tempfile
from pathlib import Path

from normbench.config.compose import from_settings
from normbench.environment import cpu_name, num_cores
from normbench.runs.rundir import RunDir
from normbench.sweeps.launchers import launchers
from normbench.train.resolve import resolve

STEPS = {1: 400, 8: 160, 64: 24}  # a few seconds each


def throughput(folder: Path, batch_size: int, jobs: int, round_number: int) -> float:
    """Images trained per second by `jobs` runs at a time, each with its share of the cores."""
    configs = []
    for seed in range(jobs):
        settings = {
            "data": "synthetic",
            "data.num_train": max(3200, STEPS[batch_size] * batch_size),
            "data.num_test": 10,
            "batch_size": batch_size,
            "seed": seed,
            "epochs": 1,
            "train.max_steps": STEPS[batch_size],
            "runtime.device": "cpu",
            "system.runs_dir": str(folder / f"{round_number}-{jobs}"),
            "system.cache_dir": str(folder / "cache"),
        }
        configs.append(resolve(from_settings(settings))[0])
    for _ in launchers.build("processes", options={"jobs": jobs}).launch(configs, lambda: False):
        pass
    return sum(RunDir(config.run_path).last_metrics()["images_per_second"] for config in configs)


def main() -> None:
    """Measures and prints."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cores = num_cores()
    print(
        f"{cpu_name()}, {cores} cores, {rounds} rounds after one that is not counted; "
        "images/s: median (min to max)"
    )
    with tempfile.TemporaryDirectory() as folder:
        for batch_size in STEPS:
            rates: dict[int, list[float]] = {1: [], cores: []}
            for round_number in range(rounds + 1):
                for jobs, measured in rates.items():
                    measured.append(
                        throughput(Path(folder) / str(batch_size), batch_size, jobs, round_number)
                    )
            one, many = rates[1][1:], rates[cores][1:]
            ratios = [b / a for a, b in zip(one, many, strict=True)]
            print(
                f"batch {batch_size}: 1 run of {cores} threads {_spread(one)}, "
                f"{cores} runs of 1 thread {_spread(many)}, ratio {_spread(ratios, '.2f')}",
                flush=True,
            )


def _spread(values: list[float], form: str = ".0f") -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
