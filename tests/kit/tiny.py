"""Settings of a run of a fraction of a second."""

from __future__ import annotations

# Seven steps an epoch; two epochs.
TINY = (
    "data=synthetic",
    "data.num_train=100",
    "data.num_test=20",
    "model.widths=[4,8]",
    "batch_size=16",
    "epochs=2",
)


def tiny(*changed: str) -> list[str]:
    """The settings with changes and additions; of a key given twice, the last counts.

    `tiny("epochs=1", "norm=gn")`
    """
    settings = [*TINY, *changed]
    return [*{setting.partition("=")[0]: setting for setting in settings}.values()]
