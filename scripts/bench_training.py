"""Compares the speed of normbench's training loop with other loops: a table and a figure.

    python scripts/bench_training.py --norms bn gn --batches 64 1 --rounds 10 -o FOLDER

OMP_NUM_THREADS sets the threads of all loops but those that say theirs. Lightning and Keras take
part where they are installed: pip install 'normbench[bench]'.
"""

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import pandas as pd

from normbench.analysis.figures.costs import loops_figure
from normbench.analysis.figures.saving import save
from normbench.analysis.figures.style import PAGE
from normbench.analysis.tables.loops import loops_table
from normbench.analysis.tables.rendering import to_csv, to_markdown
from normbench.errors import NormbenchError
from normbench.timing import loops, steps
from normbench.timing.other_loops import NORMS
from normbench.timing.repeats import shares

TWO_COLUMNS = replace(PAGE, columns=2)


def main() -> None:
    """Times the loops, prints the table, writes rounds, table and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=[*NORMS])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1], metavar="SIZE")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=5, help="of each loop; they share rounds")
    known = loops.loops()
    parser.add_argument("--loops", nargs="+", choices=known, default=[*known], metavar="NAME")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="for training.csv, .md and .svg"
    )
    options = parser.parse_args()
    try:
        of_process = [*enumerate(shares(options.rounds, options.processes), 1)]
    except NormbenchError as error:
        parser.error(str(error))
    # Speeds are relative to the tutorial's.
    compared = [*dict.fromkeys(["tutorial", *options.loops])]
    rows = []
    contests = itertools.product(options.batches, options.norms, of_process)
    for batch_size, norm, (process, share) in contests:
        found = loops.compare(compared, norm, batch_size, share, process)
        for number, seconds in enumerate(found):
            for loop, of_step in seconds.items():
                rows.append((batch_size, norm, loop, process, number, of_step))
    columns = ["batch_size", "norm", "loop", "process", "round", "seconds"]
    rounds = pd.DataFrame(rows, columns=columns)
    rounds = rounds.assign(**steps.machine("cpu"))
    table = loops_table(rounds)
    print(to_markdown(table), end="")
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "training.csv").write_text(to_csv(table))
        (options.output / "training.md").write_text(to_markdown(table))
        save(loops_figure(rounds, TWO_COLUMNS), options.output / "training.svg", TWO_COLUMNS)


if __name__ == "__main__":
    main()
