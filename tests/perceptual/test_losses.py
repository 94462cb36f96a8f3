"""Gram matrices and perceptual losses: oracles and laws."""

from __future__ import annotations

import pytest
import torch
from kit.norms import normal

from normbench.perceptual.losses import content_loss, gram, style_loss


def test_a_gram_matrix_is_the_slow_sum_over_places() -> None:
    features = normal(2, 3, 4, 5).double()
    expected = torch.einsum("nihw,njhw->nij", features, features) / (3 * 4 * 5)
    torch.testing.assert_close(gram(features), expected)


def test_a_gram_matrix_knows_no_places() -> None:
    features = normal(1, 6, 4, 4).double()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = features.flatten(2)[:, :, order].view(1, 6, 4, 4)
    assert not torch.equal(shuffled, features)
    torch.testing.assert_close(gram(shuffled), gram(features))


def test_a_gram_matrix_grows_with_the_square_and_not_with_the_size() -> None:
    features = normal(1, 6, 4, 4).double()
    torch.testing.assert_close(gram(3 * features), 9 * gram(features))
    tiled = features.repeat(1, 1, 2, 2)
    torch.testing.assert_close(gram(tiled), gram(features))


def test_losses_of_an_image_with_itself_are_0_and_of_each_image_its_own() -> None:
    features = normal(3, 6, 4, 4)
    one = features[:1]
    power = one.square().mean()
    content = content_loss(features, one, power)
    style = style_loss([features, 2 * features], [gram(one), gram(2 * one)])
    for losses in (content, style):
        assert losses.shape == (3,)
        assert losses[0] == 0
        assert (losses[1:] > 0).all()


def test_losses_are_relative_to_the_style_image() -> None:
    features, style = normal(2, 6, 4, 4), normal(1, 6, 4, 4, seed=1)
    power = style.square().mean()
    once = content_loss(features, style, power), style_loss([features], [gram(style)])
    features, style = 100 * features, 100 * style
    power = style.square().mean()
    scaled = content_loss(features, style, power), style_loss([features], [gram(style)])
    torch.testing.assert_close(once, scaled)
    # A black image lacks each layer's whole Gram matrix.
    assert style_loss([0 * features] * 3, [gram(style)] * 3).tolist() == pytest.approx([3, 3])
