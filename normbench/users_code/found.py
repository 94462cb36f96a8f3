"""Classes and functions of the user's own: `file.py:Name`, `package.module:Name` or given:Name.

Own norms and own networks are found, identified and given their options alike. An exception in the
user's code is chained to the NormbenchError raised here, so that the command line shows the user's
traceback.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import (
    ConfigDict,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from normbench.errors import USER_FILES, NormbenchError, first_line, invalid, unknown
from normbench.users_code.given import GIVEN, Make, find_given

Accepts = Callable[[Any], bool]
NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
KEYS = ("file", "content", "options")


def is_own(name: str) -> bool:
    """Whether `name` has the form `file.py:Name`, `package.module:Name` or `given:Name`."""
    return ":" in name


@dataclass(frozen=True)
class Own:
    """A class or function of the user's that makes a `noun` (norm, model).

    path: the file that defines it. content: 16 hex digits of the sha256 of that file.
    """

    noun: str
    name: str
    make: Make
    path: Path
    content: str

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters that can be given by name, and **options where there are such."""
        found = inspect.signature(self.make).parameters.values()
        return [
            parameter for parameter in found if parameter.kind in (*NAMED, Parameter.VAR_KEYWORD)
        ]

    @property
    def title(self) -> str:
        """The name of the class or function."""
        return self.name.rpartition(":")[2]

    @property
    def docstring(self) -> str:
        """The docstring without indentation; empty where there is none."""
        return inspect.cleandoc(self.make.__doc__ or "")

    def checked(self, given: Mapping[str, Any], reserved: Mapping[str, Any]) -> dict[str, Any]:
        """The options that YAML can hold: given values, checked, and defaults.

        reserved: parameters that normbench gives. Raises NormbenchError for an unknown option, a
        missing one and a value of another type than the annotation.
        """
        named = [p for p in self.parameters if p.kind in NAMED and p.name not in reserved]
        defaults = {parameter.name: parameter.default for parameter in named}
        takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in self.parameters)
        prefix = f"{self.noun}.options."
        for key in given.keys() - defaults.keys():
            if key in reserved or not takes_any:
                known = [prefix + option for option in defaults]
                raise unknown(f"option of {self.noun} {self.name}", key, known)
        hints = self._annotations()
        options = {}
        for key, value in {**defaults, **given}.items():
            if value is Parameter.empty:
                raise NormbenchError(f"{self.noun} {self.name} needs {prefix}{key}=VALUE")
            if key in given:
                value = _converted(prefix + key, value, hints.get(key, Any))
            # A default such as a class, which YAML cannot hold, is left out.
            with suppress(TypeError, ValueError):
                options[key] = json.loads(json.dumps(value))
        return options

    def _annotations(self) -> dict[str, Any]:
        # An annotation may be no type but a remark or a number.
        with suppress(Exception):
            function = self.make.__init__ if inspect.isclass(self.make) else self.make
            return get_type_hints(function, include_extras=True)
        return {}


def find_own(noun: str, name: str, given: Mapping[str, Any], accepts: Accepts) -> Own:
    """The class or function called `name`, with the file and content of `given` if these are known.

    accepts: whether a class makes the right kind of thing; functions are always tried. Raises
    NormbenchError where file, module or name is missing, the file no longer has the content hash
    `given["content"]`, or running the file fails.
    """
    for key in given.keys() - set(KEYS):
        raise unknown(f"key of {noun} {name}", key, ("options",))
    place, _, attribute = name.rpartition(":")
    if place == GIVEN:
        make, content = find_given(noun, name, given.get("content"))
        return Own(noun, name, make, Path(GIVEN), content)
    if place.endswith(".py"):
        path = Path(given.get("file") or place).expanduser().absolute()
        if not path.is_file():
            raise NormbenchError(f"{noun} {name}: there is no file '{path}'")
        _check_content(noun, name, given, path)
        module = _file_module(noun, name, path, content_of(path))
    else:
        module = _installed_module(noun, name, place)
        path = Path(module.__file__ or "")
    names = vars(module)
    if attribute not in names:
        raise unknown(f"class of {place}", attribute, _defined(module, accepts))
    make = names[attribute]
    if not inspect.isfunction(make) and not (inspect.isclass(make) and accepts(make)):
        raise NormbenchError(
            f"{noun} {name}: {attribute} is no subclass of nn.Module and no function that makes one"
        )
    if not place.endswith(".py"):
        # A package may only pass on what another of its files defines.
        with suppress(TypeError):
            path = Path(inspect.getsourcefile(inspect.unwrap(make)) or path)
        _check_content(noun, name, given, path)
    USER_FILES.add(str(path))
    return Own(noun, name, make, path, content_of(path))


def content_of(path: Path) -> str:
    """The first 16 hex digits of the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@contextmanager
def users_code(noun: str, name: str) -> Iterator[None]:
    """Turns an exception in the user's code into a NormbenchError of one line, chained to it."""
    try:
        yield
    except NormbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise NormbenchError(f"{noun} {name}: {first_line(error)}") from error


def _check_content(noun: str, name: str, given: Mapping[str, Any], path: Path) -> None:
    if given.get("content") not in (None, content_of(path)):
        changed = f"'{path}' is not the file that this configuration was made for"
        raise NormbenchError(f"{noun} {name}: {changed}")


def _installed_module(noun: str, name: str, place: str) -> ModuleType:
    with users_code(noun, name):
        try:
            module = importlib.import_module(place)
        except (ModuleNotFoundError, ValueError, TypeError) as error:
            # The module may be there and import another one that is missing.
            missing = getattr(error, "name", None) or ""
            if not f"{place}.".startswith(f"{missing}."):
                raise
            raise NormbenchError(
                f"{noun} {name}: there is no module '{place}' to import; "
                "a file is given as file.py:Class"
            ) from None
    if not Path(module.__file__ or "").is_file():
        raise NormbenchError(f"{noun} {name}: the module '{place}' has no file of Python code")
    return module


@lru_cache(maxsize=64)
def _file_module(noun: str, name: str, path: Path, content: str) -> ModuleType:
    """Runs the file as a module; as in a script, imports from the file's folder work."""
    USER_FILES.add(str(path))
    module = ModuleType(f"normbench_own_{content}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look up a class's module here
    sys.path.insert(0, str(path.parent))
    try:
        with users_code(noun, name):
            exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    finally:
        sys.path.remove(str(path.parent))
    return module


def _defined(module: ModuleType, accepts: Accepts) -> list[str]:
    """The classes that a module defines, and does not just import."""
    found = []
    for key, value in vars(module).items():
        if inspect.isclass(value) and value.__module__ == module.__name__ and accepts(value):
            found.append(key)
    return found


def _converted(key: str, value: Any, hint: Any) -> Any:
    """Converts a value from YAML to its annotation: a list to a tuple, an int to a float."""
    adapter: TypeAdapter[Any] = TypeAdapter(Any)
    with warnings.catch_warnings(), suppress(PydanticUserError, PydanticUndefinedAnnotation):
        # pydantic warns about annotations that are no types.
        warnings.simplefilter("ignore")
        adapter = TypeAdapter(hint, config=STRICT)
    try:
        return adapter.validate_json(json.dumps(value))
    except ValidationError as error:
        raise invalid(key, error) from None
