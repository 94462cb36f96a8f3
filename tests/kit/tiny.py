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
    """The settings with changes and additions, which come last: `tiny("epochs=1", "norm=gn")`.

    Of a key given twice the last counts.
    """
    settings: dict[str, str] = {}
    for setting in (*TINY, *changed):
        key = setting.partition("=")[0]
        # Removed first: a changed key is an axis after those that stay.
        settings.pop(key, None)
        settings[key] = setting
    return [*settings.values()]
