"""Batches from memory: torchvision's numbers, and an order independent of the batch size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchvision import transforms

from normbench.data.augment import FlipAndCrop
from normbench.data.loader import DeviceLoader
from normbench.data.source import Split

CPU = torch.device("cpu")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def split_of(num_images: int, height: int = 6, width: int = 5) -> Split:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (num_images, 3, height, width), dtype=np.uint8)
    return Split.of(images=images, labels=generator.integers(0, 10, num_images))


def loader_of(
    num_images: int, *, channels_last: bool = False, augment: FlipAndCrop | None = None
) -> DeviceLoader:
    return DeviceLoader(
        split_of(num_images),
        mean=MEAN,
        std=STD,
        device=CPU,
        channels_last=channels_last,
        augment=augment,
    )


def normalized(image: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What a batch of the image alone holds, shape (1, 3, h, w)."""
    loader = DeviceLoader(Split.of(images=image[None]), mean=mean, std=std, device=CPU)
    return loader.gather(torch.tensor([0]))["images"]


def test_normalization_is_torchvision_s_to_tensor_and_normalize() -> None:
    levels = np.arange(256, dtype=np.uint8)
    pixels = np.stack([levels, levels[::-1], np.roll(levels, 7)])[:, :, None]
    images = normalized(pixels, MEAN, STD)
    torchvision_s = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    expected = torchvision_s(pixels.transpose(1, 2, 0).copy())
    assert images.dtype == torch.float32
    torch.testing.assert_close(images[0], expected, rtol=1e-6, atol=1e-6)


def test_the_source_protocol_maps_pixels_to_minus_one_and_one() -> None:
    half = (0.5, 0.5, 0.5)
    images = normalized(np.array([0, 255, 0], np.uint8).reshape(3, 1, 1), half, half)
    torch.testing.assert_close(images.flatten(), torch.tensor([-1.0, 1.0, -1.0]))


def test_gather_gives_the_images_and_labels_asked_for_and_leaves_the_data_alone() -> None:
    split, loader, indices = split_of(9), loader_of(9), torch.tensor([7, 0, 7])
    batch, everything = loader.gather(indices), loader.gather(torch.arange(9))
    assert batch["labels"].tolist() == split["labels"][[7, 0, 7]].tolist()
    assert torch.equal(batch["images"], everything["images"][indices])
    np.testing.assert_array_equal(loader.tensors["images"].numpy(), split["images"])


def test_arrays_of_any_other_name_come_as_they_are() -> None:
    tokens = np.arange(12, dtype=np.int64).reshape(4, 3)
    loader = DeviceLoader(Split.of(tokens=tokens), mean=MEAN, std=STD, device=CPU)
    (batch,) = loader.in_order(4)
    assert list(batch) == ["tokens"]
    assert torch.equal(batch["tokens"], torch.from_numpy(tokens))


def test_channels_last_changes_the_layout_and_no_number() -> None:
    indices = torch.arange(5)
    plain, last = (
        loader_of(5, channels_last=layout).gather(indices)["images"] for layout in (False, True)
    )
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


@given(st.integers(1, 60), st.integers(0, 10), st.integers(0, 10))
def test_an_epoch_s_order_is_a_permutation_that_repeats(
    num_images: int, epoch: int, seed: int
) -> None:
    order = loader_of(num_images).shuffled(epoch, seed)
    assert sorted(order.tolist()) == list(range(num_images))
    assert torch.equal(order, loader_of(num_images, channels_last=True).shuffled(epoch, seed))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    loader = loader_of(60)
    drawn = [loader.shuffled(epoch, seed) for epoch in range(5) for seed in range(5)]
    assert len({tuple(order.tolist()) for order in drawn}) == 25


def test_shuffling_an_epoch_starts_its_augmentation() -> None:
    augment, indices = FlipAndCrop(30, 0, CPU), torch.arange(30)
    loader = loader_of(30, augment=augment)
    batches = []
    for epoch in (2, 0, 2):
        loader.shuffled(epoch, 0)
        batches.append(loader.gather(indices)["images"])
    assert torch.equal(batches[0], batches[2])
    assert not torch.equal(batches[0], batches[1])
    expected = FlipAndCrop(30, 0, CPU)
    expected.start_epoch(2)
    augmented = expected(torch.from_numpy(split_of(30)["images"]), indices)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    scaled = (augmented / 255 - mean) / std
    torch.testing.assert_close(batches[0], scaled, rtol=1e-6, atol=1e-6)


@given(st.integers(1, 20), st.integers(1, 25))
def test_in_order_visits_every_image_once(num_images: int, batch_size: int) -> None:
    loader, labels = loader_of(num_images), split_of(num_images)["labels"]
    batches = list(loader.in_order(batch_size))
    whole = loader.gather(torch.arange(num_images))
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == labels.tolist()
    assert torch.equal(torch.cat([batch["images"] for batch in batches]), whole["images"])
    assert {len(batch["labels"]) for batch in batches[:-1]} <= {batch_size}
    assert len(batches) == -(-num_images // batch_size)
