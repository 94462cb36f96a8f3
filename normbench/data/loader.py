"""Gives batches of a split held on the device as uint8: no Python code runs per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from normbench.data.augment import FlipAndCrop
from normbench.data.source import Split
from normbench.seeds import stream

Batch = dict[str, Tensor]


class DeviceLoader:
    """Holds a split on the device; normalizes images by channel, (x / 255 - mean) / std."""

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
        arrays = split.arrays.items()
        self.tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays}
        self.num_samples = len(split)
        self.device = device
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.augment = augment
        # One product and one sum per pixel, in place, instead of two divisions and a difference.
        std_column = torch.tensor(std).view(1, 3, 1, 1)
        mean_column = torch.tensor(mean).view(1, 3, 1, 1)
        self.scale = (1 / (255 * std_column)).to(device)
        self.shift = (-mean_column / std_column).to(device)

    def __len__(self) -> int:
        return self.num_samples

    def shuffled(self, epoch: int, seed: int) -> Tensor:
        """Returns the epoch's order of samples, shape (len(self),), and begins its augmentation.

        Drawn from the stream ("order", epoch): equal for every norm, batch size and device.
        """
        if self.augment is not None:
            self.augment.start_epoch(epoch)
        return torch.randperm(len(self), generator=stream(seed, "order", epoch)).to(self.device)

    def gather(self, indices: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> Batch:
        """Returns the samples at `indices` by name; images as normalized float32 (n, 3, h, w).

        change: of the uint8 images (n, 3, h, w), before they are normalized.
        """
        batch = {name: tensor[indices] for name, tensor in self.tensors.items()}
        if "images" in batch:
            images = batch["images"]
            # Cropping bytes moves a quarter of what cropping floats would.
            if self.augment is not None:
                images = self.augment(images, indices)
            if change is not None:
                images = change(images)
            floats = images.to(torch.float32, memory_format=self.memory_format)
            batch["images"] = floats.mul_(self.scale).add_(self.shift)
        return batch

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Gives every sample once, in order, in batches of `batch_size` and a shorter last."""
        for indices in torch.arange(len(self), device=self.device).split(batch_size):
            yield self.gather(indices)
