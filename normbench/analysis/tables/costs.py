"""Table of the costs of a training step under each norm: time and memory, by a bench."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import pandas as pd

from normbench.analysis.captions import in_words as rounds_in_words
from normbench.analysis.captions import machine, networks
from normbench.analysis.settings import varying_settings
from normbench.analysis.stats import median_ratio, with_interval
from normbench.analysis.study import BASELINE
from normbench.analysis.tables.table import Table, in_words, ratio_columns, show_ratios
from normbench.timing.rounds import setting_columns, shared_columns

MIB = 2**20
SECTIONS = ("runtime.", "norm.options.", "norm.", "model.", "data.", "train.")
BYTES = ("peak_bytes", "saved_bytes", "state_bytes")
NOTE = (
    "Medians over {rounds} rounds, in which all of one batch size took their turns; relative to "
    "bn: the median of the rounds' ratios at otherwise the same settings, which is not the ratio "
    "of the medians where the machine's speed drifts, {interval}. Peak: the most that tensors take "
    "in a step beyond what lasts; saved: what a forward pass keeps for the backward pass; state: "
    "weights, buffers, optimizer. Times are of this network ({networks}), not of the norm as such. "
)
COMPILATION = "Compilation: less where the compiler's own cache helps. "
Seconds = dict[Any, float]  # by race and round


def costs_table(rounds: pd.DataFrame) -> Table:
    """A row for each contestant of a bench."""
    data = costs(rounds)
    number = rounds_in_words(data["rounds"])
    note = NOTE.format(
        rounds=number,
        interval=with_interval(data["rounds"]),
        networks=networks(rounds.to_dict("records")),
    )
    if data["compile_seconds"].any():
        note += COMPILATION
    return Table("What a training step costs", data, _readable(data), f"{note}{machine(rounds)}.")


def costs(rounds: pd.DataFrame) -> pd.DataFrame:
    """A row for each contestant, in the order of the rounds.

    norm, batch_size, and varying settings by short names; seconds of a step (median), the
    columns RATIO relative to bn at the same shared settings, rounds; images_per_second;
    compile_seconds; peak_bytes, saved_bytes, state_bytes.
    """
    contestants = {str(cost): of_it for cost, of_it in rounds.groupby("cost_id", sort=False)}
    names = setting_columns(rounds)
    varying = _varying({cost: _known(of_it[names]) for cost, of_it in contestants.items()})
    baseline = _baseline(contestants, shared_columns(rounds))
    rows = []
    for place, of_it in enumerate(contestants.values()):
        settings = {name: values[place] for name, values in varying.items()}
        of_bn = baseline.get(_place(of_it, shared_columns(rounds)), {})
        rows.append(_row(of_it, settings, of_bn))
    return pd.DataFrame(rows)


def _baseline(contestants: Mapping[str, pd.DataFrame], shared: list[str]) -> dict[Any, Seconds]:
    """The seconds of bn at each choice of shared settings; none where bn was timed twice."""
    found: dict[Any, list[Seconds]] = {}
    for of_it in contestants.values():
        if of_it["norm.name"].iloc[0] == BASELINE:
            found.setdefault(_place(of_it, shared), []).append(_by_round(of_it))
    return {place: seconds[0] for place, seconds in found.items() if len(seconds) == 1}


def _place(of_it: pd.DataFrame, columns: list[str]) -> tuple[Any, ...]:
    return tuple(of_it[columns].iloc[0])


def _row(of_it: pd.DataFrame, settings: dict[str, str], of_bn: Seconds) -> dict[str, object]:
    first, seconds = of_it.iloc[0], _by_round(of_it)
    step = median(seconds.values())
    images = int(first["batch_size"]) * int(first["train.accumulate"])
    return {
        "norm": first["norm.name"],
        "batch_size": int(first["batch_size"]),
        **settings,
        "seconds": step,
        **ratio_columns(median_ratio(seconds, of_bn)),
        "rounds": len(seconds),
        "images_per_second": images / step,
        "compile_seconds": first["compile_seconds"],
        **{name: first[name] for name in BYTES},
    }


def _known(settings: pd.DataFrame) -> dict[str, Any]:
    """The settings of a contestant, without "" for settings of other norms."""
    first = settings.iloc[0].items()
    return {str(name): value for name, value in first if value != ""}


def _varying(configs: Mapping[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Settings that vary within a norm, and varying settings of the runtime."""
    one_norm = {cost: config | {"norm.name": ""} for cost, config in configs.items()}
    found = varying_settings(configs, configs)
    for name, values in varying_settings(one_norm, one_norm).items():
        if name.startswith("runtime."):
            found[name] = values
    return {_short(name): values for name, values in found.items()}


def _short(name: str) -> str:
    """A setting without the section: `channels last`."""
    for section in SECTIONS:
        name = name.removeprefix(section)
    return name.replace("_", " ")


def _by_round(of_it: pd.DataFrame) -> Seconds:
    rounds = zip(of_it["race"], of_it["round"], strict=True)
    return dict(zip(rounds, of_it["seconds"], strict=True))


def _readable(data: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(dict(_columns(data))).astype(str)


def _columns(data: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """The readable columns: settings, then figures with units."""
    settings = data.loc[:, :"seconds"].columns[:-1]
    for name in settings:
        yield in_words(str(name)), data[name]
    yield "step", [f"{1000 * value:.1f} ms" for value in data["seconds"]]
    yield f"relative to {BASELINE}", show_ratios(data)
    yield "images/s", [f"{value:.0f}" for value in data["images_per_second"]]
    if data["compile_seconds"].any():
        yield "compilation", [f"{value:.0f} s" for value in data["compile_seconds"]]
    for name in BYTES:
        yield name.removesuffix("_bytes"), [f"{value / MIB:.1f} MiB" for value in data[name]]
