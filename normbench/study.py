"""A study: a few axes and fixed settings in configs/sweep/NAME.yaml, run one after another and shown side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from normbench.atomic import disk_errors, write_json, write_text
from normbench.compose import compose, config_dir, parse_assignments
from normbench.config import RunConfig
from normbench.errors import NormbenchError, unknown


@dataclass(frozen=True)
class Study:
    """Axes whose combinations are the runs, and settings that all runs share."""

    name: str
    axes: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, Any]

    def configs(self, overrides: Sequence[str], runs_dir: Path) -> Iterator[RunConfig]:
        """The configuration of every run; `overrides` come last, and one of an axis' key takes the axis' place."""
        given = parse_assignments(overrides)
        axes = {key: values for key, values in self.axes.items() if key not in given}
        for point in itertools.product(*axes.values()):
            settings = {"system.runs_dir": str(runs_dir), **self.fixed, **dict(zip(axes, point, strict=True)), **given}
            yield compose(flags=settings)


def load_study(name: str) -> Study:
    """The study in configs/sweep/`name`.yaml. Raises NormbenchError for an unknown name or a file that is not one."""
    folder = config_dir() / "sweep"
    if name not in (names := [path.stem for path in folder.glob("*.yaml")]):
        raise unknown("study", name, names)
    try:
        content = yaml.safe_load((folder / f"{name}.yaml").read_text())
        return Study(name, dict(content["axes"]), dict(content["fixed"]))
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise NormbenchError(f"configs/sweep/{name}.yaml is not a study with axes and fixed: {reason}") from None


def run_study(study: Study, overrides: Sequence[str], folder: Path, *, restart: bool = False) -> list[str]:
    """Trains every run of the study in `folder`/runs, writes the comparison to `folder`, and returns how each ended.

    Runs that are done are not trained again. A study that is interrupted stops there and shows nothing.
    """
    from normbench.train.resolve import resolve
    from normbench.train.run import execute

    configs = [resolve(config)[0] for config in study.configs(overrides, folder / "runs")]  # refused before any work
    outcomes = []
    for number, config in enumerate(configs, start=1):
        print(f"run {number}/{len(configs)}: {config.norm.name}, batch {config.batch_size}, seed {config.seed}")
        outcomes.append(execute(config, restart=restart))
        if outcomes[-1].state == "interrupted":
            return ["interrupted"]
    write_comparison([outcome.path for outcome in outcomes], folder)
    return [outcome.state for outcome in outcomes]


def write_comparison(runs: Sequence[Path], folder: Path) -> None:
    """Writes runs.csv, metrics.csv, steps.csv, env.json, table.md, loss_curves.svg and .png of `runs` to `folder`."""
    from normbench.analysis.figures import loss_curves, save
    from normbench.analysis.frames import read_frames
    from normbench.analysis.tables import to_markdown

    frames = read_frames(runs)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("runs", frames.runs), ("metrics", frames.metrics), ("steps", frames.steps)):
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    write_json(folder / "env.json", frames.environments)
    write_text(folder / "table.md", to_markdown(frames.runs))
    save(loss_curves(frames), folder / "loss_curves")
