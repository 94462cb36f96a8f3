"""The learning rate of each norm, chosen on held-out training images: never on the test set."""

from __future__ import annotations

import pandas as pd

from normbench.analysis.captions import describe, settings_columns

CHOSEN = "chosen"


def at_chosen_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """Of runs of a norm that differ in their learning rate, those at the rate that `best_rates` has.

    Their `lr` then reads `chosen`. Runs are as they were where rates are not chosen; a norm of which no run finished
    keeps all of its runs.
    """
    if not rates_are_chosen(runs):
        return runs
    groups = _groups(runs)
    rates = runs[groups].merge(best_rates(runs), on=groups, how="left")["lr"].to_numpy()
    return runs[(runs["lr"] == rates) | pd.isna(rates)].assign(lr=CHOSEN)


def best_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """For each norm and choice of settings: `lr`, the rate with the best mean accuracy on held-out images.

    Only rates at which most seeds finished compete, so that one at which some diverged does not win by the others; of
    equally good rates it is the smallest.
    """
    groups = _groups(runs)
    done = runs[runs["status"] == "done"]
    scores = (
        done.groupby([*groups, "lr"], dropna=False)["val_accuracy"]
        .agg(["mean", "size"])
        .reset_index()
    )
    best = scores.sort_values(["size", "mean"], ascending=False, kind="stable").drop_duplicates(
        groups
    )
    return best.drop(columns=["mean", "size"])


def rates_are_chosen(runs: pd.DataFrame) -> bool:
    """Whether several learning rates were tried for any norm, and images held out to choose by."""
    return "val_accuracy" in runs and rate_varies(runs)


def rate_varies(runs: pd.DataFrame) -> bool:
    """Whether several learning rates were tried for any norm and choice of settings."""
    return bool((runs.groupby(_groups(runs), dropna=False)["lr"].nunique() > 1).any())


def chosen_rates(runs: pd.DataFrame) -> str:
    """The rates that were chosen, in words; empty where none were."""
    if not rates_are_chosen(runs):
        return ""
    best = best_rates(runs)
    varying = [name for name in _groups(runs)[1:] if runs[name].nunique() > 1]
    told = [
        " at ".join(
            filter(
                None,
                [f"{row['norm']} {row['lr']:g}", describe({name: row[name] for name in varying})],
            )
        )
        for row in best.sort_index().to_dict("records")
    ]
    return (
        f"Learning rates are those that were best on held-out training images: {', '.join(told)}."
    )


def _groups(runs: pd.DataFrame) -> list[str]:
    return ["norm", *(name for name in settings_columns(runs) if name != "lr")]
