"""Times `normbench --help` as a whole process: python scripts/bench_help.py [ROUNDS]; to be under 0.4 s (median)."""

import platform
import statistics
import subprocess
import sys
import time


def seconds() -> float:
    """Wall seconds of one run."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "normbench", "--help"], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """One warm-up, then the rounds; prints median, minimum and maximum."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    seconds()
    times = [seconds() for _ in range(rounds)]
    print(
        f"normbench --help: median {statistics.median(times):.3f} s, min {min(times):.3f}, max {max(times):.3f}, "
        f"n = {rounds}; Python {platform.python_version()}, {platform.system()}"
    )


if __name__ == "__main__":
    main()
