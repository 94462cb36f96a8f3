"""`train` and `sweep` in Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normbench.config.compose import compose
from normbench.config.grammar import SHORT
from normbench.errors import NormbenchError
from normbench.interface.results import Run, Runs
from normbench.users_code import given_name

Settings = Mapping[str, Any]


def train(settings: Settings | None = None, /, *, restart: bool = False, **given: Any) -> Run:
    """Trains a run, resumes it, or returns it where it is finished, as `normbench train`.

    restart: begins anew, whatever is there. Raises NormbenchError for wrong settings, before any
    work.
    """
    from normbench.training.run import execute

    flags = {}
    for key, value in _settings(settings, given).items():
        flags[key] = _name(key, value)
    return Run(execute(compose((), flags), restart=restart).path)


def sweep(
    study: str | Settings | None = None,
    /,
    *,
    jobs: int | None = None,
    launcher: str | None = None,
    retry_failed: bool = False,
    restart: bool = False,
    **given: Any,
) -> Runs:
    """Trains every combination of settings, as `normbench sweep`; finished runs are not repeated.

    A list or range is an axis; a setting that is itself a list stands in a list. study: a study of
    configs/sweep/ by name, or settings by dotted key. launcher: inline or processes, which is the
    default unless a class is given, which other processes cannot see. Raises NormbenchError for
    wrong settings, before any work.
    """
    from normbench.sweeps.carry_out import planned_study, run_plan
    from normbench.sweeps.launchers import launchers
    from normbench.sweeps.plan import make_plan
    from normbench.sweeps.sweep import AD_HOC, Sweep, load_sweep
    from normbench.sweeps.tuning import tuned
    from normbench.training.resolve import Resolver

    axes, has_class = {}, False
    for key, value in _settings(None if isinstance(study, str) else study, given).items():
        values = [*value] if isinstance(value, (list, tuple, range)) else [value]
        has_class = has_class or any(callable(one) for one in values)
        axes[key] = [_name(key, one) for one in values]
        if len(set(map(repr, axes[key]))) < len(set(map(repr, values))):
            raise NormbenchError(
                f"{key}: two of {', '.join(map(str, axes[key]))} are classes of one name: "
                "give them names of their own"
            )
    chosen = launcher or ("inline" if has_class else "processes")
    if has_class and chosen != "inline":
        raise NormbenchError(
            f"launcher={chosen}: its processes cannot see a class that is given in Python; "
            "allowed: inline, or the class as file.py:NAME"
        )
    if jobs is not None and chosen == "inline":
        raise NormbenchError("jobs: the launcher inline trains one run after the other")
    options = {} if jobs is None else {"jobs": jobs}
    made = launchers.build(chosen, restart, options=options)
    named = load_sweep(study) if isinstance(study, str) else Sweep(AD_HOC, ())
    plan = make_plan(tuned(named.with_values(axes), None), {}, Resolver(made.device), {})
    open_runs = plan.open(retry_failed=retry_failed, restart=restart)
    plan = run_plan(plan, open_runs, made)
    return Runs(planned_study(plan, None, [config.run_id for config in open_runs]))


def _settings(settings: Settings | None, given: Settings) -> dict[str, Any]:
    """All settings by their whole keys. Raises NormbenchError for one that is given twice."""
    if settings is not None and not isinstance(settings, Mapping):
        raise NormbenchError(
            f"{settings!r} is no mapping of settings: write norm=..., or a mapping by dotted keys"
        )
    found: dict[str, Any] = {}
    for key, value in [*(settings or {}).items(), *given.items()]:
        # An array or scalar of NumPy becomes a list or number of Python.
        value = value.tolist() if hasattr(value, "tolist") else value
        whole = SHORT.get(key, key)
        if whole in found:
            raise NormbenchError(f"'{whole}' is given twice")
        found[whole] = value
    return found


def _name(key: str, value: Any) -> Any:
    """The value as a configuration holds it: of a class its name, of a path its text."""
    if key in ("norm", "model") and callable(value):
        return given_name(value)
    return str(value) if isinstance(value, Path) else value
