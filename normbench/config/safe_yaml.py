"""The loader of YAML that normbench wrote, for `yaml.load`: no tags of Python, no aliases."""

from __future__ import annotations

from typing import Any

import yaml

# libyaml's loader is ten times as fast as the Python loader; not every PyYAML was built with it.
SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def without_aliases(text: str) -> Any:
    """A loader of YAML for `yaml.load`. Raises YAMLError for aliases, which normbench never writes.

    A few lines of aliases can stand for lists of lists with billions of values.
    """
    # Looking for events takes as long as reading: a text without the sign has no alias.
    if "*" in text:
        for event in yaml.parse(text, SAFE_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise yaml.YAMLError("an alias")
    return SAFE_LOADER(text)


LOADER: Any = without_aliases
