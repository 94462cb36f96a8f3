"""Batches from a data set that lies on the device as uint8: one permutation an epoch, no work per image in Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from normbench.data.augment import FlipAndCrop
from normbench.data.source import Split
from normbench.seeds import stream


class DeviceLoader:
    """Images of one split, normalized as they are asked for: (x / 255 - mean) / std per channel."""

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
        self.images = torch.from_numpy(split.images).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.device = device
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.augment = augment
        std_column = torch.tensor(std).view(1, 3, 1, 1)
        self.scale = (1 / (255 * std_column)).to(device)
        self.shift = (-torch.tensor(mean).view(1, 3, 1, 1) / std_column).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def shuffled(self, epoch: int, seed: int) -> Tensor:
        """The order of this epoch's images, from the stream ("order", epoch): the same for every norm and device."""
        if self.augment is not None:
            self.augment.start_epoch(epoch)
        return torch.randperm(len(self), generator=stream(seed, "order", epoch)).to(self.device)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The normalized images, float32 of shape (n, 3, h, w), and their labels."""
        images = self.images[indices]
        if self.augment is not None:
            images = self.augment(images, indices)
        floats = images.to(torch.float32, memory_format=self.memory_format)
        return floats.mul_(self.scale).add_(self.shift), self.labels[indices]

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, in order, for evaluation."""
        for indices in torch.arange(len(self), device=self.device).split(batch_size):
            yield self.gather(indices)
