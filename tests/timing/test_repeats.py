"""A bench repeated in fresh processes: shares, orders, rows, and processes that end early."""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.benches import endless, failing, telling

from normbench.errors import NormbenchError, RunFailure
from normbench.timing import repeats
from normbench.timing.repeats import in_order_of, repeated, shares

NORMS = ["bn", "ln", "in", "gn"]


@given(st.integers(1, 200), st.integers(1, 200))
def test_shares_are_as_equal_as_can_be_and_none_is_empty(rounds: int, processes: int) -> None:
    if processes > rounds:
        with pytest.raises(NormbenchError, match=f"^--rounds {rounds}: each of the {processes} "):
            shares(rounds, processes)
        return
    found = shares(rounds, processes)
    assert (len(found), sum(found)) == (processes, rounds)
    assert max(found) - min(found) <= 1


def test_orders_are_given_in_the_first_process_and_drawn_in_the_others() -> None:
    assert in_order_of(1, NORMS) == NORMS
    orders = [in_order_of(process, NORMS) for process in range(1, 11)]
    assert orders == [in_order_of(process, NORMS) for process in range(1, 11)]
    assert all(sorted(order) == sorted(NORMS) for order in orders)
    # Not turned round like a wheel: a norm follows now one norm, now another.
    before_gn = {order[order.index("gn") - 1] for order in orders}
    assert before_gn == {"bn", "ln", "in"}
    assert {in_order_of(process, NORMS)[0] for process in range(1, 6)} >= {"bn", "gn"}
    pairs = {tuple(in_order_of(process, ["bn", "gn"])) for process in range(1, 6)}
    assert len(pairs) == 2


def test_a_single_process_is_this_one() -> None:
    rows = list(repeated(telling, NORMS, [2], lambda: None))
    assert {row["pid"] for row in rows} == {os.getpid()}
    assert [row["norm"] for row in rows] == NORMS * 2


def test_every_process_is_new_and_takes_its_share_in_its_order() -> None:
    """Whatever Ctrl-C comes: it is for this process alone."""
    rows = []
    seen: list[int] = []
    for row in repeated(telling, NORMS, [2, 1, 1], lambda: seen.append(len(rows))):
        rows.append(row)
    turns = defaultdict(list)
    for row in rows:
        turns[row["process"], row["round"]].append(row["norm"])
    expected = {(process, 0): in_order_of(process, NORMS) for process in (1, 2, 3)}
    assert turns == expected | {(1, 1): NORMS}
    assert seen == [4, 8, 12, 16], "once when a round is done"
    pids = {row["process"]: row["pid"] for row in rows}
    assert len({*pids.values(), os.getpid()}) == 4


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("input", NormbenchError, "the norm is wrong"),
        ("memory", RunFailure, "process 2 of the bench ended with exit code 1"),
        ("killed", RunFailure, "process 2 of the bench ended with exit code -9"),
    ],
)
def test_a_process_that_ends_early_is_named_and_the_rounds_before_are_kept(
    fault: str, error: type[Exception], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = repeated(failing, [fault], [2, 2, 2], lambda: None)
    kept = [next(rows), next(rows)]
    assert len({row["pid"] for row in kept}) == 2
    with pytest.raises(error, match=f"^{message}$") as raised:
        next(rows)
    assert type(raised.value) is error
    assert ("MemoryError: none left" in capfd.readouterr().err) == (fault == "memory")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_bench_that_is_broken_off_leaves_no_process() -> None:
    rows = repeated(endless, NORMS, [2, 2], lambda: None)
    pid = next(rows)["pid"]
    assert is_alive(pid)
    assert isinstance(rows, Iterator)
    rows.close()  # type: ignore[attr-defined]
    assert not is_alive(pid)


def test_a_process_ends_when_nobody_listens() -> None:
    here, there = multiprocessing.Pipe(duplex=False)
    here.close()
    with pytest.raises(SystemExit) as stop:
        repeats._serve(there, telling, NORMS, 2, 1)
    assert stop.value.code == 1
