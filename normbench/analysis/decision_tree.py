"""The sources' decision tree, configs/decision_tree.yaml: its questions, and what it advises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from normbench.config.compose import config_dir
from normbench.errors import unknown

FILE = "decision_tree.yaml"
SMALL, LARGE = "small", "large"


class Part(BaseModel):
    """A part of the tree: no other keys than its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Branch(Part):
    """An answer to a question: the norms that it ends in, or the next question.

    when: the branch is taken where one of these words is known.
    """

    title: str
    when: tuple[str, ...]
    norms: tuple[str, ...] = ()
    then: Question | None = None

    @model_validator(mode="after")
    def _ends_or_goes_on(self) -> Branch:
        if bool(self.norms) == (self.then is not None):
            raise ValueError(f"{self.title} needs norms or another question, and not both")
        return self


class Question(Part):
    """A question with its branches. asks: `model`, `batch` or `data`."""

    asks: str
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Advice:
    """The norms that a path of the tree ends in. path: pairs of a question and its answer."""

    path: tuple[tuple[str, str], ...]
    norms: tuple[str, ...]

    @property
    def way(self) -> str:
        """The path in words: `model: CNN, batch: small`."""
        return ", ".join(f"{asks}: {title}" for asks, title in self.path)


class DecisionTree(Part):
    """The whole tree.

    small_below: the first batch size that is large. networks: registered networks by kind.
    """

    source: str
    small_below: int
    questions: tuple[Question, ...]
    networks: dict[str, tuple[str, ...]]

    def words(self, asks: str) -> list[str]:
        """The words that answer a first question, without those of the batch size."""
        found = []
        for question in self.questions:
            if question.asks == asks:
                for branch in question.branches:
                    found += [word for word in branch.when if word not in (SMALL, LARGE)]
        return found

    def check(self, asks: str, word: str) -> None:
        """Raises NormbenchError for a word that answers no branch of the question."""
        if word not in self.words(asks):
            raise unknown(asks, word, self.words(asks))

    def kind_of(self, network: str) -> str | None:
        """The kind of a network, as `cnn`; None for a network that the tree does not know.

        network: its name, with settings in brackets where it has some: `vit (norm position pre)`.
        """
        name = network.partition(" (")[0]
        for kind, networks in self.networks.items():
            if name in networks:
                return kind
        return None

    def advice(self, kind: str | None, batch_size: int | None, data: str | None) -> list[Advice]:
        """What the tree advises; a question without an answer is not followed."""
        known = {word for word in (kind, data) if word is not None}
        if batch_size is not None:
            known.add(SMALL if batch_size < self.small_below else LARGE)
        found: list[Advice] = []
        for question in self.questions:
            found += _followed(question, known, ())
        return found


def load_tree() -> DecisionTree:
    """The tree of configs/decision_tree.yaml."""
    text = (config_dir() / FILE).read_text(encoding="utf-8")
    return DecisionTree.model_validate(yaml.safe_load(text))


def _followed(
    question: Question, known: set[str], path: tuple[tuple[str, str], ...]
) -> Iterator[Advice]:
    for branch in question.branches:
        if known.isdisjoint(branch.when):
            continue
        taken = (*path, (question.asks, branch.title))
        if branch.then is None:
            yield Advice(taken, branch.norms)
        else:
            yield from _followed(branch.then, known, taken)
