"""Flip and crop: outputs against all possible crops, and independence of batching."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from normbench.data.augment import PADDING, FlipAndCrop

CPU = torch.device("cpu")
NUM_IMAGES = 40
HEIGHT, WIDTH = 6, 5


def some_images() -> Tensor:
    """Images of different pixels, none of them black."""
    generator = np.random.default_rng(0)
    pixels = [generator.permutation(255)[: 3 * HEIGHT * WIDTH] + 1 for _ in range(NUM_IMAGES)]
    return torch.tensor(np.array(pixels), dtype=torch.uint8).view(-1, 3, HEIGHT, WIDTH)


IMAGES = some_images()


def augmented(seed: int, epoch: int, indices: Tensor) -> Tensor:
    augment = FlipAndCrop(NUM_IMAGES, seed, CPU)
    augment.start_epoch(epoch)
    return augment(IMAGES[indices], indices)


def every_crop(image: Tensor) -> dict[tuple[int, int, bool], Tensor]:
    """The oracle: pads an image with black, cuts at every place, mirrored or not."""
    padded = torch.zeros(3, HEIGHT + 2 * PADDING, WIDTH + 2 * PADDING, dtype=torch.uint8)
    padded[:, PADDING : PADDING + HEIGHT, PADDING : PADDING + WIDTH] = image
    crops = {}
    for down, right in itertools.product(range(2 * PADDING + 1), repeat=2):
        crop = padded[:, down : down + HEIGHT, right : right + WIDTH]
        crops[down, right, False] = crop
        crops[down, right, True] = crop.flip(2)
    return crops


@pytest.mark.parametrize("epoch", [0, 1])
def test_every_output_is_a_crop_of_its_padded_image_mirrored_or_not(epoch: int) -> None:
    outputs = augmented(0, epoch, torch.arange(NUM_IMAGES))
    assert outputs.dtype == torch.uint8
    assert outputs.is_contiguous()
    used = set()
    for image, output in zip(IMAGES, outputs, strict=True):
        matching = [place for place, crop in every_crop(image).items() if torch.equal(crop, output)]
        assert matching
        used.add(matching[0])
    assert len(used) > NUM_IMAGES / 2, "images are treated alike"


@given(
    st.integers(0, 5),
    st.integers(0, 3),
    st.permutations(range(NUM_IMAGES)),
    st.integers(1, NUM_IMAGES),
)
def test_what_happens_to_an_image_depends_on_its_index_alone(
    seed: int, epoch: int, order: list[int], batch_size: int
) -> None:
    whole = augmented(seed, epoch, torch.arange(NUM_IMAGES))
    parts = [augmented(seed, epoch, indices) for indices in torch.tensor(order).split(batch_size)]
    assert torch.equal(torch.cat(parts), whole[torch.tensor(order)])


def test_seeds_and_epochs_draw_anew() -> None:
    indices = torch.arange(NUM_IMAGES)
    outputs = [augmented(seed, epoch, indices) for seed in (0, 1) for epoch in (0, 1)]
    for first, second in itertools.combinations(outputs, 2):
        assert (first != second).flatten(1).any(1).sum() > NUM_IMAGES / 2


def test_a_new_augmentation_stands_at_epoch_0() -> None:
    indices = torch.arange(NUM_IMAGES)
    new = FlipAndCrop(NUM_IMAGES, 3, CPU)
    assert torch.equal(new(IMAGES, indices), augmented(3, 0, indices))


def test_half_of_the_images_are_mirrored_and_every_shift_is_equally_likely() -> None:
    num_images = 20_000
    augment = FlipAndCrop(num_images, 0, CPU)
    # Column c holds c + 1, row r adds 16 r: an inner pixel tells the shift, two the mirroring.
    image = torch.arange(1, 11)[None, :] + 16 * torch.arange(10)[:, None]
    images = image.to(torch.uint8).expand(num_images, 3, 10, 10)
    outputs = augment(images, torch.arange(num_images))[:, 0].long()
    mirrored = outputs[:, 5, 4] > outputs[:, 5, 5]
    assert abs(mirrored.double().mean() - 0.5) < 5 * 0.5 / num_images**0.5

    unmirrored = torch.where(mirrored[:, None, None], outputs.flip(2), outputs)[:, 5, 5]
    down, right = (unmirrored - 1) // 16 - 5 + PADDING, (unmirrored - 1) % 16 - 5 + PADDING
    counts = torch.bincount(down * (2 * PADDING + 1) + right, minlength=81).double()
    assert len(counts) == 81
    expected = num_images / 81
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # 80 degrees of freedom: 145 has a chance of 1e-5.
    assert chi_square < 145
