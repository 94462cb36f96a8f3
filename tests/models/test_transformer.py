"""The transformer's block against its formulas written out, and its figures in the sources."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kit.norms import normal
from torch import Tensor, nn

from normbench.errors import NormbenchError
from normbench.models import Layers, TransformerBlock
from normbench.models.transformer import NormPosition, SelfAttention
from normbench.norms import norms

POSITIONS: list[NormPosition] = ["pre", "post"]


def block(norm: str = "ln", *sizes: int, **options: Any) -> TransformerBlock:
    return TransformerBlock(Layers(norms.build(norm), seed=0), *sizes, **options)


def attended(attention: SelfAttention, x: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, head by head, then the output projection."""
    q, k, v = attention.q(x), attention.k(x), attention.v(x)
    size = x.shape[-1] // attention.heads
    heads = []
    for number in range(attention.heads):
        part = slice(number * size, (number + 1) * size)
        scores = q[..., part] @ k[..., part].mT / math.sqrt(size)
        if mask is not None:
            scores = scores.masked_fill(mask == 0, -1e30)
        heads.append(scores.softmax(-1) @ v[..., part])
    projected: Tensor = attention.o(torch.cat(heads, -1))
    return projected


MASKS = {
    "none": None,
    "causal": torch.ones(5, 5).tril(),
    "padding": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])[:, None, :],
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", MASKS)
def test_a_block_is_its_formula_written_out(name: str, position: NormPosition) -> None:
    made = block("ln", 12, 3, 20, norm_position=position).double()
    for parameter in made.parameters():  # gamma and beta are no longer 1 and 0
        nn.init.normal_(parameter, std=0.5)
    x, mask = normal(3, 5, 12), MASKS[name]
    first, second = made.norm1, made.norm2
    if position == "post":
        y = first(x + attended(made.attention, x, mask))
        wanted = second(y + made.feed_forward(y))
    else:
        y = x + attended(made.attention, first(x), mask)
        wanted = y + made.feed_forward(second(y))
    given = mask if mask is None or mask.dim() == 2 else mask[:, None]
    torch.testing.assert_close(made(x, given), wanted, rtol=1e-10, atol=1e-10)


def test_a_place_sees_no_masked_place() -> None:
    made = block("ln", 8, 2, 16)
    x, mask = normal(2, 6, 8).float(), torch.ones(6, 6).tril().bool()
    changed = x.clone()
    changed[:, 4:] += 1
    before, after = made(x, mask), made(changed, mask)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4:], before[:, 4:])


def test_the_order_of_tokens_is_the_order_of_outputs() -> None:
    made, x = block("rms", 8, 2, 16).double(), normal(2, 6, 8)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(made(x)[:, order], made(x[:, order]))


def test_the_default_block_has_the_source_s_sizes() -> None:
    made = block()
    assert sum(parameter.numel() for parameter in made.parameters()) == 3_152_384
    with torch.no_grad():
        assert made(torch.zeros(32, 50, 512)).shape == (32, 50, 512)
    for module in made.modules():
        assert not isinstance(module, nn.Linear) or module.bias is not None


def test_a_post_norm_block_under_ln_is_torch_s_encoder_layer() -> None:
    made = block("ln", 16, 4, 24).double().eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, dropout=0, batch_first=True).double()
    ours = made.attention
    with torch.no_grad():
        weights = [layer.weight for layer in (ours.q, ours.k, ours.v)]
        biases = [layer.bias for layer in (ours.q, ours.k, ours.v)]
        theirs.self_attn.in_proj_weight.copy_(torch.cat(weights))
        theirs.self_attn.in_proj_bias.copy_(torch.cat(biases))
    pairs = [
        (theirs.self_attn.out_proj, ours.o),
        (theirs.linear1, made.feed_forward[0]),
        (theirs.linear2, made.feed_forward[2]),
        (theirs.norm1, made.norm1.norm),
        (theirs.norm2, made.norm2.norm),
    ]
    for their, our in pairs:
        their.load_state_dict(our.state_dict())
    x = normal(3, 7, 16)
    torch.testing.assert_close(made(x), theirs(x))


def test_what_a_block_cannot_be_is_refused() -> None:
    with pytest.raises(NormbenchError, match="3 heads do not divide a width of 16"):
        block("ln", 16, 3, 8)
    with pytest.raises(NormbenchError, match="unknown norm_position 'mid': allowed: post, pre"):
        block("ln", 16, 4, 8, norm_position="mid")
