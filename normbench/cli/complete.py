"""What Tab completes on the command line, read from folders alone: it loads no torch and no Hydra.

A shell may keep `norm=g` whole, as zsh and fish do, or part it into `norm`, `=` and `g`, as bash
does; what is completed is the last of these words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer import Context

Complete = Callable[[Context, str], list[str]]

TABLES = (
    "appearance",
    "batch-size",
    "comparison",
    "evaluations",
    "feature-shift",
    "leaderboard",
    "learning-rate",
    "pairs",
    "shares",
    "source",
    "target",
)
FIGURES = ("batch-size", "epochs", "learning-rate", "loss", "norms", "pareto", "pictures", "time")
LAUNCHERS = ("inline", "processes", "ray", "slurm")
SIZES = ("column", "page", "slide")
RUNS = Path("results/runs")  # where runs are unless told
LISTS = ("overrides", "study", "options")  # parameters of commands that take settings


def words(names: Iterable[str]) -> Complete:
    """Completes one of these names."""

    def complete(ctx: Context, incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def choices(group: str) -> Complete:
    """Completes the names of a config group: norms, models, data."""

    def complete(ctx: Context, incomplete: str) -> list[str]:
        from normbench.config.compose import groups

        return words(groups()[group])(ctx, incomplete)

    return complete


def values(key: str) -> Complete:
    """Completes the values of a setting that takes a few."""

    def complete(ctx: Context, incomplete: str) -> list[str]:
        return words(_values(key))(ctx, incomplete)

    return complete


def settings(ctx: Context, incomplete: str) -> list[str]:
    """Completes `key=` and `key=value`, also the last value of `key=a,b`."""
    given = [*next((ctx.params[name] or () for name in LISTS if name in ctx.params), ())]
    joined = _joined(given)
    if "=" in incomplete:
        key, _, value = incomplete.partition("=")
        return [f"{key}={found}" for found in _listed(key, value)]
    if given[-1:] == ["="] and len(given) > 1:
        return _listed(given[-2], incomplete)
    keys = _keys(joined, ctx.params)
    # bash gives the = of `norm=` as the word to complete, of which typer makes an empty one.
    if not incomplete and given and given[-1] in keys:
        return _listed(given[-1], "")
    if "." in incomplete:
        return [f"{key}=" for key in keys if key.startswith(incomplete)]
    sections = [key for key in keys if "." not in key and key.startswith(incomplete)]
    dotted = [key for key in keys if "." in key and incomplete and key.startswith(incomplete)]
    return [f"{key}=" for key in sections + dotted]


def studies_and_settings(ctx: Context, incomplete: str) -> list[str]:
    """Completes the studies of configs/sweep/ and settings."""
    from normbench.config.compose import config_dir, studies

    found = settings(ctx, incomplete)
    is_value = any("=" not in one for one in found)
    named = [name for name in studies(config_dir()) if name.startswith(incomplete)]
    return found if is_value or "=" in incomplete else named + found


def runs(ctx: Context, incomplete: str) -> list[str]:
    """Completes the ids of runs in the folder of runs."""
    folder = Path(ctx.params.get("runs_dir") or RUNS).expanduser()
    if not folder.is_dir():
        return []
    names = sorted(entry.name for entry in folder.iterdir() if (entry / "config.yaml").exists())
    return words(names)(ctx, incomplete)


def _joined(given: Sequence[str]) -> list[str]:
    """The settings with the parts that bash makes put together."""
    return " ".join(given).replace(" = ", "=").split(" ")


def _listed(key: str, incomplete: str) -> list[str]:
    """The values of a key, each after those that stand before the last comma."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    free = [value for value in _values(key) if value.startswith(last) and value not in taken]
    return [f"{before}{comma}{value}" for value in free]


def _values(key: str) -> list[str]:
    from normbench.config.compose import groups
    from normbench.config.grammar import SHORT
    from normbench.config.schema import RunConfig

    if key in groups():
        return [*groups()[key]]
    section, _, name = SHORT.get(key, key).partition(".")
    if section not in RunConfig.model_fields:
        return []
    fields = getattr(RunConfig.model_fields[section].annotation, "model_fields", {})
    kind = fields[name].annotation if name in fields else None
    if kind is bool:
        return ["true", "false"]
    return [*get_args(kind)] if get_origin(kind) is Literal else []


def _keys(given: Sequence[str], options: dict[str, Any]) -> list[str]:
    """Every key that can be set beside what is given: groups, settings, options of the choices."""
    from normbench.config.compose import config_dir, groups

    content = _read(config_dir() / "train.yaml")
    chosen: dict[str, str] = {}
    for entry in content.pop("defaults"):
        chosen |= entry if isinstance(entry, dict) else {}
    for group in groups():
        if isinstance(options.get(group), str):
            chosen[group] = options[group]
    chosen |= dict(setting.split("=", 1) for setting in given if "=" in setting)
    keys = [*groups()]
    for key, value in content.items():
        keys += [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]
    for group in groups():
        for name in chosen[group].split(","):
            file = config_dir() / group / f"{name}.yaml"
            keys += [f"{group}.{key}" for key in _options(file) if key != "name"]
    return [*dict.fromkeys(keys)]


def _options(file: Path) -> list[str]:
    """The keys of a file of a group and of the files that it includes."""
    if not file.is_file():
        return []
    content = _read(file)
    keys: list[str] = []
    for included in content.pop("defaults", ()):
        if included != "_self_":
            keys += _options(file.with_name(f"{included}.yaml"))
    return [*keys, *content]


def _read(file: Path) -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(file.read_text()))
