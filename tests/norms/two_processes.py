"""Runs each of the two processes of test_sync_bn.py: its share of a batch through sync_bn."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from kit.norms import layer_of, normal, results
from torch import Tensor

CHANNELS = 3
OPTIONS = {"eps": 0.01, "momentum": 0.3}
# The samples of each process, and height and width of the maps.
SHARES = {
    "equal shares": (3, 3, (4, 2)),
    "unequal shares": (1, 4, (4, 2)),
    "one value each": (1, 1, (1, 1)),
}


def batches(case: str) -> list[Tensor]:
    """Two batches, each stacked with the gradient of its output."""
    first, second, size = SHARES[case]
    shape = (first + second, CHANNELS, *size)
    return [
        torch.stack([normal(*shape, seed=seed), normal(*shape, seed=seed + 10)]) for seed in (0, 1)
    ]


def share_of(rank: int, case: str, batch: Tensor) -> Tensor:
    first = SHARES[case][0]
    return batch[:, :first] if rank == 0 else batch[:, first:]


def trained(rank: int | None, case: str, name: str, **options: Any) -> dict[str, Tensor]:
    """Results, statistics and evaluation after both batches; without a rank of whole batches."""
    layer = layer_of(name, batches(case)[0][0], **OPTIONS, **options)
    found: dict[str, Tensor] = {}
    for number, batch in enumerate(batches(case)):
        x, gradient = batch if rank is None else share_of(rank, case, batch)
        for key, value in results(layer.train(), x, gradient).items():
            found[f"{key} of batch {number}"] = value
    found |= {key: value.clone() for key, value in layer.named_buffers()}
    found["evaluation"] = layer.eval()(x).detach()
    return found


def process(rank: int, folder: str) -> None:
    """Saves what a process finds; warnings are errors, as in the tests."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        found: dict[str, Any] = {case: trained(rank, case, "sync_bn") for case in SHARES}
        found["without affine"] = trained(rank, "unequal shares", "sync_bn", affine=False)
        torch.save(found, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
