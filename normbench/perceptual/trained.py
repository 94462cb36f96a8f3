"""The network of a finished run, built again from the run's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normbench.config.places import user_path
from normbench.config.schema import validate
from normbench.errors import NormbenchError
from normbench.models import Layers, materialize, models
from normbench.norms import norms
from normbench.runs.checkpoint import CHECKPOINTS, read_checkpoint
from normbench.runs.files import is_run, read_run, run_dirs
from normbench.runs.records import at
from normbench.runs.standing import standing


@dataclass(frozen=True)
class Trained:
    """A network as a run has left it, in evaluation mode.

    content: 16 hex digits of the sha256 of its weights and buffers. settings: the run's. makes: the
    shape of what it makes of an image.
    """

    network: nn.Module
    content: str
    settings: Mapping[str, Any]
    makes: tuple[int, ...]


def trained(key: str, given: str, task: str) -> Trained:
    """The network of a finished run of `task`. key: the setting that gives the folder.

    given: the folder of the run, or a folder that holds this run alone. Raises NormbenchError for
    any other folder.
    """
    path = _run_folder(key, given)
    try:
        changed = (path / CHECKPOINTS[0]).stat().st_mtime_ns
    except OSError:
        changed = 0
    return _trained(key, path, task, changed)


def _run_folder(key: str, given: str) -> Path:
    folder = user_path(key, given)
    if not folder.is_dir():
        raise NormbenchError(f"{key}: there is no folder '{given}'")
    if is_run(folder):
        return folder
    found = run_dirs(folder)
    if len(found) != 1:
        raise NormbenchError(f"{key}: '{given}' holds {len(found)} runs; name the folder of one")
    return found[0]


@lru_cache(maxsize=8)
def _trained(key: str, path: Path, task: str, changed: int) -> Trained:
    files = read_run(path)
    stands = standing(path, files)
    if stands.state != "done":
        told = f": {stands.reason}" if stands.reason else ""
        raise NormbenchError(f"{key}: the run '{path}' is {stands.state}, and not done{told}")
    of_task = at(files.environment, "task.name")
    if of_task != task:
        raise NormbenchError(f"{key}: the run '{path}' is of task {of_task}, and not of {task}")
    shapes = files.environment.get("network")
    if shapes is None:
        raise NormbenchError(f"{key}: the run '{path}' is of an older normbench: train it anew")
    state = read_checkpoint(path / CHECKPOINTS[0])
    if state is None:
        raise NormbenchError(f"{key}: the checkpoint of the run '{path}' is missing or damaged")
    takes, makes = tuple(shapes["takes"]), tuple(shapes["makes"])
    network = _network(files.config, takes, makes)
    network.load_state_dict(state["model"])
    return Trained(network, content_of(state["model"]), files.config, makes)


def _network(settings: Mapping[str, Any], takes: tuple[int, ...], makes: tuple[int, ...]) -> Any:
    config = validate(settings)
    norm, model = config.norm, config.model
    spec = norms.build(norm.name, options=norm.options)
    layers = Layers(spec, config.seed, takes, init_scale=model.init_scale)
    network = models.build(model.name, layers, makes[0], options=model.options)
    return materialize(network, takes).eval().requires_grad_(False)


def content_of(state: Mapping[str, Tensor]) -> str:
    """16 hex digits of the sha256 of tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
