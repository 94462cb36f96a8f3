"""What a norm layer alone costs, forward and backward, over all places where the network has one."""

from __future__ import annotations

import pandas as pd

from normbench.analysis.clocks import basis_of
from normbench.analysis.stats import median_ratio, with_interval
from normbench.analysis.tables.table import BASELINE, Table, times

NOTE = (
    "Each norm layer alone, summed over the network's sites ({sites}), median over {rounds} rounds in turns; relative "
    "to bn: forward and backward in the same layout and mode, median of the rounds' ratios, {interval}. "
)


def layers_table(rounds: pd.DataFrame) -> Table:
    """A row for each norm, layout and mode; `rounds` as `layers.csv` has them."""
    number, sites = rounds["round"].nunique(), ", ".join(rounds["site"].unique())
    return Table(
        "What a norm layer costs",
        layers(rounds),
        _shown(layers(rounds)),
        NOTE.format(rounds=number, sites=sites, interval=with_interval(number)) + basis_of(rounds) + ".",
    )


def layers(rounds: pd.DataFrame) -> pd.DataFrame:
    """Columns: batch_size, norm, layout, mode; seconds forward and backward, summed over sites, and relative to bn."""
    keys = ["batch_size", "layout", "mode", "norm"]
    sums = rounds.groupby([*keys, "part", "round"], sort=False)["seconds"].sum().unstack("part")
    groups = {key: table.droplevel([0, 1, 2, 3]) for key, table in sums.groupby(keys, sort=False)}
    rows = []
    for (batch_size, layout, mode, norm), table in groups.items():
        of_bn = groups.get((batch_size, layout, mode, BASELINE))
        ratio = None if of_bn is None else median_ratio(table["both"].to_dict(), of_bn["both"].to_dict())
        forward, backward = table["forward"].median(), (table["both"] - table["forward"]).median()
        rows.append((batch_size, norm, layout, mode, forward, backward, times(ratio)))
    names = ["batch_size", "norm", "layout", "mode", "forward_seconds", "backward_seconds", "relative_to_bn"]
    return pd.DataFrame(rows, columns=names)


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    shown = data.rename(columns=lambda name: name.replace("_seconds", "").replace("_", " "))
    for part in ("forward", "backward"):
        shown[part] = [f"{1000 * value:.2f} ms" for value in data[f"{part}_seconds"]]
    return shown.astype(str)
