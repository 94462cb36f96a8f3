"""What a training step costs under each norm, as `normbench bench` timed it: time, relative to bn, and memory."""

from __future__ import annotations

from statistics import median
from typing import Any

import pandas as pd

from normbench.analysis.frames import settings_that_vary
from normbench.analysis.stats import median_ratio, with_interval
from normbench.analysis.tables.table import BASELINE, Table, ratio_columns, ratios_as_text
from normbench.timing.rounds import basis_of, columns_of_settings, in_words

MIB = 2**20
SHORT = {
    "runtime.": "",
    "norm.options.": "",
    "norm.": "",
    "model.": "",
    "data.": "",
    "train.": "",
    "_": " ",
}
NOTE = (
    "Medians over {rounds} rounds, in which all of one batch size took their turns; relative to bn: the median of the "
    "rounds' ratios at otherwise the same settings, which is not the ratio of the medians where the machine's speed "
    "drifts, {interval}. Peak: the most that tensors take in a step beyond what lasts; saved: what a forward pass "
    "keeps for the backward pass; state: weights, buffers, optimizer. "
)
COMPILATION = "Compilation: less where the compiler's own cache helps. "


def costs_table(rounds: pd.DataFrame) -> Table:
    """A row for each configuration that was timed; `rounds` as `bench.csv` has them."""
    data = costs(rounds)
    note = NOTE.format(rounds=in_words(data["rounds"]), interval=with_interval(data["rounds"]))
    if data["compile_seconds"].any():
        note += COMPILATION
    return Table("What a training step costs", data, _shown(data), note + basis_of(rounds) + ".")


def costs(rounds: pd.DataFrame) -> pd.DataFrame:
    """One row for each configuration, in the order of the rounds.

    Columns: norm, batch_size, the settings that vary; seconds (median step), relative_time (median over rounds of the
    seconds over bn's at the same other settings), its interval from low to high, rounds; images_per_second;
    compile_seconds; peak_bytes, saved_bytes and state_bytes.
    """
    names = columns_of_settings(rounds)
    groups = [group for _, group in rounds.groupby(names, sort=False)]
    varying = _varying([_known(group[names].iloc[0]) for group in groups])
    shared = [name for name in names if not name.startswith("norm.")]
    others = [tuple(group[shared].iloc[0]) for group in groups]
    bn = [
        place
        for place, group in zip(others, groups, strict=True)
        if group["norm.name"].iloc[0] == BASELINE
    ]
    of_bn = {  # of two kinds of bn at the same other settings none is the one to relate to
        place: _by_round(group)
        for place, group in zip(others, groups, strict=True)
        if group["norm.name"].iloc[0] == BASELINE and bn.count(place) == 1
    }
    rows = [
        _row(group, {name: column[i] for name, column in varying.items()}, of_bn.get(place, {}))
        for i, (place, group) in enumerate(zip(others, groups, strict=True))
    ]
    return pd.DataFrame(rows)


def _row(
    group: pd.DataFrame, settings: dict[str, str], of_bn: dict[Any, float]
) -> dict[str, object]:
    first = group.iloc[0]
    seconds = _by_round(group)
    ratio = median_ratio(seconds, of_bn)
    step, images = (
        median(seconds.values()),
        int(first["batch_size"]) * int(first["train.accumulate"]),
    )
    return {
        "norm": first["norm.name"],
        "batch_size": int(first["batch_size"]),
        **settings,
        "seconds": step,
        **ratio_columns(ratio),
        "rounds": len(seconds),
        "images_per_second": images / step,
        **{
            name: first[name]
            for name in ("compile_seconds", "peak_bytes", "saved_bytes", "state_bytes")
        },
    }


def _known(settings: pd.Series[Any]) -> dict[str, Any]:
    return {str(name): value for name, value in settings.items() if value != ""}


def _varying(settings: list[dict[str, str]]) -> dict[str, list[str]]:
    """The settings in which configurations of one norm differ, and any in the runtime of all, by short names."""
    configs = {str(i): one for i, one in enumerate(settings)}
    without_norm = {place: one | {"norm.name": ""} for place, one in configs.items()}
    between = settings_that_vary(without_norm, without_norm)
    columns = settings_that_vary(configs, configs) | {
        key: between[key] for key in between if key.startswith("runtime.")
    }
    return {_short(name): column for name, column in columns.items()}


def _short(name: str) -> str:
    for long, short in SHORT.items():
        name = name.replace(long, short)
    return name


def _by_round(group: pd.DataFrame) -> dict[Any, float]:
    return dict(zip(zip(group["race"], group["round"], strict=True), group["seconds"], strict=True))


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    first = data.columns.get_loc("seconds")
    assert isinstance(first, int)
    shown = {
        **{str(name).replace("_", " "): data[name] for name in data.columns[:first]},
        "step": [f"{1000 * value:.1f} ms" for value in data["seconds"]],
        "relative to bn": ratios_as_text(data),
        "images/s": [f"{value:.0f}" for value in data["images_per_second"]],
        **(
            {"compilation": [f"{v:.0f} s" for v in data["compile_seconds"]]}
            if data["compile_seconds"].any()
            else {}
        ),
        **{
            name: [f"{v / MIB:.1f} MiB" for v in data[f"{name}_bytes"]]
            for name in ("peak", "saved", "state")
        },
    }
    return pd.DataFrame(shown).astype(str)
