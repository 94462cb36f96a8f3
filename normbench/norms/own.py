"""Own norms: an nn.Module of the user's that takes num_features, from a file or importable module.

The norm's options are the constructor's further parameters. Class attributes say more:
`conv_bias = True` for a norm without an offset, `owns_activation = True` for a norm that no ReLU
follows, and `scope` as in NormSpec, which the contract checks. An exception in the user's code is
chained to the NormbenchError raised here, so that the command line shows the user's traceback.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import torch
from pydantic import (
    ConfigDict,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from torch import Tensor, nn

from normbench.errors import USER_FILES, NormbenchError, invalid, unknown
from normbench.norms.spec import NormSpec, Refusal, Scope, Shape

MakeLayer = Callable[..., nn.Module]
NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def is_own(name: str) -> bool:
    """Whether `name` has the form `file.py:Class` or `package.module:Class`."""
    return ":" in name


def check(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Checks an own norm's options and returns {"file", "content", "options"} for a configuration.

    Raises NormbenchError where file or class is missing, the file no longer has the content hash
    `given["content"]`, running the file fails, or the constructor has no such option.
    """
    for key in given.keys() - {"file", "content", "options"}:
        raise unknown(f"key of norm {name}", key, ("options",))
    path = _source(name, given.get("file"))
    content = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if given.get("content") not in (None, content):
        changed = f"'{path}' is not the file that this configuration was made for"
        raise NormbenchError(f"norm {name}: {changed}")
    options = _checked_options(name, _load(name, path, content), given.get("options") or {})
    return {"file": str(path), "content": content, "options": options}


def build(name: str, given: Mapping[str, Any]) -> NormSpec:
    """The own norm with its options; refuses an input on which a trial of the layer fails."""
    checked = check(name, given)
    make = _load(name, Path(checked["file"]), checked["content"])
    scope: Any = getattr(make, "scope", "undeclared")
    if scope not in get_args(Scope):
        raise unknown(f"scope of norm {name}", str(scope), get_args(Scope))

    def layer(num_features: int) -> nn.Module:
        made = make(num_features, **checked["options"])
        if not isinstance(made, nn.Module):
            raise NormbenchError(
                f"norm {name} is to make an nn.Module, and made a {type(made).__name__}"
            )
        return made

    return NormSpec(
        scope=scope,
        norm=layer,
        norm_act=layer if getattr(make, "owns_activation", False) else None,
        conv_bias=bool(getattr(make, "conv_bias", False)),
        refuse=lambda shape: _try(layer, shape),
    )


def described(name: str, checked: Mapping[str, Any]) -> tuple[str, str]:
    """The class's name and docstring; `checked` is what `check` returned."""
    make = _load(name, Path(checked["file"]), checked["content"])
    return name.rpartition(":")[2], inspect.cleandoc(make.__doc__ or "")


def _source(name: str, file: str | None) -> Path:
    """The file that defines the class."""
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        path = Path(file or place).expanduser().absolute()
        if not path.is_file():
            raise NormbenchError(f"norm {name}: there is no file '{path}'")
        return path
    found = None
    # ValueError: an empty name.
    with _users_code(name), suppress(ModuleNotFoundError, ValueError):
        found = importlib.util.find_spec(place)
    path = Path(found.origin or "") if found else Path()
    if not path.is_file():
        raise NormbenchError(
            f"norm {name}: there is no module '{place}' to import; a file is given as file.py:Class"
        )
    return path


@lru_cache(maxsize=64)
def _load(name: str, path: Path, content: str) -> MakeLayer:
    """The class or function named after the colon, from the file with this content."""
    USER_FILES.add(str(path))
    place, _, attribute = name.rpartition(":")
    with _users_code(name):
        if place.endswith(".py"):
            module = _run_file(path, content)
        else:
            module = importlib.import_module(place)
    names = vars(module)
    if attribute not in names:
        # Layers that the module defines, and does not just import.
        layers = [key for key in names if _is_layer(names[key], module.__name__)]
        raise unknown(f"class of {place}", attribute, layers)
    make: MakeLayer = names[attribute]
    if not inspect.isfunction(make) and not _is_layer(make):
        raise NormbenchError(
            f"norm {name}: {attribute} is no subclass of nn.Module and no function that makes one"
        )
    return make


def _run_file(path: Path, content: str) -> ModuleType:
    """Runs the file as a module; as in a script, imports from the file's folder work."""
    module = ModuleType(f"normbench_own_{content}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look up a class's module here
    sys.path.insert(0, str(path.parent))
    try:
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    finally:
        sys.path.remove(str(path.parent))
    return module


def _is_layer(value: object, module: str | None = None) -> bool:
    is_layer = inspect.isclass(value) and issubclass(value, nn.Module)
    return is_layer and module in (None, value.__module__)


def _checked_options(name: str, make: MakeLayer, given: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's options that YAML can hold: given values, checked, and defaults."""
    parameters = [p for p in inspect.signature(make).parameters.values() if p.kind in NAMED]
    if not parameters or parameters[0].kind is Parameter.KEYWORD_ONLY:
        raise NormbenchError(
            f"norm {name}: its constructor takes no num_features: name it as the first parameter"
        )
    defaults = {p.name: p.default for p in parameters[1:]}
    for key in given.keys() - defaults.keys():
        known = [f"norm.options.{option}" for option in defaults]
        raise unknown(f"option of norm {name}", key, known)
    hints: dict[str, Any] = {}
    # An annotation may be no type but a remark or a number.
    with suppress(Exception):
        function = make.__init__ if inspect.isclass(make) else make
        hints = get_type_hints(function, include_extras=True)
    options = {}
    for key, value in {**defaults, **given}.items():
        if value is Parameter.empty:
            raise NormbenchError(f"norm {name} needs norm.options.{key}=VALUE")
        if key in given:
            value = _converted(key, value, hints.get(key, Any))
        # A default such as a class, which YAML cannot hold, is left out.
        with suppress(TypeError, ValueError):
            options[key] = json.loads(json.dumps(value))
    return options


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
        raise invalid(f"norm.options.{key}", error) from None


def _try(layer: Callable[[int], nn.Module], shape: Shape) -> Refusal | None:
    """Refuses where a forward pass in training raises, changes the shape or is not finite."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            y = layer(shape[1]).train()(x)
    except NormbenchError:
        raise
    except Exception as error:
        first_line = f"{type(error).__name__}: {error}".splitlines()[0]
        return Refusal(f"on a batch of shape {shape} it raises {first_line}", error)
    made = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
    if made != shape:
        return Refusal(f"it makes {made} of a batch of shape {shape}")
    if not y.isfinite().all():
        return Refusal(f"it gives values that are not finite on a batch of shape {shape}")
    return None


@contextmanager
def _users_code(name: str) -> Iterator[None]:
    """Turns an exception in the user's code into a NormbenchError of one line, chained to it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise NormbenchError(f"norm {name}: {type(error).__name__}: {error}") from error
