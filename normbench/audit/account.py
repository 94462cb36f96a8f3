"""The audit as text: a line for each claim, the whole account of one, and results/AUDIT.md."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

from normbench.analysis.report.page import ClaimPart
from normbench.analysis.study import Study
from normbench.audit.claims import Judged, decided_by
from normbench.audit.verdicts import Verdict
from normbench.text import markdown_cell

HEAD = """\
# Claims, audited

What tutorials and surveys say of normalization layers, and what measurements say of it. Made by
`normbench audit --markdown`; every verdict is computed from the committed studies, or now. What was
expected and the rule stand in [claims.yaml](../configs/claims.yaml), written before measuring; the
studies `table` and `speed` had been made before their rules. `normbench audit CLAIM` tells the
whole account.

Sources: {sources}. A claim is taken as it is written: "small batches" says nothing of the largest,
so a claim and its contrary can both hold, or neither. IN in the sources has no gamma and beta; here
`in` is that, and `in_affine`, by which studies of batch sizes judge IN, has them.

"""

WIDTH = 100
INDENTED: Any = {
    "initial_indent": "  ",
    "subsequent_indent": "    ",
    "break_long_words": False,
    "break_on_hyphens": False,
}
SOURCES = {
    "A": "a tutorial with PyTorch experiments",
    "B": "a reference-style overview of the layers",
    "C": "a survey from principles to practice",
    "D": "a comparison of IN and BN",
    "E": "notes on several normalizations",
}


def as_lines(judged: Sequence[Judged]) -> str:
    """A line for each claim, and how many verdicts of each kind there are."""
    width = max(len(one.claim.id) for one in judged)
    lines = []
    for one in judged:
        lines.append(f"{one.finding.verdict:<17} {one.claim.id:<{width}}  {one.claim.claim}")
    return "\n".join([*lines, "", counts(judged)])


def with_figures(judged: Sequence[Judged]) -> str:
    """Of each claim the verdict, the figures that decide it, and the command that gives them."""
    told = []
    for one in judged:
        lines = [f"{one.finding.verdict}: {one.claim.claim} ({one.claim.id})"]
        lines += [textwrap.fill(figure, WIDTH, **INDENTED) for figure in one.finding.figures]
        lines.append(f"  command: {one.claim.command}")
        told.append("\n".join(lines))
    return "\n\n".join([*told, counts(judged)])


def counts(judged: Sequence[Judged]) -> str:
    """`30 claims: 8 supported, 12 refuted, 2 undecided, 8 not measured yet.`"""
    found = Counter(one.finding.verdict for one in judged)
    told = ", ".join(f"{found[verdict]} {verdict}" for verdict in Verdict if found[verdict])
    noun = "claim" if len(judged) == 1 else "claims"
    return f"{len(judged)} {noun}: {told}."


def account(one: Judged) -> str:
    """Everything about a claim: source, expectation, rule, figures, verdict, command."""
    claim, finding = one.claim, one.finding
    lines = [
        f"{claim.id} (source {claim.source}): {claim.claim}",
        f"verdict:   {finding.verdict}",
        *(f"           {figure}" for figure in finding.figures),
        f"expected:  {claim.expected}",
        f"rule:      {claim.rule}",
        f"command:   {claim.command}",
    ]
    other = one.contrary
    if other is not None:
        lines.append(f"contrary:  {other.claim.id}: {other.claim.claim} ({other.finding.verdict})")
    return "\n".join(lines)


def claim_parts(study: Study) -> list[ClaimPart]:
    """What a report says of the claims that its study decides."""
    parts = []
    for one in decided_by(study):
        finding = one.finding
        parts.append(ClaimPart(finding.verdict, one.claim.claim, one.claim.rule, finding.figures))
    return parts


def as_markdown(judged: Sequence[Judged]) -> str:
    """The page results/AUDIT.md."""
    heads = ("verdict", "claim", "source", "rule", "figures", "command")
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for one in judged:
        claim = one.claim
        told = f"{claim.claim} (`{claim.id}`)"
        if claim.contrary:
            told += f"; contradicts `{claim.contrary}`"
        figures = " ".join(one.finding.figures)
        command = f"`{claim.command}`"
        cells = [one.finding.verdict, told, claim.source, claim.rule, figures, command]
        rows.append("| " + " | ".join(markdown_cell(str(cell)) for cell in cells) + " |")
    sources = "; ".join(f"{letter} {what}" for letter, what in SOURCES.items())
    return f"{HEAD.format(sources=sources)}{counts(judged)}\n\n" + "\n".join(rows) + "\n"
