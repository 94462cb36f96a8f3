"""Migrates the committed studies to this version's configuration: run ids, settings, env.json, bench.csv.

    python scripts/migrate_studies.py results/first-light results/first-sweep ...

Afterwards `normbench report FOLDER -o FOLDER` writes tables and figures anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.config.schema import COST_KEYS, RunConfig, _short_hash, validate
from normbench.tasks.classification import ACCURACY, LOSS

TASK: dict[str, Any] = {"name": "classification", "label_smoothing": 0.0}
RECORD = {
    "name": "classification",
    "primary": "accuracy",
    "metrics": [LOSS.to_json(), ACCURACY.to_json()],
}
SYSTEM: dict[str, Any] = {
    "runs_dir": "results/runs",
    "cache_dir": None,
    "mirrors": [],
    "workers": None,
    "threads": None,
    "concurrent_runs": 1,
    "progress": "auto",
}


def migrated(settings: dict[str, Any]) -> dict[str, Any]:
    """Flat settings of this version: the task's, and values for keys that came later."""
    smoothing = settings.pop("train.label_smoothing", 0.0)
    settings.pop("runtime.onednn", None)
    settings.setdefault("train.bn_evaluations", False)
    settings.setdefault("runtime.cuda_graphs", False)
    return {"task.name": TASK["name"], "task.label_smoothing": smoothing, **settings}


def config_of(settings: dict[str, Any]) -> RunConfig:
    nested: dict[str, Any] = {"system": SYSTEM}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if name:
            nested.setdefault(section, {})[name] = value
        else:
            nested[section] = value
    nested["data"].setdefault("root", None)
    return validate(nested)


def typed(text: str) -> Any:
    """The value that a cell of bench.csv was written from."""
    named = {"True": True, "False": False, "None": None}
    if text in named:
        return named[text]
    if text.startswith("["):
        return json.loads(text)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def migrate(folder: Path) -> None:
    content = json.loads((folder / "configs.json").read_text())
    environments = json.loads((folder / "env.json").read_text())
    names: dict[str, str] = {}
    configs: dict[str, dict[str, Any]] = {}
    for run, own in content["runs"].items():
        settings = migrated({**content["shared"], **own})
        config = config_of(settings)
        names[run] = config.run_id
        configs[config.run_id] = settings
        if run in environments:
            environment = environments[run]
            environment["task"] = RECORD
            environment["data"].setdefault("image_shape", [3, 32, 32])
            classes = environment["data"].get("classes")
            environment["cost_id"] = config.cost_id((3, 32, 32), len(classes))
    assert len(set(names.values())) == len(names)
    order = list(content["shared"])
    shared = {
        key: value
        for key, value in next(iter(configs.values())).items()
        if all(one.get(key, "absent") == value for one in configs.values())
    }
    assert set(order) - {"train.label_smoothing", "runtime.onednn"} <= set(shared)
    runs = {
        run: {key: value for key, value in settings.items() if key not in shared}
        for run, settings in configs.items()
    }
    packed = {**content, "shared": shared, "runs": runs}
    (folder / "configs.json").write_text(json.dumps(packed, indent=2) + "\n")
    renamed = {names[run]: environment for run, environment in environments.items()}
    (folder / "env.json").write_text(json.dumps(renamed, indent=2) + "\n")
    for name in ("runs.csv", "metrics.csv", "steps.csv"):
        lines = (folder / name).read_text().splitlines()
        for place, line in enumerate(lines[1:], start=1):
            run, comma, rest = line.partition(",")
            lines[place] = names[run] + comma + rest
        (folder / name).write_text("\n".join([*lines, ""]))
    if (folder / "bench.csv").exists():
        migrate_bench(folder / "bench.csv")


def migrate_bench(file: Path) -> None:
    rounds = pd.read_csv(file, dtype=str, keep_default_na=False)
    classes = rounds.get("classes", pd.Series("10", index=rounds.index))
    ids = []
    onednn_varies = "runtime.onednn" in rounds and rounds["runtime.onednn"].nunique() > 1
    for place, row in enumerate(rounds.to_dict("records")):
        settings = {
            str(key): typed(value)
            for key, value in row.items()
            if str(key).startswith(COST_KEYS) and value != ""
        }
        settings |= {"task.name": TASK["name"], "task.label_smoothing": 0.0}
        settings.setdefault("runtime.cuda_graphs", False)
        if not onednn_varies:
            settings.pop("runtime.onednn", None)
        shape = [int(size) for size in row["image"].split("x")]
        ids.append(_short_hash([settings, shape, int(classes.iloc[place])]))
    new = rounds.drop(columns=["classes"], errors="ignore")
    if not onednn_varies:
        new = new.drop(columns=["runtime.onednn"], errors="ignore")
    if "runtime.cuda_graphs" not in new:
        new.insert(list(new).index("runtime.compile") + 1, "runtime.cuda_graphs", "False")
    new.insert(0, "cost_id", ids)
    new.insert(1, "task.name", TASK["name"])
    new.insert(2, "task.label_smoothing", "0.0")
    new.insert(list(new).index("image") + 1, "outputs", classes)
    new.to_csv(file, index=False)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        if path.is_dir():
            migrate(path)
        else:
            migrate_bench(path)
