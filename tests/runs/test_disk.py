"""A run on a disk that goes wrong at any request, and a run killed at any: nothing is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from kit.disk import REFUSALS, Disk, asked, die, refuse
from kit.launchers import TESTS, assert_same_numbers
from kit.training import run_in

from normbench.errors import RunFailure
from normbench.runs.files import run_dirs
from normbench.runs.standing import standing

# The last of its epochs is cut short: all that a run does, in as few requests as possible.
SETTINGS = ("epochs=3", "train.log_every=4", "data.val_fraction=0.2")
STEP = 7  # between the requests tried in the quick tier: prime to the requests of a file
# And in the slow tier, for which all requests take five minutes.
SLOW_STEP = 1 if "NORMBENCH_KILLS" in os.environ else 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    return run_in(tmp_path_factory.mktemp("whole"), *SETTINGS).path


@pytest.fixture(scope="module")
def number_of_requests(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    with asked(Disk(die)) as disk:
        run_in(tmp_path_factory.mktemp("counted"), *SETTINGS)
    return disk.number


def goes_on(folder: Path, whole: Path) -> None:
    """The same command gives the same numbers, and leaves nothing else behind."""
    for path in run_dirs(folder):
        assert standing(path).state in ("new", "killed", "failed", "done"), path
    assert run_in(folder, *SETTINGS).state == "done"
    (path,) = run_dirs(folder)
    assert_same_numbers(path, whole)
    assert {file.name for file in path.iterdir()} == {file.name for file in whole.iterdir()}


def killed_at(numbers: Sequence[int], folder: Path) -> None:
    """Kills a run of its own at each of these requests."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(TESTS)!r})\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "from kit.disk import Disk, asked, die\n"
        "from kit.training import run_in\n"
        f"for number in {list(numbers)}:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        with asked(Disk(die, number)):\n"
        f"            run_in(Path({str(folder)!r}) / str(number), *{SETTINGS})\n"
        "        os._exit(0)\n"
        "    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), number\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=500, env=environment)


def test_a_run_killed_at_a_request_to_the_disk_goes_on_to_the_same_numbers(
    whole: Path, number_of_requests: int, tmp_path: Path
) -> None:
    numbers = range(3, number_of_requests, STEP)
    killed_at(numbers, tmp_path)
    for number in numbers:
        goes_on(tmp_path / str(number), whole)


@pytest.mark.slow
def test_a_run_killed_at_many_requests_to_the_disk_goes_on_to_the_same_numbers(
    whole: Path, number_of_requests: int, tmp_path: Path
) -> None:
    numbers = range(1, number_of_requests + 1, SLOW_STEP)
    killed_at(numbers, tmp_path)
    for number in numbers:
        goes_on(tmp_path / str(number), whole)


def refused_at(number: int, code: int, folder: Path, *, lasting: bool) -> bool:
    """Tries a run on a disk that refuses one request, or all from one on.

    Returns whether it was refused: a line is then its only answer.
    """
    message = None
    with asked(Disk(refuse(code), number, lasting=lasting)):
        try:
            run_in(folder, *SETTINGS)
        except RunFailure as error:
            message = str(error)
    # Without a message it was what may be left undone, such as the sync of a folder.
    if message is not None:
        assert "\n" not in message
        assert os.strerror(code) in message or "the disk is full" in message
    return message is not None


@pytest.mark.parametrize("lasting", [False, True])
def test_a_disk_that_refuses_a_request_is_named_and_the_run_goes_on_later(
    whole: Path, number_of_requests: int, tmp_path: Path, lasting: bool
) -> None:
    refused = 0
    numbers = range(2, number_of_requests, STEP)
    for place, number in enumerate(numbers):
        code = REFUSALS[place % len(REFUSALS)]
        folder = tmp_path / str(number)
        refused += refused_at(number, code, folder, lasting=lasting)
        goes_on(folder, whole)
    assert refused > len(numbers) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("code", "lasting"), [(errno.ENOSPC, True), (errno.EIO, False)])
def test_a_disk_that_refuses_any_request_is_named_and_the_run_goes_on_later(
    whole: Path, number_of_requests: int, tmp_path: Path, code: int, lasting: bool
) -> None:
    refused = 0
    numbers = range(1, number_of_requests + 1, SLOW_STEP)
    for number in numbers:
        folder = tmp_path / str(number)
        refused += refused_at(number, code, folder, lasting=lasting)
        goes_on(folder, whole)
    assert refused > len(numbers) / 2
