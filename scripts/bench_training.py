"""How fast does normbench train, against a tutorial's loop, Lightning and what the processor can multiply at most?

Every contestant trains the same network on the same random images in a process of its own; all stay alive, and one
after the other takes steps for a second and a half, round after round, so that whatever else the machine does meets
all of them. A ratio or share is taken within each round. Everything runs on the CPU.

    python scripts/bench_training.py [--norms bn,gn] [--batches 64,1] [--rounds 7] [-o FOLDER]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pandas as pd
import torch
from training_contestants import Variant, WorkerDied, fastest
from training_loops import NORMS
from training_tables import EVALUATION, PRODUCT, Measured, has_lightning, header, section, spread

from normbench.errors import NormbenchError
from normbench.train.runtime import check_compiler, has_native_bf16

FIRST_STEP_ROUNDS = 5

# Standard output: the time at which the first step was done.
FIRST_STEP = """
import os, time
from normbench.train.engine import Trainer
train_epoch = Trainer.train_epoch
def end(log):
    print(time.time(), flush=True)
    os._exit(0)
Trainer.train_epoch = lambda trainer, on_step, should_stop: train_epoch(trainer, end, should_stop)
from normbench.cli import main
main()
"""


class Report:
    """What has been measured so far, printed as it comes and, where there is a folder, written to it."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.text = ""
        self.rows: list[pd.DataFrame] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """Adds a paragraph."""
        print(text, end="\n\n", flush=True)
        self.text += f"{text}\n\n"
        if self.folder is not None:
            (self.folder / "training.md").write_text(self.text.rstrip("\n") + "\n")

    def keep(self, measured: Measured) -> None:
        """Adds the rows of one norm and batch size."""
        rows = measured.times.reset_index().melt(
            "round", var_name="contestant", value_name="ms_per_step"
        )
        rows.insert(0, "batch_size", measured.batch_size)
        rows.insert(1, "norm", measured.norm)
        self.rows.append(rows[["batch_size", "norm", "contestant", "round", "ms_per_step"]])
        if self.folder is not None:
            pd.concat(self.rows).to_csv(self.folder / "training.csv", index=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    options = parse(arguments)
    report = Report(options.output)
    report.say(header(options.rounds))
    try:
        for batch_size in options.batches:
            measured = []
            for norm in options.norms:
                measured.append(measure(norm, batch_size, options.rounds))
                report.keep(measured[-1])
            report.say(section(batch_size, measured))
        report.say(start_up(options.norms[0], options.batches[0]))
    except WorkerDied as error:
        sys.exit(f"bench_training: {error}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--norms", type=norm_names, default=list(NORMS), help=f"default: {','.join(NORMS)}"
    )
    parser.add_argument(
        "--batches", type=lambda text: [count(n) for n in text.split(",")], default=[64, 1]
    )
    parser.add_argument(
        "--rounds", type=count, default=7, help="after one that is not counted; default: 7"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="for training.md and training.csv"
    )
    return parser.parse_args(arguments)


def norm_names(text: str) -> list[str]:
    """The norms in a comma-separated list."""
    names = text.split(",")
    if unknown := [name for name in names if name not in NORMS]:
        raise argparse.ArgumentTypeError(
            f"unknown norm '{unknown[0]}'; allowed: {', '.join(NORMS)}"
        )
    return names


def count(text: str) -> int:
    """A number from 1 on."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)


def measure(norm: str, batch_size: int, rounds: int) -> Measured:
    """Lets all contestants step in turn; the first round is not counted."""
    with ExitStack() as stack:
        print(f"batch {batch_size}, {norm} ...", file=sys.stderr, flush=True)
        entries = lineup(batch_size).items()
        raced = [fastest(name, variants, norm, batch_size, stack) for name, variants in entries]
        contestants = [contestant for contestant, _ in raced]
        by_name = {contestant.name: contestant for contestant in contestants}
        rows = []
        for _ in range(rounds + 1):
            row = {contestant.name: contestant.take() for contestant in contestants}
            rows.append(row | {EVALUATION: by_name["normbench"].take("evaluate")})
    times = pd.DataFrame(rows[1:], index=pd.RangeIndex(1, rounds + 1, name="round"))
    return Measured(norm, batch_size, contestants, times, [line for _, line in raced if line])


def lineup(batch_size: int) -> dict[str, list[Variant]]:
    """The contestants, each with the variants of which the fastest takes part."""
    cores = torch.get_num_threads()
    threads = sorted({1, cores}) if batch_size == 1 else [cores]
    loops = ["source", "in-memory", *(["lightning"] if has_lightning() else []), "normbench"]
    entries = {loop: [Variant(loop, number) for number in threads] for loop in loops}
    if batch_size == 1:
        entries["normbench x2"] = [Variant("normbench", 1, copies=2)]
        eager = [settings for settings in fast_settings() if "runtime.compile=true" not in settings]
        entries["normbench x2, fastest"] = [
            Variant("normbench", 1, settings, copies=2) for settings in eager
        ]
    choices = [
        Variant("normbench", number, settings) for settings in fast_settings() for number in threads
    ]
    entries["normbench, fastest"] = choices
    for kind in ("float32", "bfloat16") if has_native_bf16("cpu") else ("float32",):
        entries[PRODUCT + kind] = [Variant("matrix product", cores, (kind,))]
    return entries


def fast_settings() -> list[tuple[str, ...]]:
    """The settings of normbench that may be the fastest, the default ones among them."""
    layouts: list[tuple[str, ...]] = [(), ("runtime.channels_last=true",)]
    settings = [*layouts, *((*others, "runtime.onednn=false") for others in layouts)]
    with suppress(NormbenchError):
        check_compiler(True, "cpu")
        settings += [(*others, "runtime.compile=true") for others in layouts]
    if has_native_bf16("cpu"):
        settings += [(*others, "runtime.precision=bf16") for others in settings]
    return settings


def start_up(norm: str, batch_size: int) -> str:
    """How long a run takes to begin."""
    seconds = pd.Series(first_step_seconds(norm, batch_size))
    what = f"{norm}, batch {batch_size}, synthetic images from the cache; n = {len(seconds)}"
    return f"From the command `normbench train` to the end of its first step: {spread(seconds, '.2f')} s ({what})."


def first_step_seconds(norm: str, batch_size: int) -> list[float]:
    """Seconds from the command `normbench train` to the end of its first step, in fresh processes, one not counted."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        data = [
            "data=synthetic",
            "data.num_train=1000",
            "data.num_test=100",
            f"system.cache_dir={folder}/cache",
        ]
        settings = [f"norm={norm}", f"batch_size={batch_size}", "runtime.device=cpu", *data]
        for number in range(FIRST_STEP_ROUNDS + 1):
            command = [
                sys.executable,
                "-c",
                FIRST_STEP,
                "train",
                *settings,
                f"system.runs_dir={folder}/{number}",
            ]
            start = time.time()
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode != 0:
                raise WorkerDied(
                    f"`normbench train` ended with exit code {done.returncode} before its first step"
                )
            seconds.append(float(done.stdout.split()[-1]) - start)
    return seconds[1:]


if __name__ == "__main__":
    main()
