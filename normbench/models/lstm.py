"""LSTM that reads an image row by row, with norms where two papers have them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import parametrize

from normbench.errors import Unsupported
from normbench.models.layers import Layers
from normbench.models.normresnet import Width
from normbench.models.registry import models
from normbench.models.steps import Offset, StepNorm

Gamma = Annotated[float, Field(gt=0, strict=False)]


@models.register("lstm", title="LSTM over rows")
def lstm(
    layers: Layers,
    num_outputs: int,
    *,
    hidden: Width = 128,
    statistics: Literal["per_step", "shared"] = "per_step",
    gamma: Gamma = 1.0,
) -> nn.Module:
    """LSTM over the rows of an image, with norms in its gates, and a linear layer on its last h.

    (f, i, o, g) = N_x(W_x x_t) + N_h(W_h h_{t-1}) + b, c_t = sigmoid(f) c_{t-1} + sigmoid(i)
    tanh(g), h_t = sigmoid(o) tanh(N_c(c_t)), from h_0 = c_0 = 0; x_t holds the channels of row t.
    That is the layer-normalized LSTM (arXiv:1607.06450, equations 20 to 22) and recurrent batch
    normalization (arXiv:1603.09025, equations 6 to 8). Input (n, c, h, w) of the size that the
    network was built for, output (n, num_outputs). With 10 outputs, 32x32 images, 128 hidden
    features and a norm with affine: 118,794 parameters.

    A norm sees sums of shape (n, 4 * hidden, 1, 1) and the cell as (n, hidden, 1, 1): gn with four
    groups has one for each gate, and a norm over a pixel's channels is one over features. Running
    statistics are `per_step`, as in the second paper, gamma and beta being shared; or `shared`, one
    average over all steps, in which the last steps weigh most. Training takes the batch's
    statistics of each step in either case. A norm's scale begins at `gamma`, 1 as in the first
    paper; the second has 0.1, so that gates do not saturate in sequences of 784 steps (section 4).

    Departures: norms that have a beta keep it beside b, as in the first paper; the second fixes it
    at 0 but for the cell. The forget gate's b begins at 1, the others at 0. Weights are drawn as
    torch draws those of linear layers, not orthogonal.

    Raises Unsupported for a norm that contains an activation, or that acts on convolutions.
    """
    spec = layers.spec
    if spec.norm_act is not None:
        raise Unsupported("the norm contains an activation, and no gate of an LSTM has that one")
    channels, height, width = layers.image_shape
    steps = height if statistics == "per_step" else 1
    network = RowLSTM(
        layers.linear(channels * width, 4 * hidden, bias=False),
        layers.norm_of_steps(4 * hidden, steps, gamma),
        layers.linear(hidden, 4 * hidden, bias=False),
        layers.norm_of_steps(4 * hidden, steps, gamma),
        layers.offset(4 * hidden),
        layers.norm_of_steps(hidden, steps, gamma),
        layers.linear(hidden, num_outputs),
    )
    if spec.reparametrize is not None and not parametrize.is_parametrized(network.hidden):
        raise Unsupported("the norm acts on the weights of convolutions, and an LSTM has none")
    return network


class RowLSTM(nn.Module):
    """LSTM with norms over the rows of images; the gates stand in the order f, i, o, g.

    enter, hidden, head: linear layers, which may be reparametrized.
    """

    def __init__(
        self,
        enter: Any,
        enter_norm: StepNorm,
        hidden: Any,
        hidden_norm: StepNorm,
        offset: Offset,
        cell_norm: StepNorm,
        head: Any,
    ) -> None:
        super().__init__()
        self.enter, self.enter_norm = enter, enter_norm
        self.hidden, self.hidden_norm = hidden, hidden_norm
        self.offset, self.cell_norm = offset, cell_norm
        self.head = head
        with torch.no_grad():
            self.offset.bias[: self.hidden.in_features] = 1

    def forward(self, images: Tensor) -> Tensor:
        rows = images.transpose(1, 2).flatten(2)  # (n, h, c * w)
        # Read once: a reparametrized weight is computed anew at every access.
        weight = self.hidden.weight
        h = images.new_zeros(len(images), self.hidden.in_features)
        c = h
        for step, entering in enumerate(self.enter(rows).unbind(1)):
            sums = self.enter_norm(entering, step) + self.hidden_norm(linear(h, weight), step)
            forget, write, read, new = self.offset(sums).chunk(4, 1)
            c = forget.sigmoid() * c + write.sigmoid() * new.tanh()
            h = read.sigmoid() * self.cell_norm(c, step).tanh()
        outputs: Tensor = self.head(h)
        return outputs
