"""Registers functions by name, for a user's choice of norm, model, data source or optimizer.

An entry is a function. Keyword-only parameters are its options: the signature is the schema of
names, types, ranges and defaults. Positional parameters are handed in by the program. The first
line of the docstring is the catalogue entry.
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
    """A registered function with its name, its title for people and its options."""

    name: str
    title: str
    function: Callable[..., T]
    options: type[BaseModel]

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


class Registry(Generic[T]):
    """Holds functions by name, and checks options before calling."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, *, title: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Returns a decorator that registers under `name`, as in YAML, command line and CSV."""

        def add(function: Callable[..., T]) -> Callable[..., T]:
            assert name not in self._entries, f"{self.noun} {name} is registered twice"
            self._entries[name] = Entry(name, title, function, _options_model(name, function))
            return function

        return add

    def __iter__(self) -> Iterator[Entry[T]]:
        # By name and not by import order, which differs between commands.
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __getitem__(self, name: str) -> Entry[T]:
        """The entry called `name`. Raises NormbenchError with the nearest name where missing."""
        if name not in self._entries:
            raise unknown(self.noun, name, self._entries)
        return self._entries[name]

    def check(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns all options of `name`: those given checked and converted, the rest at defaults.

        Raises NormbenchError for an unknown name or option, a wrong type, a value out of range.
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
        """Calls the function of `name` with the program's `context` and the checked `options`."""
        return self[name].function(*context, **self.check(name, options or {}))


def _options_model(name: str, function: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            fields[parameter.name] = (hints[parameter.name], parameter.default)
    # strict: the string "1" is no number, and 1 is not true.
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return create_model(f"{name}_options", __config__=config, **fields)
