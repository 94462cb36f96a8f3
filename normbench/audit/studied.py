"""Claims that a committed study decides: functions from Evidence to a Finding.

A comparison counts only as the study's family has it. What a study lacks is not measured yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from normbench.analysis.paired import Paired
from normbench.analysis.stats import half_width_of_test_set, paired_difference
from normbench.analysis.tables.tutorial import CLAIMS
from normbench.audit.evidence import (
    POINT,
    Evidence,
    ahead,
    by_seed,
    interval_of,
    not_behind,
    points,
    told,
)
from normbench.audit.verdicts import (
    Finding,
    Verdict,
    above,
    equals,
    every,
    some,
)

OTHERS = ("gn", "ln", "in_affine")


def accuracy_order(evidence: Evidence) -> Finding:
    """Each step of the order by its own comparison."""
    steps = (("bn", "gn"), ("gn", "ln"), ("ln", "in"))
    pairs = [evidence.pair("table", *step, batch_size=64) for step in steps]
    return _all_ahead("table", pairs)


def accuracy_level(evidence: Evidence) -> Finding:
    """The claimed accuracy in the interval over seeds, widened by what the test set leaves open."""
    parts, figures = [], []
    for norm, claim in CLAIMS.items():
        reached = evidence.reached("table", norm=norm, batch_size=64)
        if reached is None:
            parts.append(Verdict.UNMEASURED)
            continue
        images = half_width_of_test_set(reached.mean, 10_000)
        half_width = math.hypot(reached.half_width, images)
        interval = (reached.mean - half_width, reached.mean + half_width)
        parts.append(equals(interval, claim.reached, 2 * POINT))
        figures.append(
            f"table: {norm} reaches {reached.mean:.1%} ± {half_width:.1%} ({reached.n} seeds, "
            f"test images counted as drawn), claimed {claim.reached:.1%}."
        )
    return Finding(every(parts), tuple(figures))


def bn_batch_1(evidence: Evidence) -> Finding:
    """bn collapses at batch 1 where each other norm is ahead; stable are those that lost no run."""
    pairs = [evidence.pair("batch_size", norm, "bn", batch_size=1) for norm in OTHERS]
    finding = _all_ahead("batch_size", pairs)
    figures = list(finding.figures)
    for column, what in (("", "running"), ("test_accuracy_batch", "the batch's own")):
        reached = evidence.reached("batch_size", column, norm="bn", batch_size=1)
        if reached is not None and reached.n:
            figures.append(
                f"batch_size: bn at batch size 1 with {what} statistics reaches "
                f"{reached.mean:.1%} ± {reached.half_width:.1%} ({reached.n} seeds)."
            )
    return Finding(finding.verdict, tuple(figures))


def bn_small_batch_use(evidence: Evidence) -> Finding:
    """bn is for small batches: ahead of every other norm at batch 4."""
    pairs = [evidence.pair("batch_size", "bn", norm, batch_size=4) for norm in OTHERS]
    return _all_ahead("batch_size", pairs)


def bn_large_batch_use(evidence: Evidence) -> Finding:
    """bn is for large batches: ahead of every other norm at batch 64."""
    pairs = [evidence.pair("batch_size", "bn", norm, batch_size=64) for norm in OTHERS]
    return _all_ahead("batch_size", pairs)


def gn_large_batch_use(evidence: Evidence) -> Finding:
    """gn is for large batches: ahead of bn at batch 64."""
    return _all_ahead("batch_size", [evidence.pair("batch_size", "gn", "bn", batch_size=64)])


def gn_small_batch_use(evidence: Evidence) -> Finding:
    """gn is the best substitute in small batches: ahead of bn at batch 1 and 4."""
    pairs = [evidence.pair("batch_size", "gn", "bn", batch_size=size) for size in (1, 4)]
    return _all_ahead("batch_size", pairs)


def in_beats_bn_small(evidence: Evidence) -> Finding:
    """bn can be worse: in_affine is ahead of it at batch 1 or at batch 4."""
    pairs = [evidence.pair("batch_size", "in_affine", "bn", batch_size=size) for size in (1, 4)]
    verdicts = [ahead(paired) for paired in pairs]
    return Finding(some(verdicts), tuple(told("batch_size", pairs)))


def batch_32(evidence: Evidence) -> Finding:
    """bn needs 32 images where it is more than a point behind at 16 and at 8, seed by seed."""
    study = evidence.study("published")
    if study is None:
        return Finding(Verdict.UNMEASURED, ())
    of_bn = study.at(norm="bn")
    reached = {size: by_seed(of_bn.at(batch_size=size)) for size in (2, 4, 8, 16, 32)}
    parts, figures = [], []
    for size in (2, 4, 8, 16):
        difference = paired_difference(reached[32], reached[size])
        if difference is None:
            return Finding(Verdict.UNMEASURED, ())
        found = difference.estimate
        figures.append(
            f"published: bn at batch size 32 less bn at {size}, paired, on these test images: "
            f"{points(found)}."
        )
        if size >= 8:
            parts.append(above(interval_of(found), POINT))
    return Finding(every(parts), tuple(figures))


def ws_lifts_gn(evidence: Evidence) -> Finding:
    """ws_gn is ahead of gn at batch 64 and at batch 4."""
    pairs = [evidence.pair("ws", "ws_gn", "gn", batch_size=size) for size in (64, 4)]
    return _all_ahead("ws", pairs)


def ln_rnns(evidence: Evidence) -> Finding:
    """ln is ahead of none and of bn in the LSTM."""
    pairs = [evidence.pair("recurrent", "ln", norm, batch_size=64) for norm in ("none", "bn")]
    return _all_ahead("recurrent", pairs)


def ln_transformers(evidence: Evidence) -> Finding:
    """ln is ahead of bn and of no norm, and no other norm is ahead of it, pre and post."""
    pairs, verdicts = [], []
    for position in ("pre", "post"):
        at = {"model.norm_position": position}
        for norm in ("bn", "none", "rms", "dyt", "derf"):
            paired = evidence.pair("transformer", "ln", norm, **at)
            judge = ahead if norm in ("bn", "none") else not_behind
            pairs.append(paired)
            verdicts.append(judge(paired))
    return Finding(every(verdicts), tuple(told("transformer", pairs)))


def in_style(evidence: Evidence) -> Finding:
    """in is ahead of bn on images as they are, under both loss networks.

    Further figures are of images of one contrast and of one style.
    """
    pairs: list[Paired | None] = []
    others: list[Paired | None] = []
    for network in ("random", "efficientnet_lite0"):
        for prepare in ("none", "contrast", "results/style-first"):
            place = {"task.loss_network": network, "task.prepare": prepare}
            found = pairs if prepare == "none" else others
            found.append(evidence.pair("style", "in", "bn", **place))
    finding = _all_ahead("style", pairs)
    return Finding(finding.verdict, (*finding.figures, *told("style", others)))


def _all_ahead(study: str, pairs: Sequence[Paired | None]) -> Finding:
    """The first norm of every pair is ahead."""
    verdict = every([ahead(paired) for paired in pairs])
    return Finding(verdict, tuple(told(study, pairs)))


STUDIED = {
    "accuracy-order": accuracy_order,
    "accuracy-level": accuracy_level,
    "bn-batch-1": bn_batch_1,
    "bn-small-batch-use": bn_small_batch_use,
    "bn-large-batch-use": bn_large_batch_use,
    "gn-small-batch-use": gn_small_batch_use,
    "gn-large-batch-use": gn_large_batch_use,
    "in-beats-bn-small": in_beats_bn_small,
    "batch-32": batch_32,
    "ws-lifts-gn": ws_lifts_gn,
    "ln-rnns": ln_rnns,
    "ln-transformers": ln_transformers,
    "in-style": in_style,
}
