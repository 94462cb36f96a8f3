"""Own norms: an nn.Module of the user's that takes num_features, from a file or importable module.

The norm's options are the constructor's further parameters. Class attributes say more:
`conv_bias = True` for a norm without an offset, `owns_activation = True` for a norm that no ReLU
follows, and `scope` as in NormSpec, which the contract checks. An exception in the user's code is
chained to the NormbenchError raised here, so that the command line shows the user's traceback.
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
from normbench.norms.spec import NormSpec, Refusal, Scope, Shape

MakeLayer = Callable[..., nn.Module]
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
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
        raise NormbenchError(
            f"norm {name}: '{path}' is not the file that this configuration was made for"
        )
    options = _checked_options(name, _load(name, path, content), given.get("options") or {})
    return {"file": str(path), "content": content, "options": options}


def build(name: str, given: Mapping[str, Any]) -> NormSpec:
    """The own norm with its options; refuses an input on which a trial of the layer fails."""
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
    """The class's name and docstring; `checked` is what `check` returned."""
    make = _load(name, Path(checked["file"]), checked["content"])
    return name.rpartition(":")[2], inspect.cleandoc(make.__doc__ or "")


def _source(name: str, file: str | None) -> Path:
    """The file that defines the class."""
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
        if module:
            found = importlib.util.find_spec(module)
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise NormbenchError(
            f"norm {name}: there is no module '{module}' to import; "
            "a file is given as file.py:Class"
        )
    return Path(found.origin)


@lru_cache(maxsize=64)
def _load(name: str, path: Path, content: str) -> MakeLayer:
    """The class or function named after the colon, from the file with this content."""
    USER_FILES.add(str(path))
    place, _, attribute = name.rpartition(":")
    with _users_code(name):
        is_file = place.endswith(".py")
        module = _run_file(path, content) if is_file else importlib.import_module(place)
    if attribute not in vars(module):
        raise unknown(f"class of {place}", attribute, _layers_in(module))
    make = getattr(module, attribute)
    if not inspect.isfunction(make) and not _is_layer(make):
        raise NormbenchError(
            f"norm {name}: {attribute} is no subclass of nn.Module and no function that makes one"
        )
    return make  # type: ignore[no-any-return]


def _run_file(path: Path, content: str) -> ModuleType:
    """Runs the file as a module; as in a script, imports from the file's folder work."""
    spec = importlib.util.spec_from_file_location(f"normbench_own_{content}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look up a class's module here
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def _is_layer(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)


def _layers_in(module: ModuleType) -> list[str]:
    """The layers that the module defines, and does not just import: candidates for a typo."""
    return [
        name
        for name, value in vars(module).items()
        if _is_layer(value) and value.__module__ == module.__name__
    ]


def _checked_options(name: str, make: MakeLayer, given: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's options that YAML can hold: given values, checked, and defaults."""
    parameters = list(inspect.signature(make).parameters.values())
    positional = [parameter for parameter in parameters if parameter.kind in POSITIONAL]
    if not positional:
        raise NormbenchError(
            f"norm {name}: its constructor takes no num_features: name it as the first parameter"
        )
    parameters.remove(positional[0])
    defaults = {p.name: p.default for p in parameters if p.kind in NAMED}
    for key in given.keys() - defaults.keys():
        known = [f"norm.options.{option}" for option in defaults]
        raise unknown(f"option of norm {name}", key, known)
    hints = _hints(make)
    options = {}
    for key, default in defaults.items():
        if key in given:
            options[key] = _converted(key, given[key], hints.get(key, Any))
        elif default is Parameter.empty:
            raise NormbenchError(f"norm {name} needs norm.options.{key}=VALUE")
        else:
            options[key] = default
    return _plain(options)


def _hints(make: MakeLayer) -> dict[str, Any]:
    """The parameters' types; none where an annotation is no type but a remark or a number."""
    with suppress(Exception):
        return get_type_hints(make.__init__ if inspect.isclass(make) else make, include_extras=True)
    return {}


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


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as YAML holds values; a default such as a class is left out."""
    plain = {}
    for key, value in options.items():
        with suppress(TypeError, ValueError):
            plain[key] = json.loads(json.dumps(value))
    return plain


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
    if not isinstance(y, Tensor):
        return Refusal(f"it makes {type(y).__name__} of a batch of shape {shape}")
    if y.shape != x.shape:
        return Refusal(f"it makes {tuple(y.shape)} of a batch of shape {shape}")
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
