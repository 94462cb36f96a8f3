"""Claims about the source's own runs: its printed losses and its times per epoch."""

from __future__ import annotations

import math

from normbench.analysis.captions import processes
from normbench.analysis.stats import Ratio, interval_of_share, mean_interval
from normbench.analysis.study import Study
from normbench.analysis.tables.table import times
from normbench.analysis.tables.tutorial import BATCH, CLAIMS
from normbench.audit.evidence import Evidence
from normbench.audit.verdicts import Finding, Verdict, above, equals, every, exact
from normbench.text import counted

# The training losses that the source prints, of single steps: norm, epoch, then steps 0 to 700.
STEPS = (0, 100, 200, 300, 400, 500, 600, 700)
PRINTED = {
    ("bn", 1): (2.3054, 1.5884, 1.3701, 1.3469, 1.2706, 1.0940, 1.0464, 1.0236),
    ("bn", 5): (0.4647, 0.5012, 0.7380, 0.4303, 0.4039, 0.5159, 0.5286, 0.6188),
    ("ln", 1): (2.3177, 2.0628, 1.9420, 1.8320, 1.7908, 1.4127, 1.2469, 1.6888),
    ("ln", 5): (0.8508, 0.9067, 0.7935, 0.7667, 1.0387, 0.5732, 0.9758, 0.5918),
    ("gn", 1): (2.3121, 2.0842, 1.8134, 1.7125, 1.6534, 1.4146, 1.1490, 1.3987),
    ("gn", 5): (0.7947, 0.7361, 0.7224, 0.6624, 0.7634, 0.7282, 0.6874, 0.7992),
}
STEPS_PER_EPOCH = 782
EXPECTED_SHARE = 0.95  # of printed losses within a 95 % prediction interval
NEAR = 0.05  # of bn's time, how far an interval may reach from the claimed ratio in support
EXPENSIVE = 1.1  # times bn's time, from which a norm is called expensive


def loss_trajectory(evidence: Evidence) -> Finding:
    """The share of printed losses within our seeds' 95 % prediction interval at the same step."""
    study = evidence.study("table")
    if study is None or study.steps.empty:
        return Finding(Verdict.UNMEASURED, ())
    figures = []
    inside = total = 0
    for (norm, epoch), printed in PRINTED.items():
        found = _inside(study, norm, epoch, printed)
        if found is None:
            return Finding(Verdict.UNMEASURED, ())
        inside += found
        total += len(printed)
        what = f"losses printed for {norm} in epoch {epoch} are inside our seeds' interval"
        figures.append(f"table: {found} of {len(printed)} {what}.")
    share = inside / total
    low, high = interval_of_share(share, total)
    figures.append(
        f"In all {inside} of {total}, {share:.0%} ({low:.0%} to {high:.0%}); "
        "of equal runs, 95 % would be."
    )
    return Finding(exact(high >= EXPECTED_SHARE), tuple(figures))


def epoch_time(evidence: Evidence) -> Finding:
    """The claimed ratio in the interval of a step's measured ratio, over processes."""
    parts, figures = [], []
    for norm in ("ln", "in", "gn"):
        ratio = evidence.time_of_step(norm, BATCH)
        if ratio is None:
            parts.append(Verdict.UNMEASURED)
            continue
        parts.append(equals((ratio.low, ratio.high), CLAIMS[norm].relative_time, NEAR))
        figures.append(f"{_told(norm, ratio)}, claimed {CLAIMS[norm].relative_time:.2f}x.")
    return Finding(every(parts), tuple(figures))


def gn_cost(evidence: Evidence) -> Finding:
    """gn takes more than 1.1 times bn's time for a step."""
    ratio = evidence.time_of_step("gn", BATCH)
    if ratio is None:
        return Finding(Verdict.UNMEASURED, ())
    return Finding(above((ratio.low, ratio.high), EXPENSIVE), (f"{_told('gn', ratio)}.",))


def _told(norm: str, ratio: Ratio) -> str:
    return (
        f"speed: a training step with {norm} takes {times(ratio)} bn's time at batch size {BATCH} "
        f"({counted(ratio.n, 'round')} of {processes([ratio.processes])})"
    )


def _inside(study: Study, norm: str, epoch: int, printed: tuple[float, ...]) -> int | None:
    """How many printed losses are inside; None where a step has fewer than two seeds."""
    steps = study.steps
    of_epoch = steps[(steps["norm"] == norm) & (steps["epoch"] == epoch)]
    # `step` counts over the whole run.
    first = (epoch - 1) * STEPS_PER_EPOCH
    number = 0
    for step, claimed in zip(STEPS, printed, strict=True):
        losses = of_epoch.loc[of_epoch["step"] == first + step, "loss"].tolist()
        found = mean_interval(losses)
        if found.n < 2:
            return None
        # t s / sqrt(n) is the interval of the mean, t s sqrt(1 + 1 / n) that of one more run.
        reach = found.half_width * math.sqrt(found.n + 1)
        number += abs(claimed - found.mean) <= reach
    return number


SOURCE_RUNS = {
    "loss-trajectory": loss_trajectory,
    "epoch-time": epoch_time,
    "gn-cost": gn_cost,
}
