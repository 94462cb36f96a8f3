"""Augments uint8 batches on the device; called by a loader before normalization."""

from __future__ import annotations

import torch
from torch import Tensor

from normbench.seeds import stream

PADDING = 4


class FlipAndCrop:
    """Flips an image with probability 1/2 and crops at a random place after 4 black pixels a side.

    Flips and shifts of an epoch are drawn for all images at once, from the stream
    ("augment", epoch), and read by the image's index: neither the batch size nor resuming in the
    middle of an epoch changes an image.
    """

    def __init__(self, num_images: int, seed: int, device: torch.device) -> None:
        self.num_images = num_images
        self.seed = seed
        self.device = device
        self.flips = torch.empty(num_images, dtype=torch.bool, device=device)
        self.shifts = torch.empty(2, num_images, dtype=torch.int64, device=device)
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draws the epoch's flips and shifts into the same memory."""
        generator = stream(self.seed, "augment", epoch)
        # A captured CUDA graph holds the addresses of both tensors, so no new ones are made.
        self.flips.copy_(torch.randint(2, (self.num_images,), generator=generator))
        self.shifts.copy_(torch.randint(2 * PADDING + 1, (2, self.num_images), generator=generator))

    def __call__(self, images: Tensor, indices: Tensor) -> Tensor:
        """Returns augmented images, uint8 (n, 3, h, w), of the samples at `indices`."""
        height, width = images.shape[-2:]
        padded = torch.nn.functional.pad(images, (PADDING,) * 4)
        down, right = self.shifts[:, indices]
        rows = down[:, None] + torch.arange(height, device=self.device)
        columns = right[:, None] + torch.arange(width, device=self.device)
        columns = torch.where(self.flips[indices][:, None], columns.flip(1), columns)
        samples = torch.arange(len(indices), device=self.device)[:, None, None]
        # The index arrays stand around the channels' slice, which puts channels last.
        cropped = padded[samples, :, rows[:, :, None], columns[:, None, :]]
        return cropped.permute(0, 3, 1, 2).contiguous()
