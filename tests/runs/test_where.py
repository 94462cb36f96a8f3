"""Conditions on runs: what is read, what it means, and what is refused."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.errors import NormbenchError
from normbench.runs.where import OPERATORS, Condition, parse, rank, select

RUNS = [
    {
        "run": "a",
        "norm": "bn",
        "batch_size": 4,
        "test_accuracy": 0.8,
        "norm.num_groups": None,
        "norm.affine": True,
    },
    {
        "run": "b",
        "norm": "gn",
        "batch_size": 4,
        "test_accuracy": 0.7,
        "norm.num_groups": 32,
        "norm.affine": True,
    },
    {
        "run": "c",
        "norm": "gn",
        "batch_size": 64,
        "test_accuracy": math.nan,
        "norm.num_groups": 8,
        "norm.affine": True,
    },
    {
        "run": "d",
        "norm": "in",
        "batch_size": 64,
        "test_accuracy": 0.6,
        "norm.affine": False,
        "model.widths": [4, 8],
    },
]
numbers = st.integers(-5, 5) | st.floats(-5, 5)
signs = st.sampled_from(sorted(OPERATORS))


def chosen(text: str) -> str:
    return "".join(str(run["run"]) for run in select(RUNS, [text]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("norm=bn", "a"),
        ("norm!=gn", "ad"),
        ("norm=bn,in", "ad"),
        ("norm = bn , in", "ad"),
        ("norm!=bn,in", "bc"),
        ("batch_size=64.0", "cd"),
        ("batch_size=6.4e1", "cd"),
        ("test_accuracy>=0.7", "ab"),
        ("test_accuracy>=70%", "ab"),
        ("norm.num_groups>8", "b"),
        ("norm.affine=true", "abc"),
        ("norm.affine=1", ""),
        ("run>=b", "bcd"),
        ("model.widths=[4,8]", "d"),
        ("model.widths=[4, 8]", "d"),
    ],
)
def test_a_condition_chooses(text: str, expected: str) -> None:
    assert chosen(text) == expected


def test_several_conditions_must_all_hold() -> None:
    found = select(RUNS, ["norm=gn", "batch_size<=4"])
    assert [run["run"] for run in found] == ["b"]
    assert select(RUNS, []) == RUNS


@pytest.mark.parametrize("key", ["norm.num_groups", "test_accuracy"])
@pytest.mark.parametrize("sign", sorted(OPERATORS))
def test_a_missing_value_matches_nothing_but_unequal(key: str, sign: str) -> None:
    for missing in ({}, {key: None}, {key: math.nan}):
        assert Condition(key, sign, ("8",)).holds(missing) is (sign == "!=")


def test_a_value_keeps_the_spaces_within_it() -> None:
    assert parse(" device = AMD EPYC , another ") == Condition(
        "device", "=", ("AMD EPYC", "another")
    )


def test_text_that_looks_like_a_number_is_compared_as_text() -> None:
    assert select([{"commit": "12e4"}], ["commit=12e4"])
    assert not select([{"commit": "12e4"}], ["commit=120000"])


def test_large_integers_are_compared_exactly() -> None:
    assert not select([{"seed": 2**53 + 1}], [f"seed={2**53}"])
    assert select([{"seed": 2**53 + 1}], [f"seed={2**53 + 1}"])


@given(numbers, numbers, signs)
def test_numbers_compare_as_python_does(value: float, limit: float, sign: str) -> None:
    assert bool(select([{"x": value}], [f"x{sign}{limit!r}"])) is OPERATORS[sign](value, limit)


@given(
    st.lists(st.sampled_from(["a", "b", "1", "2.0", "[4, 8]", "20%"]), min_size=1),
    st.sampled_from("ab") | numbers | st.booleans(),
)
def test_unequal_is_the_opposite_of_equal_whatever_the_values(
    values: list[str], value: object
) -> None:
    listed = ",".join(values)
    equal, unequal = (bool(select([{"x": value}], [f"x{sign}{listed}"])) for sign in ("=", "!="))
    assert equal is not unequal


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(NormbenchError):
        assert parse(text).values


@pytest.mark.parametrize(
    "text",
    ["", "norm", "norm=", "norm==bn", "norm=<4", "norm~bn", "(norm=bn)", "norm=bn,", "norm='bn'"],
)
def test_what_cannot_be_read_is_named_with_what_can(text: str) -> None:
    with pytest.raises(NormbenchError) as caught:
        parse(text)
    assert str(caught.value) == (
        f"cannot read '{text}': a condition is key op value, with op one of = != < <= > >=, "
        "as in norm=bn,gn or batch_size<=4"
    )


@pytest.mark.parametrize("joint", [" and ", " or ", ", ", " "])
def test_a_second_condition_in_one_is_told_its_place(joint: str) -> None:
    with pytest.raises(NormbenchError, match="is several conditions: give each its own --where"):
        parse(f"norm=bn{joint}batch_size<=4")


@given(st.lists(numbers, min_size=1))
def test_ranks_sort_numbers_by_size_in_text_too_and_before_words(values: list[float]) -> None:
    words = ["gn", "bn", True, None]
    mixed = [*words, *values, *map(repr, values)]
    ordered = sorted(mixed, key=rank)
    assert ordered[-4:] == ["bn", "gn", None, True]
    numbers_only = [float(value) for value in ordered[:-4]]
    assert numbers_only == sorted(numbers_only)


def test_only_equality_takes_a_list() -> None:
    with pytest.raises(
        NormbenchError, match="'seed<1,2' compares with several values: only = and != take several"
    ):
        parse("seed<1,2")


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
def test_a_number_is_not_ordered_beside_a_word(sign: str) -> None:
    with pytest.raises(NormbenchError) as refused:
        select(RUNS, [f"batch_size{sign}small"])
    assert str(refused.value) == f"'batch_size{sign}small': batch_size is a number, small is none"


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(
        NormbenchError, match=r"unknown key 'norm.num_group': did you mean 'norm\.num_groups'\?"
    ):
        select(RUNS, ["norm=bn", "norm.num_group=3"])


def test_without_runs_every_key_is_one_that_a_run_might_have_had() -> None:
    assert select([], ["anything=1"]) == []
