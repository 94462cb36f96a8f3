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

# Of one worker: the processes start once.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("sync_bn"),
    pytest.mark.parametrize("case", CASES),
]


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("two-processes")
    mp.spawn(process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_processes_are_bn_on_the_whole_batch(of_processes: list[Found], case: str) -> None:
    shares, options = CASES[case]
    first, second = (found[case] for found in of_processes)
    whole = trained(None, shares, "bn", **options)
    assert any(key.startswith("weight") for key in whole) == (case != "without affine")
    for key, wanted in whole.items():
        parts = [first[key], second[key]]
        if key.startswith(("weight", "bias")):  # gradients of parameters
            parts = [first[key] + second[key]]
        elif key.startswith(("x", "y", "evaluation")):
            parts = [torch.cat(parts)]
        # The rest, running statistics, is whole in both processes.
        for found in parts:
            torch.testing.assert_close(found, wanted, msg=lambda text, key=key: f"{key} {text}")
