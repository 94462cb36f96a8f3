"""Settings of a run that trains in a fraction of a second."""

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
    """The settings with some of them changed or added: `tiny("epochs=1", "norm=gn")`."""
    keys = {setting.partition("=")[0] for setting in changed}
    return [*(setting for setting in TINY if setting.partition("=")[0] not in keys), *changed]
