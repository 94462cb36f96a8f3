"""What studies have measured at a network and batch size, as the recommendation reads it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from normbench.errors import NormbenchError
from normbench.recommend.rule import Outcome, decide

WITHOUT_RESULT = (*LOST, "refused")
ASKED = ("model", "batch_size")  # the settings that a question names
OF_NETWORK = "model."  # settings that make another network, such as model.norm_position


@dataclass(frozen=True)
class Part:
    """What one study has measured at a network and batch size.

    norms: with a finished run, the best mean first. pairs: of these norms, with and without a
    verdict. excluded: by norm, the reason. basis: the data and epochs in words. images_seen: the
    images of a whole run, each as often as it is trained on.
    """

    study: str
    norms: tuple[str, ...]
    pairs: tuple[Paired, ...]
    excluded: dict[str, str]
    basis: str
    images_seen: int

    @property
    def primary(self) -> list[Paired]:
        """The comparisons of the primary family."""
        return [paired for paired in self.pairs if paired.is_primary]


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
        """The comparisons of primary families, each with the study's name.

        Of studies that compare the same norms, the one with the longest training counts.
        """
        longest: dict[frozenset[str], int] = {}
        for part in self.parts:
            for paired in part.primary:
                seen = longest.get(paired.norms, 0)
                longest[paired.norms] = max(seen, part.images_seen)
        found = []
        for part in self.parts:
            for paired in part.primary:
                if longest[paired.norms] == part.images_seen:
                    found.append((part.study, paired))
        return found

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
        """What the verdicts leave of the norms that they are about.

        A norm without a comparison decided beforehand keeps others from being recommended where it
        is above one of them by its whole interval; else it is no candidate.
        """
        judged = {norm for _, paired in self.judged for norm in paired.norms}
        decided = self._decided(judged)
        rivals = set()
        for _, paired in self.pairs:
            for one in (paired, paired.turned()):
                if one.second in decided.candidates and one.is_above and one.first not in judged:
                    rivals.add(one.first)
        return self._decided(judged | rivals) if rivals else decided

    def _decided(self, norms: Collection[str]) -> Outcome:
        listed = [norm for norm in self.norms if norm in norms and norm not in self.excluded]
        return decide([*listed, *self.excluded], self.ahead, self.excluded)

    @property
    def unjudged(self) -> list[str]:
        """The norms that are measured, but neither candidates nor behind nor excluded."""
        outcome = self.outcome
        known = {*outcome.candidates, *outcome.behind, *outcome.excluded}
        return [norm for norm in self.norms if norm not in known]

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

    A network is told with its settings that vary: `vit (norm position pre)`. Left out is a batch
    size with several other settings, of which no question names one.
    Raises NormbenchError for runs that cannot be compared.
    """
    check_comparable(study)
    pairs = every_pair(study)
    study = study.chosen
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
            left_out.append(f"batch size {size} on {network}, measured with {told}")
            continue
        found.append((network, int(size), _part(name, study.at(**place), here)))
    return found, left_out


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
