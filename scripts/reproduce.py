"""Runs a study of configs/sweep/ and writes its tables and figure: python scripts/reproduce.py STUDY [key=value ...].

The results go to results/STUDY (with dashes); runs that are done are not trained again.
"""

import sys
from pathlib import Path

from normbench.errors import NormbenchError
from normbench.study import load_study, run_study


def main() -> None:
    """Runs the study named first on the command line; the rest are overrides."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    name, *overrides = sys.argv[1:]
    try:
        run_study(load_study(name), overrides, Path("results") / name.replace("_", "-"))
    except NormbenchError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
