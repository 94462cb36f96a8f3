"""Augmentation of uint8 batches on the device: a small callable that a loader applies."""

from __future__ import annotations

import torch
from torch import Tensor

from normbench.seeds import stream

PADDING = 4


class FlipAndCrop:
    """Horizontal flip with probability 1/2, and a crop at a random place after 4 black pixels of padding.

    What happens to an image in an epoch is drawn for all images at once, from the stream ("augment", epoch), by the
    image's index: it depends neither on the batch size nor on where in the epoch a run is taken up again.
    """

    def __init__(self, num_images: int, seed: int, device: torch.device) -> None:
        self.num_images = num_images
        self.seed = seed
        self.device = device
        self.flips = torch.empty(num_images, dtype=torch.bool, device=device)
        self.shifts = torch.empty(2, num_images, dtype=torch.int64, device=device)
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draws this epoch's flips and shifts, into the same memory: a captured step knows them by their place."""
        generator = stream(self.seed, "augment", epoch)
        self.flips.copy_(torch.randint(2, (self.num_images,), generator=generator))
        self.shifts.copy_(torch.randint(2 * PADDING + 1, (2, self.num_images), generator=generator))

    def __call__(self, images: Tensor, indices: Tensor) -> Tensor:
        """The augmented images, uint8 of shape (n, 3, h, w), for the images at `indices`."""
        height, width = images.shape[-2:]
        padded = torch.nn.functional.pad(images, (PADDING,) * 4)
        down, right = self.shifts[:, indices]
        rows = down[:, None] + torch.arange(height, device=self.device)
        columns = right[:, None] + torch.arange(width, device=self.device)
        columns = torch.where(self.flips[indices][:, None], columns.flip(1), columns)
        samples = torch.arange(len(indices), device=self.device)[:, None, None]
        return (
            padded[samples, :, rows[:, :, None], columns[:, None, :]]
            .permute(0, 3, 1, 2)
            .contiguous()
        )
