"""A norm of the user's own: an nn.Module that takes num_features, from a file or an importable module.

Its options are the constructor's other parameters. Attributes of the class may say more: `conv_bias = True` for a norm
that adds no offset, `owns_activation = True` for one that no ReLU is to follow, and `scope`, as in NormSpec, which the
contract then checks. Whatever the user's code raises is chained to the error raised here, to be shown with its own
traceback.
"""

from __future__ import annotations

import hashlib
import importlib
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
from normbench.norms.spec import Failed, NormSpec, Scope, Shape

MakeLayer = Callable[..., nn.Module]
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def is_own(name: str) -> bool:
    """Whether a norm's name is `file.py:Class` or `package.module:Class`."""
    return ":" in name


def check(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """{"file", "content", "options"} of the norm `name`, as they belong into a configuration.

    Raises NormbenchError where the file or class is missing, the file has changed since `given["content"]` was taken,
    running it fails, or an option is not one of the constructor's.
    """
    for key in given.keys() - {"file", "content", "options"}:
        raise unknown(f"key of norm {name}", key, ("options",))
    path = _source(name, given.get("file"))
    content = _content(path)
    if given.get("content") not in (None, content):
        raise NormbenchError(
            f"norm {name}: '{path}' is not the file that this configuration was made for"
        )
    options = _checked_options(name, _load(name, path, content), given.get("options") or {})
    return {"file": str(path), "content": content, "options": options}


def build(name: str, given: Mapping[str, Any]) -> NormSpec:
    """The user's norm with its options chosen; an input is refused where a trial of the layer on it fails."""
    checked = check(name, given)
    make = _load(name, Path(checked["file"]), checked["content"])

    def layer(num_features: int) -> nn.Module:
        made = make(num_features, **checked["options"])
        if not isinstance(made, nn.Module):
            raise NormbenchError(
                f"norm {name} is to make an nn.Module, and made a {type(made).__name__}"
            )
        return made

    return NormSpec(
        scope=_scope(name, make),
        norm=layer,
        norm_act=layer if getattr(make, "owns_activation", False) else None,
        conv_bias=bool(getattr(make, "conv_bias", False)),
        refuse=lambda shape: _try(layer, shape),
    )


def _scope(name: str, make: MakeLayer) -> Scope:
    scope: Any = getattr(make, "scope", "undeclared")
    if scope not in get_args(Scope):
        raise unknown(f"scope of norm {name}", str(scope), get_args(Scope))
    return scope  # type: ignore[no-any-return]


def described(name: str, checked: Mapping[str, Any]) -> tuple[str, str]:
    """The name of the class and its own docstring, of a norm whose options have been checked."""
    make = _load(name, Path(checked["file"]), checked["content"])
    return name.rpartition(":")[2], inspect.cleandoc(make.__doc__ or "")


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _source(name: str, file: str | None) -> Path:
    """The file that holds the class."""
    place = name.rpartition(":")[0]
    if not place.endswith(".py"):
        return _module_file(name, place)
    path = Path(file or place).expanduser().absolute()
    if not path.is_file():
        raise NormbenchError(f"norm {name}: there is no file '{path}'")
    return path


def _module_file(name: str, module: str) -> Path:
    found = None
    with _users_code(name), suppress(ModuleNotFoundError):
        found = importlib.util.find_spec(module) if module else None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise NormbenchError(
            f"norm {name}: there is no module '{module}' to import; a file is given as file.py:Class"
        )
    return Path(found.origin)


@lru_cache(maxsize=64)
def _load(name: str, path: Path, content: str) -> MakeLayer:
    """What the name after the colon stands for, in the file with this content."""
    USER_FILES.add(str(path))
    place, _, attribute = name.rpartition(":")
    with _users_code(name):
        module = (
            _run_file(path, content) if place.endswith(".py") else importlib.import_module(place)
        )
    if attribute not in vars(module):
        raise unknown(f"class of {place}", attribute, _layers_in(module))
    make = getattr(module, attribute)
    if not (inspect.isfunction(make) or (inspect.isclass(make) and issubclass(make, nn.Module))):
        raise NormbenchError(
            f"norm {name}: {attribute} is no subclass of nn.Module and no function that makes one"
        )
    return make


def _run_file(path: Path, content: str) -> ModuleType:
    """The file as a module; while it runs it can import its neighbours, as a script can."""
    spec = importlib.util.spec_from_file_location(f"normbench_own_{content}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look for a class's module there
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def _layers_in(module: ModuleType) -> list[str]:
    """The classes that are defined in the module and could have been meant."""
    classes = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
    return [
        name
        for name, value in classes.items()
        if issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]


def _checked_options(name: str, make: MakeLayer, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the constructor that YAML can hold: those given, checked by their annotations, and defaults."""
    parameters = inspect.signature(make).parameters.values()
    first = next((p for p in parameters if p.kind in POSITIONAL), None)
    if first is None:
        raise NormbenchError(
            f"norm {name}: its constructor takes no num_features: name it as the first parameter"
        )
    options = {p.name: p for p in parameters if p is not first and p.kind in NAMED}
    for key in given.keys() - options.keys():
        raise unknown(f"option of norm {name}", key, (f"norm.options.{known}" for known in options))
    if missing := [
        key for key, p in options.items() if p.default is Parameter.empty and key not in given
    ]:
        raise NormbenchError(f"norm {name} needs norm.options.{missing[0]}=VALUE")
    hints = _hints(make)
    values = {key: p.default for key, p in options.items()}
    values |= {key: _converted(key, value, hints.get(key, Any)) for key, value in given.items()}
    return {
        key: plain for key, value in values.items() if (plain := _plain(value)) is not _NOT_PLAIN
    }


def _hints(make: MakeLayer) -> dict[str, Any]:
    """The annotations; those that are no types, but remarks or numbers, check nothing."""
    with suppress(Exception):
        return get_type_hints(make.__init__ if inspect.isclass(make) else make, include_extras=True)
    return {}


def _converted(key: str, value: Any, hint: Any) -> Any:
    """An option's value as its annotation wants it: a list for a tuple, a whole number for a float."""
    adapter: TypeAdapter[Any] = TypeAdapter(Any)
    with warnings.catch_warnings(), suppress(PydanticUserError, PydanticUndefinedAnnotation):
        warnings.simplefilter("ignore")  # of a remark in an annotation's place
        adapter = TypeAdapter(hint, config=STRICT)
    try:
        return adapter.validate_json(json.dumps(value))
    except ValidationError as error:
        raise invalid(f"norm.options.{key}", error) from None


_NOT_PLAIN = object()


def _plain(value: Any) -> Any:
    """The value as YAML holds it; a default such as a class is no option."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return _NOT_PLAIN


def _try(layer: Callable[[int], nn.Module], shape: Shape) -> str | None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            y = layer(shape[1]).train()(x)
    except NormbenchError:
        raise
    except Exception as error:
        reason = Failed(
            f"on a batch of shape {shape} it raises {type(error).__name__}: {error}".splitlines()[0]
        )
        reason.error = error
        return reason
    if not isinstance(y, Tensor) or y.shape != x.shape:
        given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        return f"it makes {given} of a batch of shape {shape}"
    return (
        None
        if y.isfinite().all()
        else f"it gives values that are not finite on a batch of shape {shape}"
    )


@contextmanager
def _users_code(name: str) -> Iterator[None]:
    """What goes wrong in the user's code is the user's to read: one line, and the traceback chained to it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise NormbenchError(f"norm {name}: {type(error).__name__}: {error}") from error
