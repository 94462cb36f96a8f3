"""The memory of training, against allocations and models whose bytes can be counted by hand.

Bytes that a forward pass keeps are in tests/norms/test_certificate.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from normbench.timing.footprint import peak_bytes, state_bytes
from normbench.training.optim import without_compiler_guards

# torch's wrappers import the compiler, for seconds.
SGD = without_compiler_guards(torch.optim.SGD)
CPU = torch.device("cpu")
SIZES = st.lists(st.integers(1, 100_000), min_size=1, max_size=6)


def empty(number: int) -> Tensor:
    return torch.empty(number, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def quiet_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")


@given(SIZES)
def test_tensors_that_exist_together_count_together(sizes: list[int]) -> None:
    held: list[Tensor] = []
    assert peak_bytes(lambda: held.extend(empty(size) for size in sizes), CPU) == sum(sizes)
    assert len(held) == len(sizes), "the measured work is done once"


@given(SIZES)
def test_a_tensor_freed_before_the_next_counts_alone(sizes: list[int]) -> None:
    def work() -> None:
        for size in sizes:
            empty(size)

    assert peak_bytes(work, CPU) == max(sizes)


def test_the_peak_is_the_most_at_a_time_and_neither_the_rest_nor_the_sum() -> None:
    def work() -> Tensor:
        first = empty(1000)
        del first
        second, third = empty(700), empty(600)
        del second
        empty(500)
        return third

    assert peak_bytes(work, CPU) == 1300


def test_tensors_from_before_are_not_counted() -> None:
    x, y = torch.ones(1000), torch.ones(1000)
    assert peak_bytes(lambda: x.add_(y), CPU) == 0
    assert peak_bytes(lambda: x + y, CPU) == 4000
    # A term of the sum is kept while the next is made.
    assert peak_bytes(lambda: x + y + y, CPU) == 8000
    assert peak_bytes(lambda: None, CPU) == 0


def test_the_peak_of_a_gpu_is_beyond_the_bytes_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def says(name: str, value: int = 0) -> Callable[[], int]:
        def say() -> int:
            told.append(name)
            return value

        return say

    before = {"synchronize": 0, "reset_peak_memory_stats": 0, "memory_allocated": 1000}
    for name, value in {**before, "max_memory_allocated": 5000}.items():
        monkeypatch.setattr(torch.cuda, name, says(name, value))
    assert peak_bytes(says("work"), torch.device("cuda")) == 4000
    assert told == [*before, "work", "max_memory_allocated"]


class Halves(nn.Module):
    """12 weights and 4 biases of two bytes each, and a buffer of three integers of eight."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4, dtype=torch.bfloat16)
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int64))


def small_model() -> nn.Module:
    """12 weights, 4 biases; then a bn: 8 parameters, 8 statistics, a counter of eight bytes."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


PARAMETERS = 4 * (12 + 4 + 8)
BUFFERS = 4 * 8 + 8


def take_a_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        # Two moments, and a step counter for each tensor.
        (without_compiler_guards(torch.optim.Adam), 2 * PARAMETERS + 4 * 4),
        (lambda p: SGD(p, lr=0.1, momentum=0.9), PARAMETERS),
        (lambda p: SGD(p, lr=0.1), 0),
    ],
    ids=["adam", "momentum", "sgd"],
)
def test_state_is_parameters_buffers_and_the_optimizer_s_tensors(
    make: Callable[..., torch.optim.Optimizer], kept: int
) -> None:
    model = small_model()
    optimizer = make(model.parameters())
    # An optimizer keeps nothing before the first step.
    assert state_bytes(model, optimizer) == PARAMETERS + BUFFERS
    for _ in range(2):
        take_a_step(model, optimizer)
        assert state_bytes(model, optimizer) == PARAMETERS + BUFFERS + kept


def test_numbers_of_two_bytes_and_of_eight_count_as_such_and_shared_ones_once() -> None:
    model = Halves()
    assert state_bytes(model, SGD(model.parameters(), lr=0.1)) == 2 * 16 + 3 * 8
    layer = nn.Linear(3, 4)
    tied = nn.Sequential(layer, nn.ReLU(), layer)
    assert state_bytes(tied, SGD(tied.parameters(), lr=0.1)) == 4 * 16
