"""Names of norms, written out where they first stand on a page."""

from __future__ import annotations

from collections.abc import Mapping


class FirstNames:
    """`BatchNorm (bn)` for the first `bn`, and `bn` for every other.

    titles: by name, where known; an own norm's name is its class, and has none.
    """

    def __init__(self, titles: Mapping[str, str]) -> None:
        self.titles = dict(titles)

    def __call__(self, label: str) -> str:
        """The label of a norm, which may end in options, with its title at the first call."""
        name, space, options = label.partition(" ")
        title = self.titles.pop(name, name)
        return label if title == name else f"{title} ({name}){space}{options}"
