"""The encoder block of a transformer (Vaswani et al., arXiv:1706.03762), with any norm.

from normbench.models import Layers, TransformerBlock
from normbench.norms import norms

block = TransformerBlock(Layers(norms.build("ln"), seed=0))
y = block(x)  # x and y of shape (32, 50, 512)
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from normbench.errors import NormbenchError, unknown
from normbench.models.layers import Layers

NormPosition = Literal["pre", "post"]


class SelfAttention(nn.Module):
    """Multi-head self-attention (arXiv:1706.03762, section 3.2), with biases.

    y = concat(softmax(q k^T / sqrt(d)) v) W_o + b_o over heads of d = width / heads features.
    x and y of shape (n, places, width). Raises NormbenchError where heads do not divide the width.
    """

    def __init__(self, layers: Layers, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise NormbenchError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.q = layers.linear(width, width)
        self.k = layers.linear(width, width)
        self.v = layers.linear(width, width)
        self.o = layers.linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends where the mask is true, or not 0: it broadcasts to (n, heads, places, places).

        Every place has to attend to one at least.
        """
        q, k, v = (self._by_head(project(x)) for project in (self.q, self.k, self.v))
        if mask is not None:
            mask = mask.bool()
        attended = scaled_dot_product_attention(q, k, v, mask)
        y: Tensor = self.o(attended.transpose(1, 2).flatten(2))
        return y

    def _by_head(self, x: Tensor) -> Tensor:
        """(n, places, width) to (n, heads, places, width / heads)."""
        heads: Tensor = x.unflatten(2, (self.heads, -1))
        return heads.transpose(1, 2)


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward network, each with a residual sum and a norm.

    `post`: x = norm(x + f(x)) for each of the two f (arXiv:1706.03762, section 3.1). `pre`:
    x = x + f(norm(x)) (arXiv:2002.04745, figure 1). The feed-forward network is linear, ReLU,
    linear. x and y of shape (n, places, width). Under ln, 3,152,384 parameters by default.

    Raises NormbenchError where heads do not divide the width, and for another norm_position.
    """

    def __init__(
        self,
        layers: Layers,
        width: int = 512,
        heads: int = 8,
        hidden: int = 2048,
        *,
        norm_position: NormPosition = "post",
    ) -> None:
        super().__init__()
        if norm_position not in ("pre", "post"):
            raise unknown("norm_position", norm_position, ("pre", "post"))
        self.is_pre = norm_position == "pre"
        self.norm1 = layers.token_norm(width)
        self.attention = SelfAttention(layers, width, heads)
        self.norm2 = layers.token_norm(width)
        self.feed_forward = nn.Sequential(
            layers.linear(width, hidden), layers.act(), layers.linear(hidden, width)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: as of SelfAttention."""
        if self.is_pre:
            x = x + self.attention(self.norm1(x), mask)
            x = x + self.feed_forward(self.norm2(x))
        else:
            x = self.norm1(x + self.attention(x, mask))
            x = self.norm2(x + self.feed_forward(x))
        return x
