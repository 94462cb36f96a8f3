"""What every test may rely on: one thread, seeded random numbers, a cache apart from the user's,
hypothesis without a stopwatch, the command line, and run directories without the training."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings

pytest.register_assert_rewrite("kit")

from kit import runs  # noqa: E402

from normbench import cli  # noqa: E402
from normbench.sweeps import step_times  # noqa: E402

Run = Callable[..., tuple[int, str, str]]
LeaveRun = Callable[..., Path]

settings.register_profile(
    "normbench", deadline=None, derandomize=True, max_examples=30, database=None
)
settings.load_profile("normbench")


# A run makes 20 to 30 fsyncs and the suite some hundred runs: in memory they cost nothing. A
# container may have a /dev/shm of 64 MiB, too small for a test run.
SHARED_MEMORY = Path("/dev/shm")
if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(SHARED_MEMORY))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests of a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no cuda device is here")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and the machine may be training."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Each test draws what it draws alone, whichever tests its worker ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """Restores Ctrl-C, which a shell ignores in background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of decoded images for all workers of a test run: no test decodes twice."""
    base = tmp_path_factory.getbasetemp()
    # Under xdist every worker has a folder of its own below a common one.
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return common / "normbench-cache"


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user(shared_cache: Path) -> Iterator[None]:
    """Points $NORMBENCH_CACHE away from the user's cache, for session fixtures too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NORMBENCH_CACHE", str(shared_cache))
        yield


@pytest.fixture(autouse=True)
def no_steps_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans without the process that times steps: it takes the seconds of torch's import."""
    monkeypatch.setattr(step_times, "MOST_KINDS", 0)


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$NORMBENCH_CACHE in the test's own folder, for tests of the cache itself."""
    monkeypatch.setenv("NORMBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def normbench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Runs the command line in this process, in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["normbench", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        code = stop.value.code
        captured = capsys.readouterr()
        return 0 if code is None else int(code), captured.out, captured.err

    return run


@pytest.fixture
def leave_run() -> LeaveRun:
    """Leaves the directory of a run that was not trained: `kit.runs.leave_run`."""
    return runs.leave_run


@pytest.fixture
def write_run(tmp_path: Path) -> LeaveRun:
    """Writes a run by its id into the folder `runs` of this test: `kit.runs.write_run`."""
    return partial(runs.write_run, tmp_path / "runs")
