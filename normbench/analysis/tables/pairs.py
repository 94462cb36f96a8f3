"""The table of all pairs of norms: difference, interval, p-value and verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from normbench.analysis.captions import basis
from normbench.analysis.family import every_pair
from normbench.analysis.paired import Paired, p_text
from normbench.analysis.study import Study
from normbench.analysis.tables.table import Table, in_words
from normbench.errors import NormbenchError


def pairs_table(study: Study) -> Table:
    """All pairs of norms: the paired difference, an interval, and the verdict.

    Comparisons decided beforehand come first; of others, at each choice of settings, the larger
    difference. Raises NormbenchError where no two norms have a seed in common.
    """
    found = _ordered(every_pair(study))
    if not found:
        raise NormbenchError("no two norms have a finished run of the same seed and settings")
    data = pd.DataFrame([_row(paired) for paired in found])
    note = "Differences are paired over equal seeds."
    if data["p_adjusted"].notna().any():
        note += (
            " Each interval is of its difference alone; p is of the paired t test, over images "
            f"too where runs have kept theirs, {found[0].family}. So a difference whose interval "
            "leaves out 0 may be undecided."
        )
    if not data["over_images"].all():
        note += " Where runs have kept no bit for each test image, all is about these test images."
    numbers, shown = data.rename(columns={"p_adjusted": "p"}), _readable(found, data)
    return Table("Norm against norm", data, shown, note, (), numbers, basis(study))


def _ordered(pairs: Sequence[Paired]) -> list[Paired]:
    places = [*dict.fromkeys(paired.place for paired in pairs)]

    def order(paired: Paired) -> tuple[int, float]:
        if paired.planned:
            return -1, 0.0  # in the order of the design
        return places.index(paired.place), -abs(paired.difference.estimate.mean)

    return sorted(pairs, key=order)


def _row(paired: Paired) -> dict[str, Any]:
    estimate = paired.difference.estimate
    return {
        "first": paired.first,
        "second": paired.second,
        **paired.settings,
        "n": estimate.n,
        "difference": estimate.mean,
        "half_width": estimate.half_width,
        "over_images": paired.difference.over_images,
        "lost": sum(paired.lost.values()),
        "is_primary": paired.is_primary,
        "p_value": paired.difference.p_value,
        "p_adjusted": paired.adjusted,
        "family": paired.family,
        "verdict": paired.verdict,
    }


def _readable(found: Sequence[Paired], data: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"pair": data["first"] + " - " + data["second"]})
    for name in found[0].settings:
        if data[name].nunique() > 1:
            shown[in_words(name)] = data[name]
    shown["difference"] = [paired.shown for paired in found]
    shown["seeds"] = data["n"]
    if data["lost"].any():
        shown["lost"] = [_lost(paired) for paired in found]
    # Without p: `< 0.001`, `0.031`.
    p_values = data["p_adjusted"].map(p_text).str.removeprefix("p ").str.removeprefix("= ")
    shown["p"] = p_values.where(data["p_adjusted"].notna(), "")
    shown["better"] = data["verdict"].where(data["is_primary"], "")
    return shown.astype(str)


def _lost(paired: Paired) -> str:
    """The seeds without a result: `2 of gn`."""
    return ", ".join(f"{count} of {norm}" for norm, count in paired.lost.items() if count)
