"""Table of the costs of a training step under each norm: time and memory, by a bench."""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import median
from typing import Any

import pandas as pd

from normbench.analysis.captions import in_words as rounds_in_words
from normbench.analysis.captions import machine, networks, over_processes
from normbench.analysis.settings import varying_settings
from normbench.analysis.stats import ratio_over_processes
from normbench.analysis.study import BASELINE
from normbench.analysis.tables.table import Table, in_words, ratio_columns, show_ratios
from normbench.analysis.times import clock_of, num_processes, united
from normbench.timing.rounds import setting_columns, shared_columns

MIB = 2**20
SECTION = re.compile(r"^(runtime|norm\.options|norm|model|data|train)\.")
BYTES = ("peak_bytes", "saved_bytes", "state_bytes")
NOTE = (
    "Medians over {rounds} rounds, in which all of one batch size took their turns; relative to "
    "bn: the median of the rounds' ratios at otherwise the same settings (not the ratio of the "
    "medians, where the machine's speed drifts), {interval}. Peak: the most that tensors take "
    "in a step beyond what lasts; saved: what a forward pass keeps for the backward pass; state: "
    "weights, buffers, optimizer. Times are of this network ({networks}), not of the norm as such. "
)
COMPILATION = "Compilation: less where the compiler's own cache helps. "


def costs_table(rounds: pd.DataFrame) -> Table:
    """A row for each contestant of a bench."""
    data = costs(rounds)
    note = NOTE.format(
        rounds=rounds_in_words(data["rounds"]),
        interval=over_processes(data["processes"]),
        networks=networks(rounds.to_dict("records")),
    )
    if data["compile_seconds"].any():
        note += COMPILATION
    return Table("What a training step costs", data, _readable(data), f"{note}{machine(rounds)}.")


def costs(rounds: pd.DataFrame) -> pd.DataFrame:
    """A row for each contestant, in the order of the rounds.

    norm, batch_size, and varying settings by short names; seconds of a step (median), the
    columns RATIO relative to bn at the same shared settings; rounds, and the processes that they
    are of; images_per_second; compile_seconds; peak_bytes, saved_bytes, state_bytes.
    """
    clocks, firsts = {}, {}
    for cost, of_it in rounds.groupby("cost_id", sort=False):
        clocks[str(cost)] = clock_of(of_it, shared_columns(rounds))
        firsts[str(cost)] = of_it.iloc[0]
    is_bn = {cost: first["norm.name"] == BASELINE for cost, first in firsts.items()}
    of_bn = united([clock for cost, clock in clocks.items() if is_bn[cost]])
    varying = _varying({cost: _known(firsts[cost]) for cost in firsts})
    rows = []
    for place, (cost, first) in enumerate(firsts.items()):
        clock, batch_size = clocks[cost], int(first["batch_size"])
        seconds = median(clock.values())
        row = {"norm": first["norm.name"], "batch_size": batch_size}
        row |= {name: values[place] for name, values in varying.items()}
        row |= {"seconds": seconds, **ratio_columns(ratio_over_processes(clock, of_bn))}
        row |= {
            "rounds": len(clock),
            "processes": num_processes(clock),
            "images_per_second": batch_size * int(first["train.accumulate"]) / seconds,
        }
        rows.append(row | first[["compile_seconds", *BYTES]].to_dict())
    return pd.DataFrame(rows)


def _known(first: pd.Series) -> dict[str, Any]:
    return {name: first[name] for name in setting_columns(first.index) if first[name] != ""}


def _varying(configs: Mapping[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Settings that vary within a norm, and varying settings of the runtime, by short names."""
    one_norm = {cost: config | {"norm.name": ""} for cost, config in configs.items()}
    found = varying_settings(configs, configs)
    for name, values in varying_settings(one_norm, one_norm).items():
        if name.startswith("runtime."):
            found[name] = values
    return {SECTION.sub("", name).replace("_", " "): values for name, values in found.items()}


def _readable(data: pd.DataFrame) -> pd.DataFrame:
    shown = data.loc[:, :"seconds"].iloc[:, :-1].rename(columns=in_words)
    shown["step"] = (1000 * data["seconds"]).map("{:.1f} ms".format)
    shown[f"relative to {BASELINE}"] = show_ratios(data)
    shown["images/s"] = data["images_per_second"].map("{:.0f}".format)
    if data["compile_seconds"].any():
        shown["compilation"] = data["compile_seconds"].map("{:.0f} s".format)
    for name in BYTES:
        shown[name.removesuffix("_bytes")] = (data[name] / MIB).map("{:.1f} MiB".format)
    return shown.astype(str)
