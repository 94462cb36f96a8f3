"""Learning rates that another study has chosen, on images held out of the training set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from normbench.analysis.design import Rate
from normbench.analysis.loading import load_study
from normbench.analysis.study import Study
from normbench.errors import NormbenchError
from normbench.sweeps.sweep import LR, Sweep


def tuned(sweep: Sweep, folder: Path | None = None) -> Sweep:
    """The sweep with the learning rates chosen by the study of `tuned_by`, if it has one.

    folder: of that study; by default results/NAME. A combination for which no rate has been chosen
    yet is left out, with the reason. A sweep that says its learning rates itself keeps them.

    Raises NormbenchError where the folder is missing or has not chosen rates, and for a seed that
    has been used to choose them.
    """
    design = sweep.design
    if design.tuned_by is None:
        if folder is not None:
            raise NormbenchError("--tuned-by: this study does not take its rates from another")
        return sweep
    keys = {key for axis in sweep.axes for key in axis.keys} | sweep.fixed.keys()
    if LR in keys:
        return replace(sweep, design=design.model_copy(update={"tuned_by": None}))
    folder = folder or Path("results", design.tuned_by.replace("_", "-"))
    if not folder.exists():
        raise NormbenchError(
            f"no {folder}: its learning rates come from there; make it with normbench sweep "
            f"{design.tuned_by} -o {folder}, or name its place by --tuned-by"
        )
    study = load_study([folder])
    used = {int(seed) for seed in study.runs["seed"]}
    for settings, _ in sweep.points():
        seed = int(settings.get("seed", 0))
        if seed in used:
            raise NormbenchError(
                f"seed {seed} has been used to choose the learning rates in {design.tuned_by}: "
                "take others"
            )
    rates = chosen_rates(study, folder)
    return replace(sweep, design=design.model_copy(update={"rates": rates}))


def chosen_rates(study: Study, folder: Path) -> tuple[Rate, ...]:
    """The chosen rate of each norm and batch size. Raises NormbenchError where none were chosen."""
    if not study.chooses_rates:
        raise NormbenchError(f"'{folder}' has not tried learning rates on held-out images")
    best = study.best_rates
    twice = best[best.duplicated(["norm", "batch_size"])]
    if len(twice):
        norm, batch_size = twice[["norm", "batch_size"]].iloc[0]
        raise NormbenchError(f"'{folder}' has several rates for {norm} at batch size {batch_size}")
    columns = ["norm", "batch_size", "lr", "is_edge"]
    return tuple(Rate.model_validate(row) for row in best[columns].to_dict("records"))
