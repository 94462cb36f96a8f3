"""Table of the costs of norm layers alone, forward and backward, over all sites."""

from __future__ import annotations

import pandas as pd

from normbench.analysis.captions import in_words as rounds_in_words
from normbench.analysis.captions import machine, over_processes
from normbench.analysis.stats import ratio_over_processes
from normbench.analysis.study import BASELINE
from normbench.analysis.tables.table import Table, in_words, ratio_columns, show_ratios

NOTE = (
    "Each norm layer alone, summed over the network's sites ({sites}), median over {rounds} rounds "
    "in turns; relative to bn: forward and backward in the same layout and mode, median of the "
    "rounds' ratios, {interval}. "
)
WITH_ACTIVATION = "With an activation of its own, which the others leave to the network: {norms}. "


def layers_table(rounds: pd.DataFrame) -> Table:
    """A row for each norm, layout and mode; `rounds` as layers.csv has them."""
    data = layers(rounds)
    note = NOTE.format(
        rounds=rounds_in_words(data["rounds"]),
        sites=", ".join(rounds["site"].unique()),
        interval=over_processes(data["processes"]),
    )
    own = rounds.loc[rounds["own_activation"], "norm"].unique()
    if own.size:
        note += WITH_ACTIVATION.format(norms=", ".join(own))
    return Table("What a norm layer costs", data, _readable(data), f"{note}{machine(rounds)}.")


def layers(rounds: pd.DataFrame) -> pd.DataFrame:
    """A row for each batch_size, norm, layout and mode.

    forward_seconds, backward_seconds: medians of the sums over sites. The columns RATIO: forward
    and backward together, relative to bn; rounds, and the processes that they are of.
    """
    keys = ["batch_size", "norm", "layout", "mode"]
    place = [*keys, "part", "race", "round"]
    sums = rounds.groupby(place, sort=False)["seconds"].sum().unstack("part")
    both = {}
    for key, table in sums.reset_index().groupby(keys):
        turns = zip(table["race"], table["round"], strict=True)
        both[key] = dict(zip(turns, table["both"], strict=True))
    rows = []
    for key, table in sums.groupby(keys, sort=False):
        batch_size, _, layout, mode = key
        row = dict(zip(keys, key, strict=True))
        row["forward_seconds"] = table["forward"].median()
        row["backward_seconds"] = (table["both"] - table["forward"]).median()
        of_bn = both.get((batch_size, BASELINE, layout, mode), {})
        row |= ratio_columns(ratio_over_processes(both[key], of_bn))
        races = table.index.get_level_values("race")
        rows.append(row | {"rounds": len(races), "processes": races.nunique()})
    return pd.DataFrame(rows)


def _readable(data: pd.DataFrame) -> pd.DataFrame:
    shown = data[["batch_size", "norm", "layout", "mode"]].rename(columns=in_words)
    for part in ("forward", "backward"):
        shown[part] = (1000 * data[f"{part}_seconds"]).map("{:.2f} ms".format)
    shown[f"relative to {BASELINE}"] = show_ratios(data)
    return shown.astype(str)
