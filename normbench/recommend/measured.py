"""What studies have measured at a network and batch size, as the recommendation reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from normbench.analysis.captions import distinct, epochs, trained_on
from normbench.analysis.family import every_pair, planned_of
from normbench.analysis.loading import check_comparable, load_study
from normbench.analysis.paired import Paired
from normbench.analysis.settings import PROCESSES
from normbench.analysis.study import CHOSEN, LOST, Study
from normbench.analysis.study_files import DESIGN
from normbench.config.compose import compose, groups
from normbench.errors import NormbenchError
from normbench.recommend.rule import Outcome, decide

WITHOUT_RESULT = (*LOST, "refused")
ASKED = ("model", "batch_size")  # the settings that a question names


@dataclass(frozen=True)
class Part:
    """What one study has measured at a network and batch size.

    norms: with a finished run, the best mean first. pairs: of these norms, with and without a
    verdict. excluded: by norm, the reason. basis: the data and epochs in words.
    """

    study: str
    norms: tuple[str, ...]
    pairs: tuple[Paired, ...]
    excluded: dict[str, str]
    basis: str


@dataclass(frozen=True)
class Measured:
    """What all studies have measured with a network at a batch size."""

    network: str
    batch_size: int
    parts: tuple[Part, ...]

    @property
    def norms(self) -> list[str]:
        """The norms of all parts, each once."""
        return list(dict.fromkeys(norm for part in self.parts for norm in part.norms))

    @property
    def excluded(self) -> dict[str, str]:
        """The norms that may not be recommended, with the reason."""
        found: dict[str, str] = {}
        for part in self.parts:
            found |= part.excluded
        return found

    @property
    def judged(self) -> list[tuple[str, Paired]]:
        """The comparisons of primary families, each with the study's name."""
        return [(study, paired) for study, paired in self.pairs if paired.is_primary]

    @property
    def pairs(self) -> list[tuple[str, Paired]]:
        """All comparisons, each with the study's name."""
        return [(part.study, paired) for part in self.parts for paired in part.pairs]

    @property
    def ahead(self) -> list[tuple[str, str]]:
        """The verdicts: a better and a worse norm."""
        found = []
        for _, paired in self.judged:
            if paired.is_decided:
                is_first = paired.verdict == paired.first
                found.append((paired.verdict, paired.second if is_first else paired.first))
        return found

    @property
    def outcome(self) -> Outcome:
        """What the verdicts leave."""
        norms = dict.fromkeys([*self.norms, *self.excluded])
        return decide(list(norms), self.ahead, self.excluded)

    def between(self, first: str, second: str) -> tuple[str, Paired] | None:
        """First minus second with the study's name, one with a verdict before one without."""
        found = None
        for study, paired in [*self.judged, *self.pairs]:
            if {paired.first, paired.second} == {first, second} and found is None:
                found = study, paired if paired.first == first else paired.turned()
        return found


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


def own_runs(folder: Path) -> Library:
    """The runs of a folder: the primary family of their design, or all pairs without a design.

    Raises NormbenchError for a folder without runs, and where no two norms can be compared.
    """
    study = load_study([folder])
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

    Of several settings of the task the defaults count. Left out is a batch size with several other
    settings, of which no question names one. Raises NormbenchError for runs that cannot be
    compared.
    """
    check_comparable(study)
    usual = _usual_task(study)
    pairs = []
    for paired in every_pair(study):
        if {key: str(paired.settings.get(key)) for key in usual} == usual:
            pairs.append(paired)
    study = study.chosen.at(**usual)
    found, left_out = [], []
    places = study.done.runs[["model", "batch_size"]].drop_duplicates()
    for network, size in places.itertuples(index=False):
        here = [paired for paired in pairs if _is_at(paired, network, size)]
        if not any(paired.is_primary for paired in here):
            continue
        others = {_others(paired) for paired in here}
        if len(others) > 1 or any(PROCESSES in other for other in others):
            told = " / ".join(sorted(others))
            left_out.append(f"batch size {size} on {network}, measured with {told}")
            continue
        found.append((str(network), int(size), _part(name, study, here, str(network), int(size))))
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


def _is_at(paired: Paired, network: object, size: object) -> bool:
    """Whether a pair was trained at the network and batch size; one network has no setting."""
    settings = paired.settings
    return (settings.get("model", network), settings["batch_size"]) == (network, size)


def _others(paired: Paired) -> str:
    """The settings of a pair that no question names, in words."""
    told = []
    for key, value in paired.settings.items():
        is_usual = value == CHOSEN or (key, str(value)) == (PROCESSES, "1")
        if key not in ASKED and not is_usual:
            told.append(f"{key}={value}")
    return ", ".join(told)


def _part(name: str, study: Study, pairs: Sequence[Paired], network: str, size: int) -> Part:
    here = study.at(model=network, batch_size=size)
    means = here.done.runs.groupby("norm", sort=False)[study.test_column].mean()
    ranked = means.sort_values(ascending=not study.primary.is_larger_better, kind="stable")
    compared = {norm for paired in pairs for norm in (paired.first, paired.second)}
    done = here.done.runs
    return Part(
        name,
        tuple(str(norm) for norm in ranked.index if norm in compared),
        tuple(pairs),
        dict(_excluded(here)),
        f"{distinct(done, 'data')}, {trained_on(here)}{epochs(done)}",
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
