"""Learning rates that another study has chosen, on images held out of the training set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from normbench.analysis.design import Rate
from normbench.errors import NormbenchError
from normbench.runs.records import OVER
from normbench.sweeps.sweep import LR, Sweep, load_sweep

if TYPE_CHECKING:
    from normbench.analysis.study import Study


def tuned(sweep: Sweep, folder: Path | None = None) -> Sweep:
    """The sweep with the learning rates chosen by the study of `tuned_by`, if it has one.

    folder: of that study; by default results/NAME. A combination for which not all planned rates
    have been tried yet is left out, with the reason. A sweep that says its learning rates itself
    keeps them.

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
    # Sweeps that say their rates themselves start without pandas.
    from normbench.analysis.loading import load_study

    study = load_study([folder])
    if study.design is not None and study.design.name != design.tuned_by:
        raise NormbenchError(
            f"'{folder}' holds the study {study.design.name}, and the learning rates come from "
            f"{design.tuned_by}: name its folder by --tuned-by"
        )
    used = {int(seed) for seed in study.runs["seed"].dropna()}
    for settings, _ in sweep.points():
        seed = int(settings.get("seed", 0))
        if seed in used:
            raise NormbenchError(
                f"seed {seed} has been used to choose the learning rates in {design.tuned_by}: "
                "take others"
            )
    planned = load_sweep(design.tuned_by)
    points = [settings for settings, _ in sweep.points()]
    rates = []
    for rate in chosen_rates(study, folder):
        is_asked = any(rate.is_for(settings) for settings in points)
        if is_asked and _is_complete(rate, study, planned):
            rates.append(rate)
    return replace(sweep, design=design.model_copy(update={"rates": tuple(rates)}))


def _is_complete(rate: Rate, study: Study, planned: Sweep) -> bool:
    """Whether all rates planned for the rate's place were tried: half a grid chooses ill."""
    tried = study.at(norm=rate.norm, batch_size=rate.batch_size, **rate.at).runs
    ended = {float(lr) for lr in tried.loc[tried["status"].isin(OVER), "lr"]}
    for settings, left_out in planned.points():
        if rate.is_for(settings) and left_out is None and float(settings[LR]) not in ended:
            return False
    return True


def chosen_rates(study: Study, folder: Path) -> tuple[Rate, ...]:
    """The chosen rate of each norm and batch size, and setting of the network or training.

    Raises NormbenchError where none were chosen.
    """
    if not study.chooses_rates:
        raise NormbenchError(f"'{folder}' has not tried learning rates on held-out images")
    best = study.best_rates
    further = [name for name in study.varying(study.shared_settings) if "." in name]
    twice = best[best.duplicated(["norm", "batch_size", *further])]
    if len(twice):
        norm, batch_size = twice[["norm", "batch_size"]].iloc[0]
        raise NormbenchError(f"'{folder}' has several rates for {norm} at batch size {batch_size}")
    rates = []
    for row in best.to_dict("records"):
        values = {name: row[name] for name in ("norm", "batch_size", "lr", "is_edge")}
        at = {name: row[name] for name in further}
        rates.append(Rate.model_validate({**values, "at": at}))
    return tuple(rates)
