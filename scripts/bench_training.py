"""Prints the speed of normbench's training loop beside other loops, as a Markdown table.

    python scripts/bench_training.py --norms bn gn --batches 64 1 --rounds 10 -o rounds.csv

OMP_NUM_THREADS sets the threads of all loops but those that say theirs. Lightning and Keras take
part where they are installed: pip install 'normbench[bench]'.
"""

import argparse
import itertools
from pathlib import Path

import pandas as pd

from normbench.analysis import captions
from normbench.analysis.stats import ratio_over_processes
from normbench.analysis.tables.rendering import to_csv, to_markdown
from normbench.analysis.tables.table import Table, times
from normbench.errors import NormbenchError
from normbench.timing import loops, steps
from normbench.timing.other_loops import NORMS
from normbench.timing.repeats import shares


def main() -> None:
    """Times the loops, prints the table, writes the rounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=[*NORMS])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1], metavar="SIZE")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=5, help="of each loop; they share rounds")
    known = loops.loops()
    parser.add_argument("--loops", nargs="+", choices=known, default=[*known], metavar="NAME")
    parser.add_argument("-o", "--output", type=Path, metavar="CSV")
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
    table = tabulate(rounds.assign(**steps.machine("cpu")))
    print(to_markdown(table), end="")
    if options.output is not None:
        options.output.write_text(to_csv(table))


def tabulate(rounds: pd.DataFrame) -> Table:
    """The median milliseconds of a step, and the speed relative to the tutorial's loop."""
    shown = []
    for (batch_size, norm), group in rounds.groupby(["batch_size", "norm"], sort=False):
        seconds = group.pivot(index=["process", "round"], columns="loop", values="seconds")
        for loop in group["loop"].unique():
            speed = times(ratio_over_processes(dict(seconds["tutorial"]), dict(seconds[loop])))
            shown.append((batch_size, norm, loop, f"{1e3 * seconds[loop].median():.4g}", speed))
    columns = ["batch size", "norm", "loop", "ms per step", "speed"]
    number = len(rounds[["process", "round"]].drop_duplicates())
    over_processes = captions.over_processes([rounds["process"].nunique()])
    caption = (
        f"Median of {number} rounds, in turns; speed: the tutorial's step over the loop's, median "
        f"of the rounds' ratios, {over_processes}. {captions.machine(rounds)}."
    )
    return Table("Training loops", rounds, pd.DataFrame(shown, columns=columns), caption)


if __name__ == "__main__":
    main()
