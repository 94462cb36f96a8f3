"""What a norm layer alone costs, forward and backward, over all places where the network has one."""

from __future__ import annotations

import pandas as pd

from normbench.analysis.stats import median_ratio, with_interval
from normbench.analysis.tables.table import BASELINE, RATIO, Table, ratio_columns, ratios_as_text
from normbench.timing.rounds import basis_of

NOTE = (
    "Each norm layer alone, summed over the network's sites ({sites}), median over {rounds} rounds in turns; relative "
    "to bn: forward and backward in the same layout and mode, median of the rounds' ratios, {interval}. "
)
WITH_ACTIVATION = "With an activation of its own, which the others leave to the network: {norms}. "


def layers_table(rounds: pd.DataFrame) -> Table:
    """A row for each norm, layout and mode; `rounds` as `layers.csv` has them."""
    data, number, sites = (
        layers(rounds),
        rounds["round"].nunique(),
        ", ".join(rounds["site"].unique()),
    )
    note = NOTE.format(rounds=number, sites=sites, interval=with_interval([number]))
    if (own := rounds.loc[rounds["own_activation"], "norm"].unique()).size:
        note += WITH_ACTIVATION.format(norms=", ".join(own))
    return Table("What a norm layer costs", data, _shown(data), note + basis_of(rounds) + ".")


def layers(rounds: pd.DataFrame) -> pd.DataFrame:
    """One row for each norm, layout and mode.

    Columns: batch_size, norm, layout, mode; forward_seconds and backward_seconds, medians summed over sites;
    relative_time (both ways, over bn's), its interval from low to high.
    """
    keys = ["batch_size", "layout", "mode", "norm"]
    sums = rounds.groupby([*keys, "part", "round"], sort=False)["seconds"].sum().unstack("part")
    groups = {key: table.droplevel([0, 1, 2, 3]) for key, table in sums.groupby(keys, sort=False)}
    rows = []
    for (batch_size, layout, mode, norm), table in groups.items():
        of_bn = groups.get((batch_size, layout, mode, BASELINE))
        ratio = median_ratio(
            table["both"].to_dict(), {} if of_bn is None else of_bn["both"].to_dict()
        )
        forward, backward = table["forward"].median(), (table["both"] - table["forward"]).median()
        place = {"batch_size": batch_size, "norm": norm, "layout": layout, "mode": mode}
        rows.append(
            place
            | {"forward_seconds": forward, "backward_seconds": backward}
            | ratio_columns(ratio)
        )
    return pd.DataFrame(rows)


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    shown = data.drop(columns=RATIO).rename(
        columns=lambda name: name.replace("_seconds", "").replace("_", " ")
    )
    for part in ("forward", "backward"):
        shown[part] = [f"{1000 * value:.2f} ms" for value in data[f"{part}_seconds"]]
    return shown.assign(**{"relative to bn": ratios_as_text(data)}).astype(str)
