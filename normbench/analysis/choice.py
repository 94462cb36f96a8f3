"""The learning rate of each norm, chosen on held-out training images: never on the test set."""

from __future__ import annotations

import pandas as pd

from normbench.analysis.provenance import settings_columns

CHOSEN = "chosen"


def at_chosen_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """Of runs of a norm that differ in their learning rate, those with the best mean accuracy on held-out images.

    Their `lr` then reads `chosen`; of equally good rates it is the smallest. Runs are as they were where no images were
    held out, or one rate was tried; a norm of which no run finished keeps all of its runs.
    """
    if "val_accuracy" not in runs or not rate_varies(runs):
        return runs
    groups = _groups(runs)
    done = runs[runs["status"] == "done"]
    scores = done.groupby([*groups, "lr"], dropna=False)["val_accuracy"].mean().reset_index()
    best = scores.sort_values("val_accuracy", ascending=False, kind="stable").drop_duplicates(groups)
    rates = runs[groups].merge(best, on=groups, how="left")["lr"].to_numpy()
    return runs[(runs["lr"] == rates) | pd.isna(rates)].assign(lr=CHOSEN)


def rate_varies(runs: pd.DataFrame) -> bool:
    """Whether several learning rates were tried for any norm and choice of settings."""
    return bool((runs.groupby(_groups(runs), dropna=False)["lr"].nunique() > 1).any())


def _groups(runs: pd.DataFrame) -> list[str]:
    return ["norm", *(name for name in settings_columns(runs) if name != "lr")]
