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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, ValidationError, create_model
from torch import Tensor, nn

from normbench.errors import USER_FILES, NormbenchError, invalid, unknown
from normbench.norms.spec import Failed, NormSpec, Shape

MakeLayer = Callable[..., nn.Module]
NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


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
        raise NormbenchError(f"norm {name}: '{path}' is not the file that this configuration was made for")
    options = _checked_options(name, _load(name, path, content), given.get("options") or {})
    return {"file": str(path), "content": content, "options": options}


def build(name: str, given: Mapping[str, Any]) -> NormSpec:
    """The user's norm with its options chosen; an input is refused where a trial of the layer on it fails."""
    checked = check(name, given)
    make = _load(name, Path(checked["file"]), checked["content"])

    def layer(num_features: int) -> nn.Module:
        return make(num_features, **checked["options"])

    return NormSpec(
        scope=getattr(make, "scope", "undeclared"),
        norm=layer,
        norm_act=layer if getattr(make, "owns_activation", False) else None,
        conv_bias=bool(getattr(make, "conv_bias", False)),
        refuse=lambda shape: _try(layer, shape),
    )


def described(name: str) -> tuple[str, str]:
    """The name of the class and its own docstring."""
    path = _source(name, None)
    make = _load(name, path, _content(path))
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
        raise NormbenchError(f"norm {name}: there is no module '{module}' to import; a file is given as file.py:Class")
    return Path(found.origin)


@lru_cache(maxsize=64)
def _load(name: str, path: Path, content: str) -> MakeLayer:
    """What the name after the colon stands for, in the file with this content."""
    USER_FILES.add(str(path))
    place, _, attribute = name.rpartition(":")
    with _users_code(name):
        module = _run_file(path, content) if place.endswith(".py") else importlib.import_module(place)
    if attribute not in vars(module):
        raise unknown(f"class of {place}", attribute, _layers_in(module))
    make = getattr(module, attribute)
    if not (inspect.isfunction(make) or (inspect.isclass(make) and issubclass(make, nn.Module))):
        raise NormbenchError(f"norm {name}: {attribute} is no subclass of nn.Module and no function that makes one")
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
        name for name, value in classes.items() if issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]


def _checked_options(name: str, make: MakeLayer, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the constructor that YAML can hold: those given, checked by their annotations, and defaults."""
    parameters = inspect.signature(make).parameters.values()
    positional = [p for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    if not positional:
        raise NormbenchError(f"norm {name}: its constructor takes no num_features")
    options = [p for p in parameters if p is not positional[0] and p.kind in NAMED]
    for key in given.keys() - {p.name for p in options}:
        raise unknown(f"option of norm {name}", key, (f"norm.options.{p.name}" for p in options))
    hints: dict[str, Any] = {}
    with suppress(NameError, TypeError):  # annotations that cannot be evaluated check nothing
        hints = get_type_hints(make.__init__ if inspect.isclass(make) else make, include_extras=True)
    fields: dict[str, Any] = {
        p.name: (hints.get(p.name, Any), ... if p.default is Parameter.empty else p.default) for p in options
    }
    try:
        checked = create_model("own_options", __config__=STRICT, **fields).model_validate_json(json.dumps(dict(given)))
    except ValidationError as error:
        raise invalid("norm.options", error) from None
    return {key: plain for key, value in checked.model_dump().items() if (plain := _plain(value)) is not _NOT_PLAIN}


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
    except Exception as error:
        reason = Failed(f"on a batch of shape {shape} it raises {type(error).__name__}: {error}".splitlines()[0])
        reason.error = error
        return reason
    if not isinstance(y, Tensor) or y.shape != x.shape:
        given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        return f"it makes {given} of a batch of shape {shape}"
    return None if y.isfinite().all() else f"it gives values that are not finite on a batch of shape {shape}"


@contextmanager
def _users_code(name: str) -> Iterator[None]:
    """What goes wrong in the user's code is the user's to read: one line, and the traceback chained to it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise NormbenchError(f"norm {name}: {type(error).__name__}: {error}") from error
