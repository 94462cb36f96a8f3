"""Answers to a question: for each network, what is measured at the batch size or around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from normbench.analysis.decision_tree import Advice, DecisionTree
from normbench.recommend.library import Library
from normbench.recommend.measured import Measured
from normbench.recommend.rule import Outcome, both

RECOMMENDED, UNDECIDED, UNMEASURED = "recommended", "undecided", "not measured"


@dataclass(frozen=True)
class Question:
    """What is asked. model: a kind of network of the decision tree. data: a word of the tree.

    is_finetuned: whether the network starts from trained weights.
    """

    batch_size: int | None = None
    model: str | None = None
    data: str | None = None
    is_finetuned: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer for a network and batch size, or for a kind of network without measurements.

    network: None where no network of the kind is measured. at: what is measured at the batch size
    itself, or at the two around it; empty where nothing is. nearest: the measured batch size that
    is nearest to one outside. others: at all further batch sizes of the network.
    """

    network: str | None
    question: Question
    at: tuple[Measured, ...] = ()
    nearest: Measured | None = None
    others: tuple[Measured, ...] = ()
    advice: tuple[Advice, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """What the verdicts leave; without candidates where nothing is measured."""
        if not self.at:
            return Outcome(())
        return both(self.at[0].outcome, self.at[-1].outcome)

    @property
    def is_between(self) -> bool:
        """Whether the batch size lies between two measured ones."""
        return len(self.at) == 2

    @property
    def recommended(self) -> str | None:
        """The recommended norm; None for fine-tuning, which no study measures."""
        return None if self.question.is_finetuned else self.outcome.recommended

    @property
    def verdict(self) -> str:
        """`recommended`, `undecided` or `not measured`."""
        if not self.at or self.question.is_finetuned:
            return UNMEASURED
        return UNDECIDED if self.recommended is None else RECOMMENDED

    @property
    def sizes(self) -> list[Measured]:
        """All that is measured with the network, smallest batch size first."""
        near = [] if self.nearest is None else [self.nearest]
        return sorted([*self.at, *near, *self.others], key=lambda one: one.batch_size)

    @property
    def changed_by(self) -> list[Measured]:
        """The other batch sizes at which the candidates are not the same."""
        candidates = set(self.outcome.candidates)
        return [one for one in self.others if set(one.outcome.candidates) != candidates]


def answers(question: Question, library: Library, tree: DecisionTree) -> list[Answer]:
    """An answer for each measured network of the kind; without a batch size at each measured one.

    A network that the tree does not know, as a user's own, is of the kind that is asked for.
    Raises NormbenchError for a model or data that the tree does not know.
    """
    if question.model is not None and tree.kind_of(question.model) is None:
        tree.check("model", question.model)
    if question.data is not None:
        tree.check("data", question.data)
    found: list[Answer] = []
    for network in library.networks:
        kind = tree.kind_of(network)
        is_named = network.partition(" (")[0] == question.model
        if question.model is not None and kind not in (question.model, None) and not is_named:
            continue
        asked = replace(question, model=kind or question.model)
        found += _of_network(network, asked, library.of(network), tree)
    if not found:
        found.append(Answer(None, question, advice=_advice(question, tree)))
    return found


def _of_network(
    network: str, question: Question, measured: Sequence[Measured], tree: DecisionTree
) -> list[Answer]:
    sizes = [one.batch_size for one in measured]
    if question.batch_size is not None:
        sizes = [question.batch_size]
    found = []
    for size in sizes:
        asked = replace(question, batch_size=size)
        at, nearest = around(size, measured)
        touched = [*at, nearest]
        others = tuple(one for one in measured if one not in touched)
        found.append(Answer(network, asked, at, nearest, others, _advice(asked, tree)))
    return found


def around(
    batch_size: int, measured: Sequence[Measured]
) -> tuple[tuple[Measured, ...], Measured | None]:
    """What is measured at the batch size or at the two around it; else the nearest.

    measured: of one network, smallest batch size first, and not empty.
    """
    below = [one for one in measured if one.batch_size <= batch_size]
    above = [one for one in measured if one.batch_size >= batch_size]
    if not below:
        return (), above[0]
    if not above:
        return (), below[-1]
    if below[-1] is above[0]:
        return (below[-1],), None
    return (below[-1], above[0]), None


def _advice(question: Question, tree: DecisionTree) -> tuple[Advice, ...]:
    return tuple(tree.advice(question.model, question.batch_size, question.data))
