"""How norms look in figures."""

from __future__ import annotations

from normbench.analysis.figures.style import STYLES
from normbench.norms import norms


def test_every_norm_has_a_colour_and_marker_of_its_own() -> None:
    assert set(STYLES) == {entry.name for entry in norms}
    assert len(set(STYLES.values())) == len(STYLES)
