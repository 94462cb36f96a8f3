"""The images of runs: how many of how many they train on, and which test images they get right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.analysis.settings import images_of
from normbench.analysis.study import Study
from normbench.runs.correct import unpack
from normbench.runs.files import RunFiles
from normbench.runs.records import at
from normbench.text import as_list


def training_images(study: Study) -> str:
    """The training images in words: `5,000 of 50,000 training images, 1,000 of them held out`.

    Several numbers, `2,500 / 5,000 of 50,000`, where runs differ; empty where none are known.
    """
    found: dict[str, None] = {}
    for run in study.runs["run"]:
        told = _of_run(study.configs.get(run, {}), study.environments.get(run, {}))
        if told:
            found[told] = None
    return " / ".join(found)


def images_seen(study: Study) -> list[int]:
    """The images of each run, each as often as it is trained on; of runs where that is known."""
    found = []
    for run in study.runs.to_dict("records"):
        of_run = study.configs.get(run["run"], {}), study.environments.get(run["run"], {})
        known = images_of(*of_run)
        if known is not None:
            found.append(known[0] * int(run["epochs"]))
    return found


def _of_run(config: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    known = images_of(config, environment)
    if known is None:
        return ""
    trained, held_out, number = known
    drawn = trained + held_out
    told = f"all {number:,}" if drawn == number else f"{drawn:,} of {number:,}"
    rest = f", {held_out:,} of them held out" if held_out else ""
    return f"{told} training images{rest}"


def seeds_draw(study: Study) -> str:
    """What differs between seeds: `a seed draws initial weights and the order of images`."""
    drawn = ["initial weights", "the order of images"]
    for config in study.configs.values():
        takes_part = config.get("data.limit_train") or config.get("data.val_fraction")
        if takes_part and config.get("data.subset_seed") is None:
            drawn.insert(0, "the training images")
            break
    return f"a seed draws {as_list(drawn)}"


def scores(study: Study, runs: Sequence[str]) -> NDArray[np.bool_] | None:
    """Which test images each run gets right, (runs, images).

    None where a run has kept no bits, and where the runs have different test images.
    """
    if not runs or any(run not in study.correct for run in runs):
        return None
    tested = {_tested(study, run) for run in runs}
    if len(tested) > 1 or None in tested:
        return None
    numbers = study.runs.set_index("run")["num_test"]
    if int(numbers[runs[0]]) < 2:  # no spread over images
        return None
    return np.stack([unpack(study.correct[run], int(numbers[run])) for run in runs])


def first_pictures(files: Iterable[RunFiles]) -> dict[str, bytes]:
    """The pictures of the finished runs of the first seed that has any: one of each setting."""
    drawn = [run for run in files if run.picture is not None and run.is_over]
    first = min((run.config["seed"] for run in drawn), default=None)
    return {run.run: run.picture for run in drawn if run.picture and run.config["seed"] == first}


def _tested(study: Study, run: str) -> tuple[Any, ...] | None:
    """What decides the test images of a run; None where its seed draws them."""
    config, environment = study.configs.get(run, {}), study.environments.get(run, {})
    limit, seed = config.get("data.limit_test"), config.get("data.subset_seed")
    if limit is not None and seed is None:
        return None
    return at(environment, "data.content"), limit, seed if limit else None
