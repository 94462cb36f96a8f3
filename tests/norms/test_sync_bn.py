"""SyncBatchNorm in two processes on the CPU: together they are BatchNorm on the whole batch."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor
from two_processes import SHARES, process, trained

Found = dict[str, dict[str, Tensor]]
CASES = {case: (case, {}) for case in SHARES}
CASES["without affine"] = ("unequal shares", {"affine": False})

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("case", CASES)]


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("two-processes")
    mp.spawn(process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def whole(case: str) -> dict[str, Tensor]:
    """The results of bn on whole batches, in one process."""
    shares, options = CASES[case]
    return trained(None, shares, "bn", **options)


def test_outputs_and_input_gradients_side_by_side_are_those_of_the_whole_batch(
    of_processes: list[Found], case: str
) -> None:
    wanted = whole(case)
    for key in ("y of batch 0", "x of batch 0", "y of batch 1", "x of batch 1", "evaluation"):
        shares = [found[case][key] for found in of_processes]
        torch.testing.assert_close(torch.cat(shares), wanted[key])


def test_parameter_gradients_sum_to_those_of_the_whole_batch(
    of_processes: list[Found], case: str
) -> None:
    keys = [key for key in whole(case) if key.startswith(("weight", "bias"))]
    assert bool(keys) == (case != "without affine")
    for key in keys:
        first, second = (found[case][key] for found in of_processes)
        torch.testing.assert_close(first + second, whole(case)[key])


def test_every_process_keeps_the_running_statistics_of_the_whole_batch(
    of_processes: list[Found], case: str
) -> None:
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        for found in of_processes:
            torch.testing.assert_close(found[case][key], whole(case)[key])
