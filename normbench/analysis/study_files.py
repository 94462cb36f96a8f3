"""The files of a study: runs.csv, metrics.csv, steps.csv, env.json, configs.json, and more.

correct.csv has the bits of `runs.correct` where runs have kept them, pictures.csv the pictures of
the first seed, study.json the design, and bench.csv the times. SHA256SUMS beside them tells whether
they are as they were written.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from normbench.analysis.study import BASELINE, Study
from normbench.atomic import write_json, write_text
from normbench.checksums import read_sums, record_sums, write_sums
from normbench.errors import NormbenchError
from normbench.replacement import replacement
from normbench.runs.files import by_numbers, run_dirs
from normbench.runs.records import (
    SCHEMA_VERSION,
)
from normbench.spreadsheet import to_csv
from normbench.timing.rounds import FILE, write_rounds

CORRECT, PICTURES, DESIGN = "correct.csv", "pictures.csv", "study.json"
OPTIONAL = (CORRECT, PICTURES, DESIGN)
FILES = ("runs.csv", "metrics.csv", "steps.csv", "env.json", "configs.json", *OPTIONAL)


def write_study(study: Study, folder: Path) -> None:
    """Writes the files of a study, read back by `load_study` as an equal study.

    They replace those of an earlier study together: a kill leaves the old or the new study whole.
    """
    with replacement(folder, absent(study)) as new:
        keep_sums(folder, new)
        write_files(study, new)


def absent(study: Study) -> list[str]:
    """The files of an earlier study that this one does not have."""
    there = (study.correct, study.pictures, study.design is not None)
    return [name for name, is_there in zip(OPTIONAL, there, strict=True) if not is_there]


def keep_sums(folder: Path, new: Path) -> None:
    """Copies the lines of SHA256SUMS on files of other kinds to where new files are written."""
    others = {name: digest for name, digest in read_sums(folder).items() if name not in FILES}
    if others:
        write_sums(new, others)


def write_files(study: Study, folder: Path) -> None:
    """Writes the files of a study into a folder without any."""
    write_text(folder / "runs.csv", to_csv(study.runs))
    write_text(folder / "metrics.csv", to_csv(study.metrics))
    write_text(folder / "steps.csv", to_csv(study.steps))
    if not study.bench.empty:
        write_rounds(study.bench, folder / FILE)
    write_json(folder / "env.json", study.environments)
    write_json(folder / "configs.json", _packed(study))
    if study.correct:
        _write_bytes(folder / CORRECT, "correct", study.correct)
    if study.pictures:
        _write_bytes(folder / PICTURES, "picture", study.pictures)
    if study.design is not None:
        design = study.design.model_dump(mode="json")
        write_json(folder / DESIGN, {"schema_version": SCHEMA_VERSION, **design})
    record_sums(folder, [name for name in FILES if (folder / name).exists()])


def _write_bytes(file: Path, column: str, content: Mapping[str, bytes]) -> None:
    """Writes a table of the bytes of runs, in base 64."""
    rows = [(run, b64encode(bits).decode()) for run, bits in content.items()]
    write_text(file, to_csv(pd.DataFrame(rows, columns=["run", column])))


def ordered(study: Study) -> Study:
    """The study with its runs by norm, bn first, then batch size, learning rate and seed.

    So its files do not depend on where, when and in which order the runs were made.
    """
    rows = study.runs[["run", "norm", "model", "batch_size", "lr", "seed"]].fillna("")
    rows = rows.assign(not_bn=rows["norm"] != BASELINE, name=rows["run"].map(by_numbers))
    order = ["not_bn", "norm", "model", "batch_size", "lr", "seed", "name"]
    runs = list(rows.sort_values(order)["run"])
    rank = {run: place for place, run in enumerate(runs)}

    def sort(table: pd.DataFrame) -> pd.DataFrame:
        return table.sort_values(
            "run", key=lambda column: column.map(rank), kind="stable", ignore_index=True
        )

    return replace(
        study,
        runs=sort(study.runs),
        metrics=sort(study.metrics),
        steps=sort(study.steps),
        environments={run: study.environments[run] for run in runs if run in study.environments},
        configs={run: study.configs[run] for run in runs if run in study.configs},
        correct={run: study.correct[run] for run in runs if run in study.correct},
        pictures={run: study.pictures[run] for run in runs if run in study.pictures},
    )


def common_settings(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings shared by all runs."""
    first, *others = configs.values() or [{}]
    common = dict(first)
    for config in others:
        common = {key: common[key] for key in common if config.get(key, ...) == common[key]}
    return common


def check_folder(folder: Path) -> None:
    """Raises NormbenchError for a file, and for a folder of run directories."""
    if folder.exists() and not folder.is_dir():
        raise NormbenchError(f"--output: '{folder}' is not a folder")
    if run_dirs(folder):
        raise NormbenchError(
            f"--output: '{folder}' holds run directories, "
            "which its runs.csv would hide: name another"
        )


def _packed(study: Study) -> dict[str, Any]:
    common = common_settings(study.configs)
    own = {}
    # By name: shared settings and a run's own, read one after another, have another order.
    for run, config in study.configs.items():
        own[run] = {key: config[key] for key in sorted(config) if key not in common}
    common = {key: common[key] for key in sorted(common)}
    version = {"schema_version": SCHEMA_VERSION}
    return version | {"shared": common, "runs": own, "left_out": list(study.notes)}
