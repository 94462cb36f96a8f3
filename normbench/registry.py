"""Named things a user can choose: norms, models, data sources, optimizers.

An entry is a function. Its keyword-only parameters are its options (names, types, ranges, defaults: the signature is
the schema), its positional ones are what the program hands in, and the first line of its docstring is its catalogue
entry.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from normbench.errors import invalid, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered function with the names it goes by."""

    name: str
    title: str
    function: Callable[..., T]
    options: type[BaseModel]

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


class Registry(Generic[T]):
    """Functions by name, with their options checked before they are called."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, *, title: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """A decorator that adds a function under `name`, used in YAML, on the command line, in CSV and legends."""

        def add(function: Callable[..., T]) -> Callable[..., T]:
            assert name not in self._entries, f"{self.noun} {name} is registered twice"
            self._entries[name] = Entry(name, title, function, _options_model(name, function))
            return function

        return add

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __getitem__(self, name: str) -> Entry[T]:
        """The entry called `name`. Raises NormbenchError naming the nearest one where there is none."""
        if name not in self._entries:
            raise unknown(self.noun, name, self._entries)
        return self._entries[name]

    def check(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options of `name`: `given` checked and converted, the rest at their defaults.

        Raises NormbenchError for an unknown name, an unknown option, a wrong type or a value out of range.
        """
        model = self[name].options
        for key in given:
            if key not in model.model_fields:
                raise unknown(f"option of {self.noun} {name}", key, model.model_fields)
        try:
            return model.model_validate(dict(given)).model_dump()
        except ValidationError as error:
            raise invalid(self.noun, error) from None

    def build(self, name: str, *context: Any, options: Mapping[str, Any] | None = None) -> T:
        """Calls the function of `name` with the program's `context` and the user's checked `options`."""
        return self[name].function(*context, **self.check(name, options or {}))


def _options_model(name: str, function: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    keyword_only = [
        p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    fields: dict[str, Any] = {p.name: (hints[p.name], p.default) for p in keyword_only}
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return create_model(f"{name}_options", __config__=config, **fields)
