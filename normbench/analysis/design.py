"""The design of a study, fixed before it runs: what is compared, what is expected, what matters.

It stands in the study's file in configs/sweep/, and is kept in the study's folder as study.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from normbench.errors import NormbenchError
from normbench.runs.row import choice_label

# The keys of a study's file that belong to its design.
DESIGNED = (
    "primary",
    "hypotheses",
    "smallest_difference",
    "standard_deviation",
    "median_and_worst",
    "tuned_by",
)

# What differs between the runs of a comparison, or is chosen for each norm.
NO_PLACE = ("norm", "seed", "optim.lr", "lr")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """A part of a design: no other keys than its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Family(Part):
    """Norms each compared with one norm, at all combinations of some settings.

    at: values by the name of a setting, as `batch_size` or `optim.name`.
    """

    norms: Annotated[tuple[str, ...], Field(min_length=1)]
    against: str
    at: dict[str, Annotated[tuple[int | float | str, ...], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _of_two_norms(self) -> Family:
        if self.against in self.norms:
            raise ValueError(f"{self.against} is compared with itself")
        for name in NO_PLACE:
            if name in self.at:
                raise ValueError(f"at: {name} is no setting at which norms are compared")
        return self


class Hypothesis(Part):
    """What is expected before the study runs, and on whose word."""

    expected: str
    source: str


class Rate(Part):
    """A learning rate chosen by another study for a norm at a batch size.

    is_edge: no smaller, or no larger, rate was tried there. at: the other settings that varied
    there, as text: {"model.norm_position": "post"}.
    """

    norm: str
    batch_size: int
    lr: float
    is_edge: bool
    at: dict[str, str] = {}

    @property
    def place(self) -> tuple[str, int, tuple[tuple[str, str], ...]]:
        """What the rate was chosen for, to be compared and sorted."""
        return self.norm, self.batch_size, tuple(sorted(self.at.items()))

    def is_for(self, settings: Mapping[str, Any]) -> bool:
        """Whether the rate was chosen for the norm, batch size and further settings of a run."""
        place = choice_label(str(settings["norm"])), settings["batch_size"]
        found = {name: str(settings.get(name)) for name in self.at}
        return (place, found) == ((self.norm, self.batch_size), self.at)

    @model_serializer(mode="wrap")
    def _without_empty_at(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        if not self.at:  # as in studies that were written before rates had further settings
            del values["at"]
        return values


@dataclass(frozen=True)
class Comparison:
    """Two norms at some settings: `first` minus `second`, decided beforehand."""

    first: str
    second: str
    at: Mapping[str, Any]

    def is_of(self, norms: set[str], settings: Mapping[str, Any]) -> bool:
        """Whether the two norms are these, and the settings are among those compared at."""
        if norms != {self.first, self.second}:
            return False
        for name, value in self.at.items():
            # `model` stands for `model.name`, as on the command line.
            found = settings.get(name, settings.get(f"{name}.name"))
            # Settings without a column of their own are text in a study's tables.
            if found not in (value, str(value)):
                return False
        return True


class Design(Part):
    """The design of a study.

    primary: the comparisons that get p-values and verdicts, Holm's over all of them.
    smallest_difference: of interest, and standard_deviation: of a run over seeds, where no runs
    tell; both in the unit of differences of the primary metric, as points. median_and_worst:
    whether tables show them beside every mean, and not only where runs diverged or failed.
    tuned_by: the study that chose the learning rates, and rates: what it chose.
    """

    name: str
    primary: tuple[Family, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    smallest_difference: Positive | None = None
    standard_deviation: Positive | None = None
    median_and_worst: bool = False
    tuned_by: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    rates: tuple[Rate, ...] = ()

    @model_validator(mode="after")
    def _without_repetition(self) -> Design:
        seen = []
        for comparison in self.comparisons():
            key = ({comparison.first, comparison.second}, dict(comparison.at))
            if key in seen:
                raise ValueError(f"{comparison.first} and {comparison.second} are compared twice")
            seen.append(key)
        return self

    def comparisons(self) -> list[Comparison]:
        """The primary comparisons, one by one."""
        found = []
        for family in self.primary:
            choices = list(itertools.product(*family.at.values()))
            for norm, values in itertools.product(family.norms, choices):
                at = dict(zip(family.at, values, strict=True))
                found.append(Comparison(norm, family.against, at))
        return found


def read_design(content: Mapping[str, Any]) -> Design:
    """The design in the content of a file. Raises ValueError with the key that is wrong."""
    try:
        return Design.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from None


def united(designs: Sequence[Design | None]) -> Design | None:
    """The design of studies that are joined; None unless all are parts of one study.

    Raises NormbenchError for parts of one study with different designs, or with different learning
    rates for the same place. A part may lack rates that were not chosen yet.
    """
    known = [design for design in designs if design is not None]
    if len(known) < len(designs) or len({design.name for design in known}) != 1:
        return None
    rates: dict[Any, Rate] = {}
    for design in known:
        if design.model_copy(update={"rates": ()}) != known[0].model_copy(update={"rates": ()}):
            raise NormbenchError(
                f"these are parts of the study {design.name} with different designs: its primary "
                "comparisons, its expectations, or where it takes its learning rates from"
            )
        for rate in design.rates:
            before = rates.setdefault(rate.place, rate)
            if before.lr != rate.lr:
                raise NormbenchError(
                    f"these are parts of the study {design.name} with different learning rates of "
                    f"{rate.norm} at batch size {rate.batch_size}: {before.lr:g} and {rate.lr:g}"
                )
            # The last word on whether it lies at the edge is that of the wider grid.
            if not rate.is_edge:
                rates[rate.place] = rate
    ordered = sorted(rates.values(), key=lambda rate: rate.place)
    return known[0].model_copy(update={"rates": tuple(ordered)})
