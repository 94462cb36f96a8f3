"""Batches from a data set that lies on the device as uint8: one permutation an epoch, no work per image in Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from normbench.data.augment import FlipAndCrop
from normbench.data.source import Split
from normbench.seeds import stream

Batch = dict[str, Tensor]


class DeviceLoader:
    """One split on the device: images are normalized by channel, (x / 255 - mean) / std."""

    def __init__(
        self,
        split: Split,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        channels_last: bool = False,
        augment: FlipAndCrop | None = None,
    ) -> None:
        self.tensors = {
            name: torch.from_numpy(array).to(device) for name, array in split.arrays.items()
        }
        self.num_samples = len(split)
        self.device = device
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.augment = augment
        std_column = torch.tensor(std).view(1, 3, 1, 1)
        self.scale = (1 / (255 * std_column)).to(device)
        self.shift = (-torch.tensor(mean).view(1, 3, 1, 1) / std_column).to(device)

    def __len__(self) -> int:
        return self.num_samples

    def shuffled(self, epoch: int, seed: int) -> Tensor:
        """The order of this epoch's images, from the stream ("order", epoch): the same for every norm and device."""
        if self.augment is not None:
            self.augment.start_epoch(epoch)
        return torch.randperm(len(self), generator=stream(seed, "order", epoch)).to(self.device)

    def gather(self, indices: Tensor) -> Batch:
        """The samples at `indices` by name; "images" are float32 of shape (n, 3, h, w), normalized."""
        batch = {name: tensor[indices] for name, tensor in self.tensors.items()}
        if "images" in batch:
            batch["images"] = self._normalized(batch["images"], indices)
        return batch

    def _normalized(self, images: Tensor, indices: Tensor) -> Tensor:
        if self.augment is not None:
            images = self.augment(images, indices)
        floats = images.to(torch.float32, memory_format=self.memory_format)
        return floats.mul_(self.scale).add_(self.shift)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every sample once, in order, for evaluation."""
        for indices in torch.arange(len(self), device=self.device).split(batch_size):
            yield self.gather(indices)
