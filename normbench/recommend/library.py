"""All that studies have measured, by network and batch size: read from their folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.analysis.captions import distinct, epochs, trained_on
from normbench.analysis.family import every_pair, planned_of
from normbench.analysis.images import images_seen
from normbench.analysis.loading import check_comparable, load_study
from normbench.analysis.paired import Paired
from normbench.analysis.settings import PROCESSES, describe
from normbench.analysis.study import CHOSEN, LOST, Study
from normbench.analysis.study_files import DESIGN
from normbench.config.compose import compose, groups
from normbench.errors import NormbenchError
from normbench.recommend.measured import Measured, Part

WITHOUT_RESULT = (*LOST, "refused")
ASKED = ("model", "batch_size")  # the settings that a question names
OF_NETWORK = "model."  # settings that make another network, such as model.norm_position


@dataclass(frozen=True)
class Library:
    """All that is measured, smallest batch size first, and what was left out, with the reason."""

    measured: tuple[Measured, ...]
    left_out: tuple[str, ...] = ()

    @property
    def networks(self) -> list[str]:
        """The networks with measurements, each once."""
        return list(dict.fromkeys(one.network for one in self.measured))

    def of(self, network: str) -> list[Measured]:
        """The measurements of a network, smallest batch size first."""
        return [one for one in self.measured if one.network == network]


def committed(results: Path) -> Library:
    """The studies in a folder such as results/ whose comparisons were decided beforehand.

    Raises NormbenchError for a missing folder and for a study whose files are damaged.
    """
    if not results.is_dir():
        raise NormbenchError(f"--results: no folder '{results}': name one with studies, or --runs")
    parts: list[tuple[str, int, Part]] = []
    left_out: list[str] = []
    for folder in sorted(results.iterdir()):
        # Only a study with a design has comparisons decided beforehand.
        if not (folder / DESIGN).is_file():
            continue
        study = load_study([folder])
        if not planned_of(study):
            continue
        try:
            found, reasons = parts_of(folder.name, study)
        except NormbenchError as error:
            found, reasons = [], [str(error)]
        parts += found
        left_out += [f"{folder.name}: {reason}" for reason in reasons]
    return library(parts, left_out)


def own_runs(folder: Path, where: Sequence[str] = ()) -> Library:
    """The runs of a folder: the primary family of their design, or all pairs without a design.

    where: conditions on the runs. Raises NormbenchError for a folder without runs, and where no two
    norms can be compared.
    """
    study = load_study([folder], where)
    found, left_out = parts_of(folder.name, study)
    if not found:
        why = "; ".join(left_out) or "no two norms have a finished run of the same seed"
        raise NormbenchError(f"--runs: nothing to compare in '{folder}': {why}")
    return library(found, [*study.notes, *left_out])


def library(parts: Iterable[tuple[str, int, Part]], left_out: Sequence[str] = ()) -> Library:
    """The parts together, by network and batch size."""
    groups: dict[tuple[str, int], list[Part]] = {}
    for network, batch_size, part in parts:
        groups.setdefault((network, batch_size), []).append(part)
    measured = [Measured(*key, tuple(groups[key])) for key in sorted(groups)]
    return Library(tuple(measured), tuple(left_out))


def parts_of(name: str, study: Study) -> tuple[list[tuple[str, int, Part]], list[str]]:
    """The parts of a study with network and batch size, and what was left out.

    A network is told with its settings that vary: `vit (norm position pre)`. Of several settings of
    the task the defaults count. Left out is a batch size with several other settings, of which no
    question names one.
    Raises NormbenchError for runs that cannot be compared.
    """
    check_comparable(study)
    usual = _usual_task(study)
    pairs = []
    for paired in every_pair(study):
        if {key: str(paired.settings.get(key)) for key in usual} == usual:
            pairs.append(paired)
    study = study.chosen.at(**usual)
    found, left_out = [], []
    keys = [*ASKED, *(name for name in study.settings if name.startswith(OF_NETWORK))]
    for record in study.done.runs[keys].drop_duplicates().to_dict("records"):
        place = {str(name): value for name, value in record.items()}
        network, size = _network(place), place["batch_size"]
        here = [paired for paired in pairs if _is_at(paired, place)]
        if not any(paired.is_primary for paired in here):
            continue
        others = {_others(paired) for paired in here}
        if len(others) > 1 or any(PROCESSES in other for other in others):
            told = " / ".join(sorted(others))
            if any(PROCESSES in other for other in others):
                told = "several processes"
            left_out.append(f"batch size {size} on {network}, measured with {told}")
            continue
        found.append((network, int(size), _part(name, study.at(**place), here)))
    return found, left_out


def _usual_task(study: Study) -> dict[str, str]:
    """The defaults of the task's settings that vary in the study; {} where no run has them."""
    task = study.task.name
    if task not in groups()["task"]:
        return {}
    options = compose([f"task={task}"]).task.options
    usual = {}
    for name in study.settings:
        if name.removeprefix("task.") in options:
            usual[name] = str(options[name.removeprefix("task.")])
    return {} if study.at(**usual).runs.empty else usual


def _network(place: Mapping[str, Any]) -> str:
    """The name of a network, with its settings in brackets."""
    told = {}
    for name, value in place.items():
        if name not in ASKED:
            told[name.removeprefix(OF_NETWORK)] = value
    return f"{place['model']} ({describe(told)})" if told else str(place["model"])


def _is_at(paired: Paired, place: Mapping[str, Any]) -> bool:
    """Whether a pair was trained at the place; one network alone has no setting."""
    return all(paired.settings.get(name, value) == value for name, value in place.items())


def _others(paired: Paired) -> str:
    """The settings of a pair that no question names, in words."""
    told = []
    for key, value in paired.settings.items():
        is_usual = value == CHOSEN or (key, str(value)) == (PROCESSES, "1")
        if key not in ASKED and not key.startswith(OF_NETWORK) and not is_usual:
            told.append(f"{key}={value}")
    return ", ".join(told)


def _part(name: str, here: Study, pairs: Sequence[Paired]) -> Part:
    means = here.done.runs.groupby("norm", sort=False)[here.test_column].mean()
    ranked = means.sort_values(ascending=not here.primary.is_larger_better, kind="stable")
    compared = {norm for paired in pairs for norm in (paired.first, paired.second)}
    done = here.done
    return Part(
        name,
        tuple(str(norm) for norm in ranked.index if norm in compared),
        tuple(pairs),
        dict(_excluded(here)),
        f"{distinct(done.runs, 'data')}, {trained_on(here)}{epochs(done.runs)}",
        max(images_seen(done), default=0),
    )


def _excluded(here: Study) -> Iterator[tuple[str, str]]:
    """The norms that lost seeds, were refused, or break what figures rest on, with the reason."""
    for norm, of_norm in here.runs.groupby("norm", sort=False):
        lost = of_norm[of_norm["status"].isin(WITHOUT_RESULT)]
        if len(lost):
            states = " or ".join(lost["status"].unique())
            yield str(norm), f"{len(lost)} of {len(of_norm)} runs {states}"
        elif norm in here.broken:
            yield str(norm), here.broken[str(norm)]
