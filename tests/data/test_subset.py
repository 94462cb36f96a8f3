"""Balanced subsets and the held-out part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from normbench.data.source import Dataset, Split
from normbench.data.subset import hold_out, limit
from normbench.errors import NormbenchError

LABELS = st.permutations([label for label in range(4) for _ in range(7)])


def split_of(labels: list[int]) -> Split:
    """The image at index i shows i."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(3, axis=1)
    return Split.of(images=images, labels=np.array(labels, np.int64))


def shown(split: Split) -> list[int]:
    return [int(index) for index in split["images"][:, 0, 0, 0]]


def dataset_of(labels: list[int]) -> Dataset:
    return Dataset("tiny", split_of(labels), split_of(labels))


@given(LABELS, st.integers(1, 28), st.integers(1, 28), st.integers(0, 5))
def test_a_limited_set_is_balanced_and_keeps_images_with_their_labels(
    labels: list[int], num_train: int, num_test: int, seed: int
) -> None:
    limited = limit(dataset_of(labels), num_train, num_test, seed)
    for split, count in ((limited.train, num_train), (limited.test, num_test)):
        sizes = np.bincount(split["labels"], minlength=4)
        assert len(split) == count
        assert sizes.max() - sizes.min() <= 1
        assert len(set(shown(split))) == count
        assert [labels[index] for index in shown(split)] == split["labels"].tolist()


def test_a_subset_repeats_for_a_seed_and_differs_between_seeds_and_sides() -> None:
    dataset = dataset_of([0, 1, 2, 3] * 20)
    chosen = [limit(dataset, 20, 20, seed) for seed in (0, 0, 1)]
    assert shown(chosen[0].train) == shown(chosen[1].train)
    assert shown(chosen[0].train) != shown(chosen[2].train)
    assert shown(chosen[0].train) != shown(chosen[0].test)
    assert limit(dataset, None, None, seed=0) == dataset


def test_more_images_than_a_class_has_are_refused_by_their_number() -> None:
    message = "^data.limit_train=8 takes 2 images of each class, class 1 has 1$"
    with pytest.raises(NormbenchError, match=message):
        limit(dataset_of([0, 0, 1, 2, 2, 3, 3]), 8, None, seed=0)
    with pytest.raises(
        NormbenchError, match=r"^data\.limit_test=1000 takes 250 images of each class"
    ):
        limit(dataset_of([0, 1, 2, 3]), None, 1000, seed=0)


@given(LABELS, st.floats(0.1, 0.9), st.integers(0, 5))
def test_held_out_and_rest_are_disjoint_complete_and_balanced(
    labels: list[int], fraction: float, seed: int
) -> None:
    rest, held = hold_out(split_of(labels), fraction, seed)
    assert sorted(shown(rest) + shown(held)) == list(range(28))
    assert np.bincount(held["labels"], minlength=4).tolist() == [round(fraction * 7)] * 4
    for split in (rest, held):
        assert [labels[index] for index in shown(split)] == split["labels"].tolist()


def test_the_held_out_part_repeats_for_a_seed_and_differs_between_seeds() -> None:
    split = split_of([0, 1] * 30)
    held = [shown(hold_out(split, 0.3, seed)[1]) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


@pytest.mark.parametrize(
    ("fraction", "left"), [(0.001, "4 images to train and 0"), (0.999, "0 images to train and 4")]
)
def test_an_empty_part_is_refused(fraction: float, left: str) -> None:
    with pytest.raises(
        NormbenchError, match=f"^data.val_fraction={fraction} leaves {left} to validate$"
    ):
        hold_out(split_of([0, 1, 0, 1]), fraction, seed=0)


def test_samples_without_labels_are_chosen_uniformly() -> None:
    split = Split.of(tokens=np.arange(1000))
    limited = limit(Dataset("text", split, split), 500, None, seed=0).train
    rest, held = hold_out(split, 0.5, seed=0)
    assert sorted([*rest["tokens"], *held["tokens"]]) == list(range(1000))
    for chosen in (limited, held):
        assert len(set(chosen["tokens"])) == 500
        assert 220 < (chosen["tokens"] < 500).sum() < 280  # 250 expected, deviation 8


@pytest.mark.parametrize("arrays", [{}, {"images": np.zeros(2), "labels": np.zeros(3)}])
def test_a_split_has_arrays_of_one_length(arrays: dict[str, NDArray[np.float64]]) -> None:
    with pytest.raises(ValueError, match="must have one length"):
        Split(arrays)
