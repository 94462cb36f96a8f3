"""Conditions on runs: what is read, what it means, and what is refused."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.analysis.where import OPERATORS, Condition, parse, select
from normbench.errors import NormbenchError

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
    return "".join(run["run"] for run in select(RUNS, text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("norm=bn", "a"),
        ("norm == bn", "a"),
        ("norm!=gn", "ad"),
        ("norm=bn,in", "ad"),
        ("norm = bn , in", "ad"),
        ("norm!=bn,in", "bc"),
        ("norm=gn and batch_size<=4", "b"),
        ("norm=gn AND batch_size<=4", "b"),
        ("batch_size>4 or norm=bn", "acd"),
        ("batch_size=64.0", "cd"),
        ("batch_size=6.4e1", "cd"),
        ("test_accuracy>=0.7", "ab"),
        ("test_accuracy>=70%", "ab"),
        ("norm.num_groups>8", "b"),
        ("norm.affine=true", "abc"),
        ("norm.affine=1", ""),
        ("norm='gn'", "bc"),
        ('run="a"', "a"),
        ("run>=b", "bcd"),
        ("model.widths=[4,8]", "d"),
        ("model.widths=[4, 8]", "d"),
    ],
)
def test_a_condition_chooses(text: str, expected: str) -> None:
    assert chosen(text) == expected


def test_and_binds_tighter_than_or() -> None:
    assert chosen("norm=bn or norm=gn and batch_size=64") == "ac"
    assert chosen("norm=gn and batch_size=64 or norm=bn") == "ac"


@pytest.mark.parametrize("key", ["norm.num_groups", "test_accuracy"])
@pytest.mark.parametrize("sign", sorted(OPERATORS))
def test_a_missing_value_matches_nothing_but_unequal(key: str, sign: str) -> None:
    for missing in ({}, {key: None}, {key: math.nan}):
        assert Condition(key, sign, ("8",)).holds(missing) is (sign == "!=")


def test_quotes_keep_spaces_commas_and_words_of_the_grammar_together() -> None:
    assert parse("device='AMD EPYC, 2 or more' and norm=bn") == [
        [Condition("device", "=", ("AMD EPYC, 2 or more",)), Condition("norm", "=", ("bn",))]
    ]


def test_text_that_looks_like_a_number_is_compared_as_text() -> None:
    assert select([{"commit": "12e4"}], "commit=12e4")
    assert not select([{"commit": "12e4"}], "commit=120000")


def test_large_integers_are_compared_exactly() -> None:
    assert not select([{"seed": 2**53 + 1}], f"seed={2**53}")
    assert select([{"seed": 2**53 + 1}], f"seed={2**53 + 1}")


@given(numbers, numbers, signs)
def test_numbers_compare_as_python_does(value: float, limit: float, sign: str) -> None:
    assert bool(select([{"x": value}], f"x{sign}{limit!r}")) is OPERATORS[sign](value, limit)


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("xyz"), signs, numbers), min_size=1), min_size=1),
    st.data(),
)
def test_a_condition_is_any_of_all_of_its_comparisons(terms: Any, data: st.DataObject) -> None:
    record = {key: data.draw(numbers) for key in "xyz"}
    text = " or ".join(
        " and ".join(f"{key} {sign} {limit!r}" for key, sign, limit in group) for group in terms
    )
    expected = any(
        all(OPERATORS[sign](record[key], limit) for key, sign, limit in group) for group in terms
    )
    assert bool(select([record], text)) is expected


@given(
    st.lists(st.text(st.characters(exclude_characters='"')), min_size=1),
    st.text() | numbers | st.booleans(),
)
def test_unequal_is_the_opposite_of_equal_whatever_the_values(
    values: list[str], value: object
) -> None:
    listed = ",".join(f'"{text}"' for text in values)
    equal, unequal = (bool(select([{"x": value}], f"x{sign}{listed}")) for sign in ("=", "!="))
    assert equal is not unequal


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(NormbenchError):
        assert all(parse(text))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "at its end"),
        ("norm", "at 'norm'"),
        ("norm=", "at 'norm='"),
        ("norm=bn and", "at its end"),
        ("norm=bn or or seed=1", "at 'or seed=1'"),
        ("norm=bn seed=1", "at 'seed=1'"),
        ("norm=bn, seed=1", "at '=1'"),
        ("(norm=bn)", r"at '\(norm=bn\)'"),
        ("norm='bn", "at 'norm='bn'"),
        ("norm=<4", "at 'norm=<4'"),
        ("norm~bn", "at 'norm~bn'"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_can(text: str, where: str) -> None:
    with pytest.raises(
        NormbenchError, match=rf"cannot read the condition '.*' {where}: write key op value"
    ) as caught:
        parse(text)
    assert "norm=bn,gn and batch_size<=4" in str(caught.value)


def test_only_equality_takes_a_list() -> None:
    with pytest.raises(
        NormbenchError, match="'seed<1,2' compares with several values: only = and != take a list"
    ):
        parse("seed<1,2")


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(
        NormbenchError, match=r"unknown key 'norm.num_group': did you mean 'norm\.num_groups'\?"
    ):
        select(RUNS, "norm=bn or norm.num_group=3")


def test_without_runs_every_key_is_one_that_a_run_might_have_had() -> None:
    assert select([], "anything=1") == []
