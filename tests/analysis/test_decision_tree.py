"""The sources' decision tree: what it advises, and that its picture shows its data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from normbench.analysis.decision_tree import Branch, load_tree
from normbench.analysis.figures.saving import save
from normbench.analysis.figures.tree import draw_tree, rows_of
from normbench.models import models
from normbench.norms import norms

PICTURE = Path(__file__).parents[2] / "docs" / "decision-tree.svg"
TREE = load_tree()
KINDS = TREE.words("model")


def norms_of(kind: str | None, size: int | None, data: str | None = None) -> list[tuple[str, ...]]:
    return [advice.norms for advice in TREE.advice(kind, size, data)]


@pytest.mark.parametrize(
    ("kind", "size", "data", "expected"),
    [
        ("cnn", 64, None, [("bn",)]),
        ("resnet", 2, None, [("gn",), ("ln", "gn")]),
        ("rnn", 64, None, [("ln",)]),
        ("transformer", 64, "variable", [("ln",), ("ln", "gn")]),
        ("gan", 64, None, [("in", "gn")]),
        ("style", 64, None, [("in", "gn"), ("in",)]),
        ("multimodal", 64, "uniform", [("gn",), ("bn",)]),
        (None, None, None, []),
    ],
)
def test_the_tree_advises_what_the_sources_print(
    kind: str | None, size: int | None, data: str | None, expected: list[tuple[str, ...]]
) -> None:
    assert norms_of(kind, size, data) == expected


def test_a_question_without_an_answer_is_not_followed() -> None:
    assert norms_of("cnn", None) == []
    (advice,) = TREE.advice("cnn", 64, None)
    assert advice.way == "model: CNN, batch: large"


@given(st.sampled_from(KINDS), st.integers(1, 512))
def test_every_kind_and_size_has_exactly_one_advice_by_model(kind: str, size: int) -> None:
    by_model = [one for one in TREE.advice(kind, size, None) if one.path[0][0] == "model"]
    assert len(by_model) == 1


def test_every_network_has_one_kind_and_every_norm_is_registered() -> None:
    listed = [network for networks in TREE.networks.values() for network in networks]
    assert sorted(listed) == sorted(entry.name for entry in models)
    assert set(TREE.networks) <= set(KINDS)
    known = {entry.name for entry in norms}
    for row in rows_of(TREE):
        assert set(row.norms) <= known


def test_a_branch_ends_or_goes_on() -> None:
    with pytest.raises(ValidationError, match="needs norms or another question"):
        Branch(title="nothing", when=("cnn",))


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_committed_picture_has_every_word_and_norm_of_the_tree() -> None:
    expected = []
    for row in rows_of(TREE):
        expected += [row.text, *row.norms]
    assert texts(PICTURE.read_text()) == expected
    assert {"CNN", "multi-modal", "small (below 32)"} <= set(expected)


def test_another_tree_is_another_picture(tmp_path: Path) -> None:
    changed = TREE.model_copy(
        update={"small_below": 7, "questions": TREE.questions[:1], "networks": {}}
    )
    save(draw_tree(changed), tmp_path / "tree.svg")
    shown = texts((tmp_path / "tree.svg").read_text())
    assert "small (below 7)" in shown
    assert "data?" not in shown
    save(draw_tree(TREE), tmp_path / "whole.svg")
    assert texts((tmp_path / "whole.svg").read_text()) == texts(PICTURE.read_text())
