"""Finds the settings that vary among the runs of a study, and puts settings into words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from normbench.config.schema import CONTENT, DECODING, in_processes
from normbench.runs.records import at
from normbench.runs.row import choice_label
from normbench.runs.settings import UNNAMED

# Settings with a column of their own in the table of runs.
FIXED = ("seed", "batch_size", "optim.lr", "model.name", "task.name")
PROCESSES = "runtime.processes"
PLAIN = re.compile(r"[^,;=\"]*|\[[^\[\]\"]*\]")  # a value that is told without quotes
NAMES = {"epochs": "planned_epochs"}  # the column `epochs` has the trained epochs


def is_setting(column: str) -> bool:
    """Whether a column of the table of runs is a setting of the study, whose values are text."""
    return "." in column or column == "planned_epochs"


def images_of(
    config: Mapping[str, Any], environment: Mapping[str, Any]
) -> tuple[int, int, int] | None:
    """The images that a run trains on, those that it holds out, and all there are to train on.

    config: flat. None where the run did not begin, and knows no data.
    """
    available = at(environment, "data.num_train")
    if available is None or not config:
        return None
    drawn = min(config.get("data.limit_train") or available, available)
    held_out = round(drawn * (config.get("data.val_fraction") or 0))
    return drawn - held_out, held_out, available


def with_settings(runs: pd.DataFrame, configs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The table with a column of text for each setting that varies within a norm.

    Without configurations, the table is unchanged.
    """
    if not configs:
        return runs
    stale = [name for name in runs.columns if is_setting(name)]
    known = [configs.get(run, {}) for run in runs["run"]]
    cells = [f"{config.get('norm.name')} {config.get('batch_size')}" for config in known]
    found = {}
    for key, values in varying_settings(runs["run"], configs).items():
        # As `runtime=fast` has it, a layout may follow from norm and batch size: it must not part
        # norms that were trained alike. A batch size means another thing in several processes.
        is_layout = key.startswith("runtime.") and key != PROCESSES
        if not is_layout or _splits(cells, values):
            found[key] = values
    return runs.drop(columns=stale).assign(**found)


def varying_settings(
    runs: Iterable[str], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """The values of runs, as text, for each setting that varies within a norm.

    Left out are settings with a fixed column, and settings implied by the name of their section:
    `optim.betas` follows from `optim.name`, `task.style_content` from `task.style`, and
    `data.content` from the options by which images are cut.
    """
    known = [configs.get(run, {}) for run in runs]
    norms = [choice_label(config.get("norm.name")) for config in known]
    keys = dict.fromkeys(key for config in known for key in config if key not in FIXED)
    varying = {}
    for key in keys:
        values = [str(config.get(key, UNNAMED.get(key, ""))) for config in known]
        if _splits(norms, values):
            varying[key] = values
    found = {}
    for key, values in varying.items():
        names = varying.get(f"{key.partition('.')[0]}.name", [])
        if key.endswith(CONTENT):
            names = varying.get(key.removesuffix(CONTENT), [])
        if key == "data.content":
            cuts = [varying[f"data.{name}"] for name in DECODING if f"data.{name}" in varying]
            names = [" ".join(values) for values in zip(*cuts, strict=True)] or names
        if key.endswith(".name") or not names or _splits(names, values):
            found[NAMES.get(key, key)] = values
    return found


def describe(settings: Mapping[str, object]) -> str:
    """Settings in words: `batch size 8, lr 0.001, no num groups`.

    A value with a comma, semicolon, = or quote stands in quotes, unless it is a list. With the
    number of processes a batch size is `batch size 2 a process, 4 processes`.
    """
    parts = []
    processes = settings.get(PROCESSES) if "batch_size" in settings else None
    for name, value in settings.items():
        if processes and name == "batch_size":
            parts.append(f"batch size {in_processes(int(str(value)), int(str(processes)))}")
        elif not (processes and name == PROCESSES):
            parts.append(_in_words(name.replace("_", " "), value))
    return ", ".join(parts)


def _splits(groups: Sequence[str | None], values: Sequence[str]) -> bool:
    """Whether values differ within any group."""
    return len(set(zip(groups, values, strict=True))) > len(set(groups))


def _in_words(name: str, value: object) -> str:
    if value == "":
        return f"no {name}"
    name = name.removesuffix(".name")
    if isinstance(value, float):
        return f"{name} {value:g}"
    text = str(value)
    # Otherwise the end of a value could not be told from the next setting.
    return f"{name} {text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)}"
