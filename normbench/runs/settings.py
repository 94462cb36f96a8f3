"""The settings of a run that belong to its experiment, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normbench.config.schema import ADDED, ADDED_OPTIONS

# Values of settings that older runs do not name.
UNNAMED = {f"{section}.{setting}": before for section, setting, before in (*ADDED, *ADDED_OPTIONS)}
MISSING = object()
# Settings of the machine, not of the experiment: folders, workers, display.
OF_THE_MACHINE = ("system.", "data.root", "norm.file", "model.file")


def study_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flat configuration without the settings of the machine, by name.

    So its order is the same in a run, in the files of a study, and in files of several joined.
    """
    kept = [key for key in sorted(config) if not key.startswith(OF_THE_MACHINE)]
    # A run made before a setting was there is the same run after.
    kept = [key for key in kept if config[key] != UNNAMED.get(key, MISSING)]
    return {key: config[key] for key in kept}
