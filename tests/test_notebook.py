"""docs/notebook.ipynb: every cell works, as a reader sees it, and the page is what cells give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
# A bar is gone at its end, and lines of epochs hold seconds.
PASSING = "application/vnd.jupyter.widget-view+json"
pytestmark = pytest.mark.slow


def kinds_of(cell: Any) -> set[str]:
    """The kinds of a cell's outputs, but for bars."""
    found: set[str] = set()
    for output in cell.get("outputs", ()):
        kinds = output.get("data", {output.output_type: ""})
        if PASSING not in kinds:
            found.update(kinds)
    return found


def test_the_notebook_runs_from_top_to_bottom_and_shows_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests use the cores too: threads would wait for one another.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    page = nbformat.read(NOTEBOOK, as_version=4)
    executed = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(executed, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [kinds_of(cell) for cell in executed.cells] == [kinds_of(cell) for cell in page.cells]
    assert (tmp_path / "report" / "report.html").is_file()
