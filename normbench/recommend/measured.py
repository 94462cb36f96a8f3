"""What studies have measured at a network and batch size, as the recommendation reads it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations

from normbench.analysis.paired import ALIKE, Paired
from normbench.recommend.rule import Outcome, decide


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
    def are_alike(self) -> bool:
        """Whether verdicts find all candidates alike: any of them will do."""
        candidates = self.outcome.candidates
        found = {paired.norms for _, paired in self.judged if paired.verdict == ALIKE}
        pairs = [frozenset(pair) for pair in combinations(candidates, 2)]
        return bool(pairs) and all(pair in found for pair in pairs)

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
