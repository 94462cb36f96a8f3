"""The registry, and the contract of every registered norm, model, data source and optimizer."""

from __future__ import annotations

import re
from typing import Annotated, Any

import pytest
from pydantic import Field

from normbench.data import sources
from normbench.errors import NormbenchError
from normbench.models import models
from normbench.norms import norms
from normbench.registry import Entry, Registry
from normbench.training.optim import optimizers

REGISTRIES: tuple[Registry[Any], ...] = (norms, models, sources, optimizers)
ENTRIES = [(registry, entry) for registry in REGISTRIES for entry in registry]

NAMES = [f"{registry.noun}-{entry.name}" for registry, entry in ENTRIES]


@pytest.mark.parametrize(("registry", "entry"), ENTRIES, ids=NAMES)
def test_an_entry_has_a_name_to_type_a_title_a_summary_and_defaults_that_pass_its_own_check(
    registry: Registry[Any], entry: Entry[Any]
) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", entry.name)
    assert entry.title.strip()
    assert re.fullmatch(r"\S.*[.:;]", entry.summary), entry.summary
    assert len(entry.summary) <= 120
    assert registry[entry.name] is entry
    defaults = registry.check(entry.name, {})
    assert registry.check(entry.name, defaults) == defaults
    message = f"^unknown option of {registry.noun} {entry.name} 'colour': "
    with pytest.raises(NormbenchError, match=message) as caught:
        registry.check(entry.name, {"colour": 1})
    assert all(option in str(caught.value) for option in entry.options.model_fields)


@pytest.fixture
def shapes() -> Registry[tuple[str, dict[str, Any]]]:
    registry: Registry[tuple[str, dict[str, Any]]] = Registry("shape")

    @registry.register("disc", title="Disc")
    def disc(
        paper: str,
        *,
        radius: Annotated[float, Field(gt=0)] = 1.0,
        points: int = 8,
        filled: bool = False,
        color: str | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """A round thing.

        Details that the catalogue leaves out.
        """
        return paper, {"radius": radius, "points": points, "filled": filled, "color": color}

    @registry.register("dot", title="Dot")
    def dot(paper: str) -> tuple[str, dict[str, Any]]:
        """A small thing."""
        return paper, {}

    return registry


Shapes = Registry[tuple[str, dict[str, Any]]]
DEFAULTS = {"radius": 1.0, "points": 8, "filled": False, "color": None}


def test_entries_come_in_the_order_of_their_registration(shapes: Shapes) -> None:
    assert [(entry.name, entry.title) for entry in shapes] == [("disc", "Disc"), ("dot", "Dot")]
    assert shapes["disc"].summary == "A round thing."


def test_build_hands_in_the_context_and_the_checked_options(shapes: Shapes) -> None:
    assert shapes.check("disc", {}) == DEFAULTS
    assert shapes.check("dot", {}) == {}
    assert shapes.build("disc", "A4") == ("A4", DEFAULTS)
    assert shapes.build("disc", "A4", options={"points": 3}) == ("A4", DEFAULTS | {"points": 3})


def test_a_whole_number_serves_as_a_float_and_becomes_one(shapes: Shapes) -> None:
    radius = shapes.check("disc", {"radius": 2})["radius"]
    assert (radius, type(radius)) == (2.0, float)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "shape.radius: should be greater than 0, not 0.0"),
        ({"radius": float("nan")}, "shape.radius: should be a finite number, not nan"),
        ({"radius": "1"}, "shape.radius: should be a valid number, not '1'"),
        ({"points": 2.0}, "shape.points: should be a valid integer, not 2.0"),
        ({"points": True}, "shape.points: should be a valid integer, not True"),
        ({"filled": 1}, "shape.filled: should be a valid boolean, not 1"),
        ({"color": 3}, "shape.color: should be a valid string, not 3"),
        ({"point": 3}, "unknown option of shape disc 'point': did you mean 'points'? allowed: "),
    ],
)
def test_a_wrong_option_is_refused_by_its_name_range_and_value(
    shapes: Shapes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(NormbenchError, match=f"^{re.escape(message)}"):
        shapes.build("disc", "A4", options=options)


def test_an_unknown_name_is_refused_with_the_nearest(shapes: Shapes) -> None:
    message = r"^unknown shape 'disk': did you mean 'disc'\? allowed: disc, dot$"
    with pytest.raises(NormbenchError, match=message):
        shapes["disk"]
    with pytest.raises(NormbenchError, match=message):
        shapes.build("disk", "A4")


def test_a_name_can_be_registered_only_once(shapes: Shapes) -> None:
    with pytest.raises(AssertionError, match="shape dot is registered twice"):
        shapes.register("dot", title="Another dot")(lambda paper: (paper, {}))
