"""The basis of tables and figures in words: data, seeds, machine, versions, commit, times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from normbench.analysis.images import seeds_draw, training_images
from normbench.analysis.settings import PROCESSES, describe
from normbench.analysis.stats import LEAST_PROCESSES
from normbench.analysis.study import BASELINE, Study
from normbench.analysis.times import num_processes
from normbench.config.schema import in_processes
from normbench.text import counted
from normbench.timing.rounds import shared_columns

EDGE = " (the edge of what was tried)"
UNTIMED = "Times are not measured here: normbench bench does that."
UNKNOWN_TIMES = "Times are not known: none of these runs has settings that were timed."

# Networks that publications know by their depth.
PUBLISHED_AS = {"resnet": "ResNet", "vgg": "VGG"}


def caption(study: Study) -> str:
    """What tables of the runs rest on: data, images, epochs, seeds, machine, versions, commit."""
    runs, done = study.runs, study.done.runs
    if done.empty:
        return f"None of {counted(len(runs), 'run')} finished."
    finished = counted(len(runs), "run")
    if len(done) < len(runs):
        finished = f"{len(done)} of {len(runs)} runs finished"
    basis = (
        f"Data {distinct(runs, 'data')}, {trained_on(study)}{epochs(done)}, final epoch; "
        f"{finished}, {_spread(study)} "
        f"{distinct(runs, 'device')}, threads: {distinct(runs, 'threads')}, "
        f"{distinct(runs, 'precision')}, torch {distinct(runs, 'torch')}, commit {commits(runs)}."
    )
    return " ".join([basis, *shared_out(study), *not_comparable(study)])


def basis(study: Study) -> tuple[str, ...]:
    """The caption, and the chosen learning rates where there are any."""
    return tuple(filter(None, [caption(study), chosen_rates(study)]))


def batch_sizes(study: Study) -> list[str]:
    """The batch sizes of the runs in words: `1`, `8`, `2 a process, 4 processes`."""
    found: dict[tuple[int, int], None] = {}
    for run, size in zip(study.runs["run"], study.runs["batch_size"], strict=True):
        processes = study.configs.get(run, {}).get(PROCESSES, 1)
        found[processes, int(size)] = None
    return [in_processes(size, processes) for processes, size in sorted(found)]


def shared_out(study: Study) -> list[str]:
    """A sentence on the batch sizes of runs of several processes; none without such runs."""
    several = [size for size in batch_sizes(study) if not size.isdecimal()]
    return [f"Batch sizes are of each process: {'; '.join(several)}."] if several else []


def not_comparable(study: Study) -> list[str]:
    """A sentence for each norm whose figures are not comparable, with the reason."""
    return [
        f"{norm} {defects}: its figures are not comparable, so there is no verdict on it."
        for norm, defects in study.broken.items()
    ]


def unfinished(study: Study) -> tuple[str, ...]:
    """A line for each kind of run without a result: settings, number, state, reason."""
    keys = ["norm", *study.settings, "status", "reason"]
    varying = study.varying(study.settings)
    lines = []
    for _, group in study.unfinished.runs.groupby(keys, sort=False, dropna=False):
        first = group.iloc[0]
        what = [str(first["norm"])]
        if varying:
            what.append(describe({name: first[name] for name in varying}))
        reason = first["reason"]
        why = f": {' '.join(reason.split())}" if isinstance(reason, str) else ""
        lines.append(f"{', '.join(what)}: {len(group)} {first['status']}{why}")
    return tuple(lines)


def chosen_rates(study: Study) -> str:
    """The chosen learning rates in words; empty without a choice."""
    design = study.design
    if design is not None and design.tuned_by is not None:
        trained = {*zip(study.runs["norm"], study.runs["batch_size"], strict=True)}
        rates = [rate for rate in design.rates if (rate.norm, rate.batch_size) in trained]
        by_size: dict[int, list[str]] = {}
        for rate in sorted(rates, key=lambda rate: (rate.batch_size, rate.place)):
            edge = EDGE if rate.is_edge else ""
            place = f" at {describe(rate.at)}" if rate.at else ""
            told_rate = f"{rate.norm} {rate.lr:g}{place}{edge}"
            by_size.setdefault(rate.batch_size, []).append(told_rate)
        told = [f"at batch size {size} {', '.join(by_size[size])}" for size in by_size]
        return (
            f"Learning rates are those that {design.tuned_by} chose on held-out training images, "
            f"with seeds of its own: {'; '.join(told)}."
        )
    if not study.chooses_rates:
        return ""
    varying = [name for name in study.varying(study.settings) if name != "lr"]
    told = []
    for row in study.best_rates.sort_index().to_dict("records"):
        place = describe({name: row[name] for name in varying})
        edge = EDGE if row["is_edge"] else ""
        told.append(f"{row['norm']} {row['lr']:g}" + (f" at {place}" if place else "") + edge)
    chosen = ", ".join(told)
    return f"Learning rates are those that were best on held-out training images: {chosen}."


def time_note(study: Study) -> str:
    """The basis of times in a table, or the reason for their absence."""
    if not study.clocks:
        return UNTIMED if study.bench.empty else UNKNOWN_TIMES
    clocks = study.clocks.values()
    rounds = in_words(map(len, clocks))
    return (
        "Time per epoch is a training step's median, without evaluation, times the steps; "
        "relative to bn: the median of the rounds' ratios (not the ratio of medians), "
        f"{over_processes(map(num_processes, clocks))}; timed in turns, {rounds} rounds, "
        f"on {machine(study.bench)}. Times are of this study's network ({timed_networks(study)}), "
        f"not of the norm as such.{_timed_apart(study)}"
    )


def timed_networks(study: Study) -> str:
    """The networks of the runs that were timed: `normresnet, widths 16, 32`."""
    return networks(study.configs[run] for run in study.clocks)


def networks(configs: Iterable[Mapping[Any, Any]]) -> str:
    """The networks of configurations or rounds, with dotted keys, each once.

    A norm's share of a step depends on the network: on a small one the same norm costs another
    ratio than on the default one.
    """
    return " / ".join(dict.fromkeys(map(_network, configs)))


def _network(config: Mapping[Any, Any]) -> str:
    """A network as publications name it, `ResNet-20 with projection shortcuts`, where they do."""
    name = str(config["model.name"])
    depth = config.get("model.depth")
    if name in PUBLISHED_AS and depth:
        has_projection = config.get("model.shortcut") == "projection"
        shortcut = " with projection shortcuts" if has_projection else ""
        return f"{PUBLISHED_AS[name]}-{depth}{shortcut}"
    widths = str(config.get("model.widths", "")).strip("[]")
    return f"{name}, widths {widths}" if widths else name


def machine(rounds: pd.DataFrame) -> str:
    """The machine, versions and commit of rounds."""
    known = []
    for device, of_device in rounds.groupby("device", sort=False):
        known.append(f"{device}, threads: {distinct(of_device, 'threads')}")
    return f"{'; '.join(known)}, torch {distinct(rounds, 'torch')}, commit {commits(rounds)}"


def in_words(numbers: Iterable[int]) -> str:
    """Numbers of rounds: `25`, or `3 or 25` where a bench was interrupted."""
    return " or ".join(map(str, sorted({*numbers})))


def over_processes(numbers: Iterable[int]) -> str:
    """How many processes ratios of times are of, and whether these give them an interval."""
    known = {*numbers}
    if max(known) < LEAST_PROCESSES:
        return (
            f"of {processes(known)}, without an interval, which takes {LEAST_PROCESSES} processes, "
            "since they differ by more than rounds"
        )
    where = "" if min(known) >= LEAST_PROCESSES else f" where there are {LEAST_PROCESSES}"
    return f"averaged over {processes(known)}, with its 95 % Student-t interval over them{where}"


def processes(numbers: Iterable[int]) -> str:
    """Numbers of processes in words: `one process`, `1 or 5 processes`."""
    words = in_words(numbers)
    return "one process" if words == "1" else f"{words} processes"


def seeds(number: int) -> str:
    """A number of seeds in words: `2 seeds`."""
    return "one seed" if number == 1 else f"{number} seeds"


def epochs(runs: pd.DataFrame) -> str:
    """The epochs of runs: `5 epochs`, or `1 / 5 epochs` where runs differ."""
    values = distinct(runs, "epochs")
    return "1 epoch" if values == "1" else f"{values} epochs"


def distinct(table: pd.DataFrame, column: str) -> str:
    """The values of a column, each once."""
    return " / ".join(map(str, table[column].dropna().unique()))


def commits(table: pd.DataFrame) -> str:
    """The commits of the code, with + for changed files."""
    known: dict[str, None] = {}
    began_runs = table.loc[table["torch"].notna(), ["commit", "dirty"]].drop_duplicates()
    for began in began_runs.to_dict("records"):
        text = "of an installed package"
        if isinstance(began["commit"], str) and began["commit"]:
            text = began["commit"][:12] + ("+" if began["dirty"] else "")
        known[text] = None
    return " / ".join(known)


def trained_on(study: Study) -> str:
    """The training images for a list, with a comma; empty where none are known."""
    images = training_images(study.done)
    return f"{images}, " if images else ""


def _spread(study: Study) -> str:
    number = study.done.runs["seed"].nunique()
    if number == 1:
        return "one seed each, so nothing is said of the spread over seeds."
    interval = "± is the 95 % Student-t interval over them"
    return f"{seeds(number)}; {interval}; {seeds_draw(study.done)}."


def _timed_apart(study: Study) -> str:
    """Norms without a ratio, since bn was timed under different settings."""
    costs = {study.environments[run]["cost_id"] for run in study.clocks}
    timed = study.bench[study.bench["cost_id"].isin(costs)].drop_duplicates("cost_id")
    shared = timed[shared_columns(timed)].apply(tuple, axis=1)
    is_bn = timed["norm.name"] == BASELINE
    is_apart = ~shared.isin(shared[is_bn])
    is_apart &= timed["batch_size"].isin(timed.loc[is_bn, "batch_size"])
    apart = timed[is_apart]
    named = "norm.name", "batch_size"
    names = [f"{norm} at batch {size}" for norm, size in apart[[*named]].itertuples(index=False)]
    if not names:
        return ""
    return f" In other settings than bn, so not related to it: {', '.join(dict.fromkeys(names))}."
