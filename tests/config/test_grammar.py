"""Hydra's grammar for settings and axes: what `key=value`, `key=a,b`, choice(), range() and glob()
stand for."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench.config import grammar
from normbench.config.grammar import (
    distinct,
    parse_assignment,
    parse_assignments,
    parse_axes,
    parse_axis,
)
from normbench.errors import NormbenchError

GROUPS = {"norm": ["bn", "gn", "in", "ln", "none"], "data": ["cifar10", "synthetic"]}
HUNDREDTHS = st.integers(-300, 300).map(lambda number: Decimal(number) / 100)


def values(text: str) -> list[Any]:
    return parse_axis(text, GROUPS)[1]


def refusal(text: str) -> str:
    """The one line with which an axis is refused."""
    with pytest.raises(NormbenchError) as caught:
        parse_axis(text, GROUPS)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Axes


@given(st.lists(st.integers(), min_size=2))
def test_a_list_is_its_distinct_values_in_the_order_of_their_first_mention(
    numbers: list[int],
) -> None:
    text = ",".join(map(str, numbers))
    assert values(f"seed={text}") == values(f"seed=choice({text})") == list(dict.fromkeys(numbers))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2))
def test_a_number_in_a_list_is_the_number_that_it_is_alone(numbers: list[float]) -> None:
    listed = values("optim.lr=" + ",".join(map(repr, numbers)))
    assert listed == distinct(parse_assignment(f"optim.lr={number!r}")[1] for number in numbers)


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-5, 5).filter(bool))
def test_a_range_of_integers_is_python_s(start: int, stop: int, step: int) -> None:
    text, expected = f"seed=range({start},{stop},{step})", list(range(start, stop, step))
    if expected:
        assert values(text) == expected
    else:
        assert refusal(text) == f"'{text}' expands to no value at all"


@given(HUNDREDTHS, HUNDREDTHS.filter(lambda step: 0 < step <= 1), st.integers(1, 30))
def test_a_range_of_decimals_holds_the_decimals_that_a_person_would_write(
    start: Decimal, step: Decimal, count: int
) -> None:
    text = f"optim.lr=range({float(start)!r},{float(start + step * count)!r},{float(step)!r})"
    assert values(text) == [float(start + step * number) for number in range(count)]


@given(st.lists(st.sampled_from([0, 1, True, False, 1.0, None, "1", "a", (1,), (1.0,)])))
def test_distinct_values_keep_their_order_and_their_types(mixed: list[Any]) -> None:
    assert list(map(repr, distinct(mixed))) == list(dict.fromkeys(map(repr, mixed)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=7", [7]),
        ("seed=choice(7)", [7]),
        ("seed=range(3)", [0, 1, 2]),
        ("optim.lr=range(0.1,0.5,0.1)", [0.1, 0.2, 0.3, 0.4]),
        ("optim.lr=1e-3,0.001,3e-3", [1e-3, 3e-3]),
        ("runtime.compile=1,true", [1, True]),
        ("seed=sort(3,1,2)", [1, 2, 3]),
        ("model.widths=[4,8],[8,16],[4,8]", [[4, 8], [8, 16]]),
        ("model.widths=[4,8]", [[4, 8]]),
        ("data.root='a, b',c", ["a, b", "c"]),
        ("data.limit_train=null,10", [None, 10]),
        ("data.root=${x},b", ["${x}", "b"]),
        ("system.runs_dir=rüns", ["rüns"]),
        ("norm=glob(*)", ["bn", "gn", "in", "ln", "none"]),
        ("norm=glob(*n)", ["bn", "gn", "in", "ln"]),
        ("norm=glob([b*,g*])", ["bn", "gn"]),
        ("norm=glob(*,exclude=none)", ["bn", "gn", "in", "ln"]),
        ("norm=glob(*,exclude=[none,i*])", ["bn", "gn", "ln"]),
    ],
)
def test_an_axis_is_a_key_and_a_list_of_plain_values(text: str, expected: list[Any]) -> None:
    key, found = parse_axis(text, GROUPS)
    assert key == text.partition("=")[0]
    assert list(map(repr, found)) == list(map(repr, expected))
    assert all(type(one) is type(other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed=range(5,0)", "'seed=range(5,0)' expands to no value at all"),
        ("seed=range(0,0)", "'seed=range(0,0)' expands to no value at all"),
        ("norm=glob(x*)", "'norm=glob(x*)' expands to no value at all"),
        ("norm=glob(*,exclude=*)", "'norm=glob(*,exclude=*)' expands to no value at all"),
        ("seed=glob(*)", "'seed=glob(*)': glob() chooses among norm, data"),
        ("seed=shuffle(1,2)", "'seed=shuffle(1,2)': the order of runs changes nothing"),
        ("seed=shuffle(range(0,3))", "'seed=shuffle(range(0,3))': the order of runs changes"),
        ("a=shuffle([0.5,0.9])", "'a=shuffle([0.5,0.9])': the order of runs changes nothing"),
        ("optim.lr=interval(0,1)", "'optim.lr=interval(0,1)': an interval has no end of values"),
        ("+seed=1,2", "'+seed=1,2': keys are neither added nor deleted, only set: write key=value"),
        ("++seed=1,2", "'++seed=1,2': keys are neither added nor deleted"),
        ("~seed", "'~seed': keys are neither added nor deleted"),
        ("hydra.sweep=a,b", "'hydra.sweep=a,b': Hydra's own settings and packages have no effe"),
        ("hydra/launcher=a,b", "'hydra/launcher=a,b': Hydra's own settings"),
        ("norm@model=bn,gn", "'norm@model=bn,gn': Hydra's own settings and packages"),
        ("norm", "cannot read 'norm': write key=value, as in batch_size=8 or norm=gn"),
        ("", "cannot read '': write key=value"),
        ("seed=choice()", "cannot read 'seed=choice()': write key=value"),
        ("seed=range(0,3", "cannot read 'seed=range(0,3': write key=value"),
        ("norm=shuffle(glob(*))", "'norm=shuffle(glob(*))': the order of runs changes nothing"),
        ("seed=range(0,3,0)", "cannot expand 'seed=range(0,3,0)': "),
        ("optim.lr=range(0.0,1.0,0.0)", "cannot expand 'optim.lr=range(0.0,1.0,0.0)': "),
        ("norm=glob(*),bn", "'norm=glob(*),bn': "),
    ],
)
def test_what_is_no_axis_is_refused_in_one_line(text: str, complaint: str) -> None:
    assert refusal(text).startswith(complaint)


def test_axes_are_in_the_order_given_and_no_key_comes_twice() -> None:
    axes = parse_axes(["seed=range(0,2)", "norm=gn,bn", "batch_size=8"], GROUPS)
    assert list(axes.items()) == [("seed", [0, 1]), ("norm", ["gn", "bn"]), ("batch_size", [8])]
    message = r"^'seed' is given twice: as \[0, 1\] and in 'seed=5'$"
    with pytest.raises(NormbenchError, match=message):
        parse_axes(["seed=0,1", "norm=bn", "seed=5"], GROUPS)


# Single values


@pytest.mark.parametrize(
    ("text", "assignment"),
    [
        ("a.b=1", ("a.b", 1)),
        ("a=1.0", ("a", 1.0)),
        ("a=1e-3", ("a", 1e-3)),
        ("a=null", ("a", None)),
        ("a=none", ("a", "none")),
        ("a='x, y'", ("a", "x, y")),
        ("a=[1,'b',[c]]", ("a", [1, "b", ["c"]])),
        ("a={b: 'c'}", ("a", {"b": "c"})),
        ("a=/data/with-dash_and.dots", ("a", "/data/with-dash_and.dots")),
        ("a=${seed}", ("a", "${seed}")),
        ("a=x=y", ("a", "x=y")),
        ("a=rüns", ("a", "rüns")),
    ],
)
def test_an_assignment_is_a_key_and_a_plain_value(text: str, assignment: tuple[str, Any]) -> None:
    key, value = parse_assignment(text)
    assert (key, value) == assignment
    assert type(value) is type(assignment[1])


@pytest.mark.parametrize(
    "text", ["a=1", "a=0.30000000000000004", "a=x,", "a=null", "a=[1,2]", "a=rüns", "a='b, c'"]
)
def test_a_single_value_is_an_axis_of_one_point(text: str) -> None:
    key, value = parse_assignment(text)
    assert parse_axis(text, GROUPS) == (key, [value])


@pytest.mark.parametrize(
    "text", ["a=1,2", "a=choice(1,2)", "a=range(0,3)", "norm=glob(*)", "a=interval(0,1)"]
)
def test_several_values_are_no_assignment(text: str) -> None:
    with pytest.raises(NormbenchError) as caught:
        parse_assignment(text)
    assert str(caught.value) == f"'{text}' is several values for one run: use sweep for that"


def test_assignments_come_after_flags_and_no_key_comes_twice() -> None:
    found = parse_assignments(["b=2"], {"c": 1, "a": "${x}"})
    assert list(found.items()) == [("c", 1), ("a", "\\${x}"), ("b", 2)]
    with pytest.raises(NormbenchError, match=r"^'b' is given twice: as 1 and in 'b=2'$"):
        parse_assignments(["b=2"], {"b": 1})
    with pytest.raises(NormbenchError, match=r"^'b' is given twice: as 1 and in 'b=1'$"):
        parse_assignments(["b=1", "b=1"])


# Values that are read without Hydra


KEYS = st.sampled_from(["a", "norm", "optim.lr", "_x.y1", "true", "null", "hydrant.x", "Hydra"])
ALIKE = st.sampled_from(
    [*"0127.eE+-_/", "true", "NULL", "inf", "nan", "range", "choice", "..", ","]
)
TEXTS = st.lists(ALIKE | st.text("abcz019._/-", max_size=4), max_size=5).map("".join)


def what(parse: Callable[[], Any]) -> str:
    """The result with its types, or the refusal."""
    try:
        return repr(parse())
    except NormbenchError as error:
        return str(error)


@given(KEYS, TEXTS)
@settings(max_examples=500)
def test_plain_values_are_what_hydra_reads(key: str, value: str) -> None:
    text = f"{key}={value}"
    found = what(lambda: parse_axis(text, GROUPS)), what(lambda: parse_assignment(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grammar, "_plain_values", lambda text: ("", []))
        patch.setattr(grammar, "_plain_range", lambda text: ("", []))
        assert found == (
            what(lambda: parse_axis(text, GROUPS)),
            what(lambda: parse_assignment(text)),
        )


@given(KEYS, st.integers(0, 40), st.integers(0, 40))
def test_plain_ranges_are_what_hydra_reads(key: str, start: int, stop: int) -> None:
    text = f"{key}=range({start},{stop})"
    found = what(lambda: parse_axis(text, GROUPS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grammar, "_plain_range", lambda text: ("", []))
        assert found == what(lambda: parse_axis(text, GROUPS))


@pytest.mark.parametrize(
    "text", ["norm=bn,gn", "batch_size=8", "optim.lr=3e-4", "a=../b/c-d.yaml", "a=0.5", "a=x_1"]
)
def test_usual_values_need_no_hydra(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "_parse", Mock(side_effect=AssertionError))
    assert parse_axis(text, GROUPS)[0] == text.partition("=")[0]
