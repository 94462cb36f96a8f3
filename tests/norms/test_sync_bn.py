"""SyncBatchNorm in two processes on the CPU: together they are BatchNorm on the whole batch."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor
from two_processes import SHARES, process, trained

Found = dict[str, dict[str, Tensor]]
CASES = {case: (case, {}) for case in SHARES} | {
    "without affine": ("unequal shares", {"affine": False})
}

every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("two-processes")
    mp.spawn(process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def whole(case: str) -> dict[str, Tensor]:
    """What bn finds of the whole batch in one process."""
    shares, options = CASES[case]
    return trained(None, shares, "bn", **options)


@every_case
@pytest.mark.parametrize("key", ["y of batch 0", "x of batch 0", "y of batch 1", "x of batch 1"])
def test_outputs_and_input_gradients_side_by_side_are_those_of_the_whole_batch(
    of_processes: list[Found], case: str, key: str
) -> None:
    torch.testing.assert_close(
        torch.cat([found[case][key] for found in of_processes]), whole(case)[key]
    )


@every_case
def test_parameter_gradients_sum_to_those_of_the_whole_batch(
    of_processes: list[Found], case: str
) -> None:
    wanted = {
        key: value for key, value in whole(case).items() if key.startswith(("weight", "bias"))
    }
    assert bool(wanted) == (case != "without affine")
    for key, value in wanted.items():
        torch.testing.assert_close(of_processes[0][case][key] + of_processes[1][case][key], value)


@every_case
@pytest.mark.parametrize("key", ["running_mean", "running_var", "num_batches_tracked"])
def test_every_process_keeps_the_running_statistics_of_the_whole_batch(
    of_processes: list[Found], case: str, key: str
) -> None:
    for found in of_processes:
        torch.testing.assert_close(found[case][key], whole(case)[key])


@every_case
def test_evaluation_needs_no_other_process_and_uses_the_running_statistics(
    of_processes: list[Found], case: str
) -> None:
    evaluated = torch.cat([found[case]["evaluation"] for found in of_processes])
    torch.testing.assert_close(evaluated, whole(case)["evaluation"])
