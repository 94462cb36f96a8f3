"""Answers as text: a line for each batch size, or the whole account of one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from normbench.analysis.captions import seeds
from normbench.analysis.decision_tree import Advice
from normbench.analysis.paired import Paired, p_text
from normbench.recommend.answer import UNMEASURED, Answer
from normbench.recommend.measured import Measured, Part
from normbench.recommend.words import MANY, behind, first_of, short, through, told_of
from normbench.text import as_list

WIDTH = 100
NOTHING = "nothing is measured"
Lines = Iterator[tuple[str, str]]  # a label and its text


def account(answer: Answer, wished: Sequence[str] = (), *, explain: bool = False) -> str:
    """The answer in a sentence, with its evidence and what would change it.

    wished: sentences on wishes. explain: with the path through the sources' tree, and with every
    comparison of the primary families.
    """
    rows: list[tuple[str, str]] = []
    for measured in answer.at:
        rows += _of_measured(answer, measured)
    rows += [("asked", sentence) for sentence in wished]
    rows += _changes(answer)
    rows.append(("sources' tree", _advised(answer.advice)))
    if explain:
        rows += [("path", f"{one.way}: {as_list(one.norms, 'or')}") for one in answer.advice]
        for measured in answer.at:
            rows += [("verdict", _sentence(*judged)) for judged in measured.judged]
    width = max(len(label) for label, _ in rows) + 4
    return "\n".join([_wrapped(headline(answer)), *_labelled(rows, width)])


def headline(answer: Answer) -> str:
    """The answer in one sentence."""
    kind, size = answer.question.model, answer.question.batch_size
    if answer.network is None:
        what = kind or "any network"
        return f"{what}: not measured here. There is only the sources' word, folklore."
    place = f"{answer.network}, batch size {size}"
    if answer.nearest is not None:
        near = answer.nearest
        told = short(near.outcome)
        side = "beyond" if size is not None and size > near.batch_size else "below"
        return (
            f"{place}: {NOTHING} {side} batch size {near.batch_size}, the nearest, where it is "
            f"{told}."
        )
    start = ""
    if answer.question.is_finetuned:
        start = f"{UNMEASURED} for fine-tuning; trained from the start: "
    if not answer.is_between:
        (measured,) = answer.at
        told = f"{told_of(measured)}{through(measured)}"
        return f"{place}: {start}{told}{_of_few(answer, measured)}."
    low, high = answer.at
    return (
        f"{place}: {start}{short(answer.outcome)}, by the batch sizes {low.batch_size} and "
        f"{high.batch_size} that it stands between{behind(answer.outcome, ' at both')}."
    )


def _of_few(answer: Answer, measured: Measured) -> str:
    """What was not measured here, and is recommended or a candidate elsewhere."""
    missing = _missing(answer, measured)
    if not missing:
        return ""
    is_one = len(missing) == 1
    what = "a candidate" if is_one else "candidates"
    verb = "is" if is_one else "are"
    return f"; {as_list(missing)}, {what} at other batch sizes, {verb} not measured here"


def _missing(answer: Answer, measured: Measured) -> list[str]:
    """The candidates of other batch sizes that are not measured at this one."""
    known = [*measured.norms, *measured.excluded]
    elsewhere = [norm for one in answer.sizes for norm in one.outcome.candidates]
    return [norm for norm in dict.fromkeys(elsewhere) if norm not in known]


def as_lines(answers: Sequence[Answer]) -> str:
    """A line for each network and batch size: the answer, a difference, the sources' word."""
    rows = []
    for answer in answers:
        network = answer.network or answer.question.model or "any network"
        size = answer.question.batch_size
        told = told_of(answer.at[0]) if len(answer.at) == 1 else short(answer.outcome)
        if not answer.at:
            told = UNMEASURED
        differences = [_difference(answer, one) for one in answer.at]
        cells = ("" if size is None else str(size), told, "".join(differences))
        rows.append((network, *cells, _advised(answer.advice)))
    heads = ["network", "batch size", "answer", "to the runner-up", "sources' tree"]
    return tabulate(rows, heads, tablefmt="simple", disable_numparse=True)


def runner_up(measured: Measured) -> str | None:
    """The norm behind the recommended one with the best mean; None without a recommendation."""
    best = measured.outcome.recommended
    if best is None:
        return None
    return next(iter(measured.outcome.behind), None)


def _of_measured(answer: Answer, measured: Measured) -> Lines:
    """What one batch size says: its evidence, the runner-up, and what it rests on."""
    if answer.is_between:
        yield f"at {measured.batch_size}", f"{told_of(measured)}{through(measured)}"
    candidates = measured.outcome.candidates
    decided = [(study, paired) for study, paired in measured.judged if paired.is_decided]
    for study, paired in sorted(decided, key=lambda found: found[1].verdict not in candidates):
        told = _told(paired if paired.verdict == paired.first else paired.turned())
        yield "evidence", f"{study}: {told}" if len(measured.parts) > 1 else told
    second = runner_up(measured)
    if second is not None:
        yield "runner-up", _runner_up(measured, candidates[0], second)
    elif len(candidates) > 1:
        for other in candidates[1 : MANY + 1]:
            yield "between them", _compared(measured, candidates[0], other)
    if measured.unjudged:
        yield "no verdict on", as_list(first_of(measured.unjudged))
    for norm, why in measured.excluded.items():
        yield "excluded", f"{norm}: {why}"
    for part in measured.parts:
        yield "measured by", _basis(part)


def _runner_up(measured: Measured, best: str, second: str) -> str:
    if (best, second) in measured.ahead:
        return f"{second}, as above"
    return f"{second}; {_compared(measured, best, second)}"


def _compared(measured: Measured, first: str, second: str) -> str:
    """First minus second with its outcome: `gn - ln = +1.3 ± 0.8 points: no verdict`."""
    found = measured.between(first, second)
    if found is None:
        return f"{first} and {second} have no runs of equal seeds to compare"
    _, paired = found
    return f"{first} - {second} = {paired.shown}: {paired.outcome}"


def _told(paired: Paired) -> str:
    """A comparison with a verdict: `gn - bn = +45.8 ± 2.8 points (5 seeds, p < 0.001)`."""
    number = seeds(paired.difference.estimate.n)
    return (
        f"{paired.first} - {paired.second} = {paired.shown} ({number}, {p_text(paired.adjusted)})"
    )


def _basis(part: Part) -> str:
    """The study, its data, and how its intervals and p-values come about."""
    judged = [paired for paired in part.pairs if paired.is_primary]
    images = "test images counted as drawn"
    if not all(paired.difference.over_images for paired in judged):
        images = "on these test images"
    return (
        f"{part.study}: {part.basis}; 95 % intervals over paired seeds, {images}; p-values by "
        f"{judged[0].family}"
    )


def _sentence(study: str, paired: Paired) -> str:
    return f"{study}: {paired.sentence()}"


def _difference(answer: Answer, measured: Measured) -> str:
    """The recommended norm minus the runner-up, for a table."""
    second = runner_up(measured)
    if second is None or answer.outcome.recommended is None:
        return ""
    found = measured.between(answer.outcome.recommended, second)
    return f"{second}: {found[1].shown}" if found else second


def _changes(answer: Answer) -> Lines:
    """What would change the answer: another batch size, comparisons that are not made."""
    for one in answer.changed_by:
        yield "other sizes", f"batch size {one.batch_size}: {told_of(one)}"
    for measured in answer.at:
        missing = _missing(answer, measured)
        if missing:
            place = f"at batch size {measured.batch_size}"
            yield "would change it", f"{as_list(first_of(missing))} {place}, not measured yet"
    candidates = answer.outcome.candidates
    is_open = not all(measured.are_alike for measured in answer.at)
    if len(candidates) > 1 and is_open:
        place = f"at batch size {answer.question.batch_size}"
        what = f"a study whose primary comparisons hold {candidates[0]} against"
        if _is_planned(answer, candidates):
            what = f"more seeds of {candidates[0]} and"
        yield "would change it", f"{what} {as_list(first_of(candidates[1:]))} {place}"


def _is_planned(answer: Answer, candidates: Sequence[str]) -> bool:
    """Whether a study has decided beforehand to compare the first candidate with all others."""
    if answer.is_between:
        return False
    (measured,) = answer.at
    for other in candidates[1:]:
        found = measured.between(candidates[0], other)
        if found is None or not found[1].is_primary:
            return False
    return True


def _advised(advice: Sequence[Advice]) -> str:
    """What the sources' tree says: `gn (by model), ln or gn (by data)`."""
    told = [f"{as_list(one.norms, 'or')} (by {one.path[0][0]})" for one in advice]
    return ", ".join(told) or "no answer: it asks for --model"


def _labelled(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """The rows below one another; a label stands once above equal ones."""
    before = ""
    for label, text in rows:
        shown = "" if label == before else label
        before = label
        yield _wrapped(text, f"  {shown:<{width - 2}}", " " * width)


def _wrapped(text: str, first: str = "", other: str = "  ") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=other, break_long_words=False
    )
