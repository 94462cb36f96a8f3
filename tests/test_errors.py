"""The one line a user reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normbench.errors import NormbenchError, RunFailure, invalid, unknown


class Settings(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    count: int = Field(ge=1)
    widths: tuple[int, ...] = Field((1,), strict=False)


def complaint(prefix: str, **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(values)
    return str(invalid(prefix, caught.value))


def test_an_unknown_name_is_answered_with_the_nearest_and_all_allowed_ones() -> None:
    message = str(unknown("norm", "gm", ["ln", "gn", "bn"]))
    assert message == "unknown norm 'gm': did you mean 'gn'? allowed: bn, gn, ln"


def test_a_name_that_resembles_none_gets_no_suggestion() -> None:
    assert str(unknown("norm", "xyz", ["gn", "bn"])) == "unknown norm 'xyz': allowed: bn, gn"
    assert str(unknown("option", "eps", [])) == "unknown option 'eps': allowed: none"


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5, unique=True), st.data())
def test_a_name_that_is_allowed_is_its_own_nearest(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert f"did you mean '{name}'?" in str(unknown("noun", name, names))


def test_wrong_input_exits_with_2_and_a_failing_world_with_1() -> None:
    assert (NormbenchError.exit_code, RunFailure.exit_code) == (2, 1)
    assert issubclass(RunFailure, NormbenchError)


def test_a_validation_error_becomes_key_complaint_and_value() -> None:
    assert complaint("", count=0) == "count: should be greater than or equal to 1, not 0"
    assert complaint("norm", count="a") == "norm.count: should be a valid integer, not 'a'"
    assert complaint("", count=1, widths=(1, "b")) == "widths.1: should be a valid integer, not 'b'"


def test_a_missing_or_superfluous_key_is_not_given_a_value() -> None:
    assert complaint("norm") == "norm.count: Field required"
    assert complaint("norm", count=1, other=3) == "norm.other: Extra inputs are not permitted"
