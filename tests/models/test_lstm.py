"""The LSTM over rows: torch's LSTM and a written-out recursion as oracles, statistics, refusals."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normbench.errors import NormbenchError, Unsupported
from normbench.models import Layers, models, norm_sites
from normbench.norms import norms

Array = NDArray[np.float64]
SHAPE = (2, 5, 3)  # channels, rows, columns
HIDDEN = 4


def lstm(norm: str, norm_options: dict[str, Any] | None = None, **options: Any) -> nn.Module:
    layers = Layers(norms.build(norm, options=norm_options), 0, SHAPE)
    network = models.build("lstm", layers, 3, options={"hidden": HIDDEN, **options})
    return network.double()


def images(number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, *SHAPE, generator=generator, dtype=torch.float64)


def test_without_a_norm_it_is_torch_s_lstm_in_value_and_gradient() -> None:
    network, x = lstm("none"), images(6)
    reference = nn.LSTM(SHAPE[0] * SHAPE[2], HIDDEN, batch_first=True, dtype=torch.float64)
    of_gates = torch.arange(4 * HIDDEN).view(4, HIDDEN)
    order = of_gates[[1, 0, 3, 2]].flatten()  # torch has i, f, g, o; here f, i, o, g
    with torch.no_grad():
        reference.weight_ih_l0.copy_(network.enter.weight[order])
        reference.weight_hh_l0.copy_(network.hidden.weight[order])
        reference.bias_ih_l0.copy_(network.offset.bias[order])
        reference.bias_hh_l0.zero_()
    _, (last, _) = reference(torch.stack([image.movedim(1, 0).flatten(1) for image in x]))
    wanted = network.head(last[0])
    torch.testing.assert_close(network(x), wanted, rtol=1e-12, atol=1e-13)
    network(x).square().sum().backward()
    wanted.square().sum().backward()
    for found, expected in (
        (network.enter.weight, reference.weight_ih_l0),
        (network.hidden.weight, reference.weight_hh_l0),
        (network.offset.bias, reference.bias_ih_l0),
    ):
        torch.testing.assert_close(found.grad[order], expected.grad, rtol=1e-10, atol=1e-12)


def standardized(x: Array, axis: int) -> Array:
    mean, var = x.mean(axis=axis, keepdims=True), x.var(axis=axis, keepdims=True)
    result: Array = (x - mean) / np.sqrt(var + 1e-5)
    return result


def sigmoid(x: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-x))
    return result


@pytest.mark.parametrize(("norm", "axis"), [("ln", 1), ("bn", 0)])
def test_normalized_gates_and_cell_are_the_papers_equations(norm: str, axis: int) -> None:
    """arXiv:1607.06450, equations 20 to 22, and arXiv:1603.09025, equations 6 to 8."""
    network, x = lstm(norm), images(6)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.linspace(-0.5, 0.5, len(parameter), dtype=torch.float64))
    p = {name: value.detach().numpy() for name, value in network.named_parameters()}

    def norm_of(name: str, values: Array) -> Array:
        scaled: Array = standardized(values, axis) * p[f"{name}.0.weight"] + p[f"{name}.0.bias"]
        return scaled

    h = c = np.zeros((6, HIDDEN))
    for step in range(SHAPE[1]):
        row = x[:, :, step].flatten(1).numpy()
        sums = norm_of("enter_norm", row @ p["enter.weight"].T) + p["offset.bias"]
        sums = sums + norm_of("hidden_norm", h @ p["hidden.weight"].T)
        f, i, o, g = np.split(sums, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(norm_of("cell_norm", c))
    wanted = h @ p["head.weight"].T + p["head.bias"]
    np.testing.assert_allclose(network(x).detach().numpy(), wanted, rtol=1e-10, atol=1e-12)


def test_the_rows_are_read_from_the_first_to_the_last() -> None:
    """The last rows alone decide where the forget gate is shut."""
    network = lstm("none")
    with torch.no_grad():
        network.offset.bias[:HIDDEN] = -1e9
        network.hidden.weight.zero_()
    x = images(4)
    changed = x.clone()
    changed[:, :, :-1] += 1
    assert torch.equal(network(changed), network(x))
    changed[:, :, -1] += 1
    assert not torch.allclose(network(changed), network(x))


@pytest.mark.parametrize("name", ["bn", "lazy_bn", "switchable"])
def test_statistics_per_step_are_those_of_the_step_and_parameters_are_shared(name: str) -> None:
    network, x = lstm(name, {"momentum": 1.0}), images(8)
    network(x)
    rows = x.transpose(1, 2).flatten(2)
    entering = network.enter(rows).detach()
    assert len(network.enter_norm) == SHAPE[1]
    for step, layer in enumerate(network.enter_norm):
        torch.testing.assert_close(layer.running_mean, entering[:, step].mean(0))
        assert layer.weight is network.enter_norm[0].weight
    number = sum(parameter.numel() for parameter in network.parameters())
    assert number == sum(p.numel() for p in lstm(name, statistics="shared").parameters())


def test_shared_statistics_average_over_the_steps() -> None:
    network, x = lstm("bn", {"momentum": None}, statistics="shared"), images(8)
    network(x)
    assert len(network.enter_norm) == 1
    entering = network.enter(x.transpose(1, 2).flatten(2)).detach()
    torch.testing.assert_close(network.enter_norm[0].running_mean, entering.mean((0, 1)))


def test_evaluation_normalizes_each_step_with_its_own_statistics() -> None:
    """A batch seen with momentum 1 has the same outputs in evaluation, but for the bias of var."""
    network, x = lstm("bn_custom", {"momentum": 1.0}), images(8)
    trained = network(x)
    torch.testing.assert_close(network.eval()(x), trained)
    one_for_all = lstm("bn_custom", {"momentum": 1.0}, statistics="shared")
    trained = one_for_all(x)
    assert not torch.allclose(one_for_all.eval()(x), trained)


def test_gamma_is_where_every_scale_of_a_norm_begins_and_the_forget_gate_begins_open() -> None:
    network = lstm("rms", gamma=0.25)
    for name in ("enter_norm", "hidden_norm", "cell_norm"):
        weight = network.get_submodule(name)[0].weight
        assert torch.equal(weight, torch.full_like(weight, 0.25))
    assert network.offset.bias.tolist() == [1.0] * HIDDEN + [0.0] * (3 * HIDDEN)


@pytest.mark.parametrize(("norm", "number"), [("ln", 118_794), ("none", 116_490)])
def test_the_numbers_of_parameters(norm: str, number: int) -> None:
    network = models.build("lstm", Layers(norms.build(norm), 0), 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == number


def test_a_norm_s_sites_are_the_sums_of_the_gates_and_the_cell() -> None:
    build = partial(models.build, "lstm", options={"hidden": HIDDEN})
    sites = norm_sites(lambda layers: build(layers, 3), SHAPE, 3)
    assert sites == [(4 * HIDDEN, 1, 1), (4 * HIDDEN, 1, 1), (HIDDEN, 1, 1)]


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        ("frn", "the norm contains an activation"),
        ("evonorm_s0", "the norm contains an activation"),
        ("ws_gn", "acts on the weights of convolutions"),
        ("scaled_ws", "acts on the weights of convolutions"),
    ],
)
def test_a_norm_that_would_be_another_one_here_is_refused(norm: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        lstm(norm)


def test_another_number_of_columns_is_an_error_and_a_wrong_option_is_one() -> None:
    with pytest.raises(NormbenchError, match="per_step"):
        lstm("bn", statistics="per_row")
    with pytest.raises(RuntimeError):
        lstm("bn")(torch.zeros(2, 2, 5, 4, dtype=torch.float64))


def test_a_reparametrized_weight_is_computed_once_an_image_batch() -> None:
    """Spectral normalization makes one power iteration for a batch, not one for every row."""
    network = lstm("spectral_norm")
    vector = network.hidden.parametrizations.weight[0]._u
    before = vector.clone()
    network(images(2))
    once = lstm("spectral_norm")
    _ = once.hidden.weight
    assert not torch.equal(vector, before)
    torch.testing.assert_close(vector, once.hidden.parametrizations.weight[0]._u)


def test_the_state_is_loaded_into_every_step_and_parameters_stay_shared() -> None:
    network, other, x = lstm("bn"), lstm("bn"), images(8)
    for _ in range(2):
        network(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.eval()(x), network.eval()(x))
    assert other.enter_norm[3].weight is other.enter_norm[0].weight
    assert other.enter_norm[3].running_mean is not other.enter_norm[0].running_mean
