"""What a configuration comes to on this machine, with this data: the questions asked before any work.

After `resolve` no value says auto, every option has passed its registry, the data are known by their content, and the
norm can work at every site of the model. Only then does the configuration have the run's id.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from normbench.atomic import disk_errors
from normbench.config import Choice, RunConfig
from normbench.data import DataHome, Source, sources
from normbench.data.cache import default_cache_dir
from normbench.errors import NormbenchError
from normbench.models import models, unsupported
from normbench.norms import norms
from normbench.registry import Registry
from normbench.train.optim import ParamGroups, optimizers, schedule
from normbench.train.runtime import check_compiler, resolve_device, resolve_precision


def resolve(config: RunConfig) -> tuple[RunConfig, Source]:
    """The configuration as it will run, and its data source. Resolving a second time changes nothing.

    Raises NormbenchError for whatever cannot work; nothing has been written by then.
    """
    home = data_home(config)
    source = sources.build(config.data.name, home, options=config.data.options)
    config = config.model_copy(
        update={
            "norm": _checked(norms, config.norm),
            "model": _checked(models, config.model),
            "optim": _checked(optimizers, config.optim),
            "data": _with_content(_checked(sources, config.data), source),
            "runtime": _resolved_runtime(config),
        }
    )
    _check_optimizer(config)
    check_supported(config, source, _count_train(config, source))
    _check_runs_dir(Path(config.system.runs_dir).expanduser())
    return config, source


def check_supported(config: RunConfig, source: Source, num_train: int) -> None:
    """Raises NormbenchError where the norm cannot work in a full batch or in the last, short one of `num_train`."""
    spec = norms.build(config.norm.name, options=config.norm.options)
    build = partial(_build_model, config.model, len(source.classes))
    for batch_size in {min(config.batch_size, num_train), num_train % config.batch_size} - {0}:
        if reason := unsupported(spec, build, (batch_size, *source.image_shape)):
            what = f"norm {config.norm.name} cannot train {config.model.name} at batch {batch_size}"
            raise NormbenchError(f"{what}: {reason}")


def _count_train(config: RunConfig, source: Source) -> int:
    """How many images will train, to within the rounding by class. Raises NormbenchError where there are too few."""
    data = config.data
    for side, limit, there in (
        ("train", data.limit_train, source.num_train),
        ("test", data.limit_test, source.num_test),
    ):
        if limit is not None and limit > there:
            raise NormbenchError(f"data.limit_{side}={limit}: there are {there} {side} images")
    num_train = data.limit_train or source.num_train
    num_val = round(num_train * data.val_fraction)
    if data.val_fraction > 0 and num_val == 0:
        raise NormbenchError(
            f"data.val_fraction={data.val_fraction} leaves {num_train} images to train and 0 to validate"
        )
    return num_train - num_val


def _check_runs_dir(path: Path) -> None:
    """Raises NormbenchError where no run directory can be, before the data are decoded for it."""
    with disk_errors(path):
        if path.exists() and not path.is_dir():
            raise NormbenchError(f"system.runs_dir: '{path}' is not a folder")


def data_home(config: RunConfig) -> DataHome:
    """Where the configuration's `system` section keeps data on this machine."""
    system = config.system
    cache_dir = Path(system.cache_dir).expanduser() if system.cache_dir else default_cache_dir()
    return DataHome(cache_dir, system.mirrors, system.workers or os.cpu_count() or 1)


def _checked(registry: Registry[Any], choice: Any) -> Any:
    """The choice with all its options checked and converted by the registry that owns them."""
    options = registry.check(choice.name, choice.options)
    known = {name: getattr(choice, name) for name in type(choice).model_fields}
    return type(choice)(**known, **_as_yaml(options))


def _as_yaml(options: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}


def _with_content(data: Any, source: Source) -> Any:
    if data.content not in (None, source.content):
        raise NormbenchError(f"data: the images under '{data.name}' are not those this configuration was made for")
    return data.model_copy(update={"content": source.content})


def _resolved_runtime(config: RunConfig) -> Any:
    device = resolve_device(config.runtime.device)
    precision = resolve_precision(config.runtime.precision, device)
    check_compiler(config.runtime.compile, device)
    return config.runtime.model_copy(update={"device": device, "precision": precision})


def _check_optimizer(config: RunConfig) -> None:
    """Builds optimizer and schedule once for nothing: combinations of options are refused by what they belong to."""
    schedule(config.optim.schedule, config.optim.warmup_fraction)
    blank: ParamGroups = [{"params": [torch.zeros(1)]}]
    optimizers.build(config.optim.name, blank, config.optim.lr, options=config.optim.options)


def _build_model(model: Choice, num_classes: int, layers: Any) -> Any:
    return models.build(model.name, layers, num_classes, options=model.options)
