"""The generated source: the same bytes everywhere, and the class in shape and texture alone."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from normbench.data.formats import synthetic
from normbench.data.source import DataHome, Source, Split, sources
from normbench.errors import NormbenchError

# Bonferroni over 10 classes x 6 statistics at a family level of 0.1 %: two-sided normal quantile
# of 0.001 / 60.
LARGEST_Z = 4.31


def source(num_train: int = 40, num_test: int = 20, seed: int = 0) -> Source:
    options = {"num_train": num_train, "num_test": num_test, "seed": seed}
    return sources.build("synthetic", DataHome(Path("unused")), options=options)


def digest(*splits: Split) -> str:
    sha256 = hashlib.sha256()
    for split in splits:
        sha256.update(split["images"].tobytes())
        sha256.update(split["labels"].astype("<i8").tobytes())
    return sha256.hexdigest()


@pytest.fixture(scope="module")
def large() -> tuple[Split, Split]:
    return source(4_000, 1_000).decode()


def test_the_bytes_of_version_1_are_these_on_every_platform() -> None:
    assert synthetic.VERSION == 1, "a new version has a new digest"
    expected = "541ddf45af4d58c9140553307c8f59bc8d44471ac114126d5ac45ced71cb2978"
    assert digest(*source().decode()) == expected


def test_the_ten_classes_are_named_and_every_option_is_in_the_content() -> None:
    assert source().classes[:3] == ("disc-striped", "disc-checked", "square-striped")
    assert len(set(source().classes)) == 10
    assert source(30, 20, 7).content == "synthetic-v1-30-20-7"


def test_another_seed_gives_other_images_and_another_order() -> None:
    (first, _), (other, _) = source(seed=0).decode(), source(seed=1).decode()
    assert not (first["images"] == other["images"]).all(axis=(1, 2, 3)).any()
    assert (first["labels"] != other["labels"]).any()


def test_no_image_occurs_twice_within_or_across_the_splits(large: tuple[Split, Split]) -> None:
    images = {image.tobytes() for split in large for image in split["images"]}
    assert len(images) == sum(len(split) for split in large)


def test_a_smaller_set_is_the_beginning_of_a_larger_one() -> None:
    for small, big in zip(source(25, 15).decode(), source(200, 100).decode(), strict=True):
        assert digest(small) == digest(big.take(np.arange(len(small))))


def test_the_chunk_size_changes_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(*source(100, 20).decode())
    monkeypatch.setattr(synthetic, "CHUNK", 7)
    assert digest(*source(100, 20).decode()) == before


def test_the_classes_are_balanced_to_within_one_image_and_shuffled() -> None:
    train, test = source(1_000, 47).decode()
    for split in (train, test):
        counts = np.bincount(split["labels"], minlength=10)
        assert counts.max() - counts.min() <= 1
    assert len({tuple(block) for block in train["labels"].reshape(-1, 10)}) == 100


def test_the_same_draws_give_the_same_surroundings_in_every_class() -> None:
    words = np.random.Philox(key=5).random_raw(20 * synthetic.NUM_WORDS).reshape(20, -1)
    by_class = np.stack([synthetic._images(words, np.full(20, label)) for label in range(10)])
    # No shape reaches a corner: 1.556 * 9.5 (triangle) + 4 * sqrt(2) (place) < 15.5 * sqrt(2).
    corners = by_class[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == corners[0]).all()
    for first, second in itertools.combinations(by_class, 2):
        assert (first != second).any(axis=(1, 2, 3)).all()


def largest_z(split: Split, images: NDArray[np.uint8]) -> float:
    """The largest distance of a class from the rest, in standard errors.

    Compared are the mean and the variance of an image's mean colour.
    """
    color = images.mean(axis=(2, 3), dtype=np.float64)
    statistics = np.concatenate([color, (color - color.mean(axis=0)) ** 2], axis=1)
    scores = []
    for label in range(10):
        own, rest = statistics[split["labels"] == label], statistics[split["labels"] != label]
        error = np.sqrt(own.var(axis=0, ddof=1) / len(own) + rest.var(axis=0, ddof=1) / len(rest))
        scores.append(np.abs(own.mean(axis=0) - rest.mean(axis=0)) / error)
    return float(np.max(scores))


def test_colour_and_brightness_do_not_carry_the_class(large: tuple[Split, Split]) -> None:
    train, _ = large
    assert largest_z(train, train["images"]) < LARGEST_Z


def test_a_class_tinted_by_twelve_grey_levels_would_be_noticed(large: tuple[Split, Split]) -> None:
    train, _ = large
    tinted = train["images"].copy()
    tinted[train["labels"] == 3, 0] = np.minimum(tinted[train["labels"] == 3, 0], 243) + 12
    assert largest_z(train, tinted) > LARGEST_Z


@pytest.mark.slow
def test_a_linear_classifier_on_pixels_stays_under_30_percent(large: tuple[Split, Split]) -> None:
    train, test = (
        (split["images"].reshape(len(split), -1) / 127.5 - 1.0).astype(np.float32)
        for split in large
    )
    train, test = train - train.mean(axis=0), test - train.mean(axis=0)
    targets = np.eye(10, dtype=np.float32)[large[0]["labels"]] - 0.1
    # Ridge regression in its dual form; of the penalties 10 to 100,000, 1,000 was the best (17 %).
    ridge = 1_000.0 * np.eye(len(train), dtype=np.float32)
    dual = np.linalg.solve(train @ train.T + ridge, targets)
    predicted = (test @ (train.T @ dual)).argmax(axis=1)
    assert (predicted == large[1]["labels"]).mean() < 0.30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 0}, "data.num_train: should be greater than or equal to 10, not 0"),
        ({"num_test": 9}, "data.num_test: should be greater than or equal to 10, not 9"),
        ({"seed": -1}, "data.seed: should be greater than or equal to 0, not -1"),
        ({"num_trian": 1}, "unknown option of data synthetic 'num_trian': did you mean 'num_tra"),
    ],
)
def test_an_option_out_of_range_or_unknown_is_refused(
    options: dict[str, int], message: str
) -> None:
    with pytest.raises(NormbenchError) as refusal:
        sources.check("synthetic", options)
    assert str(refusal.value).startswith(message)
