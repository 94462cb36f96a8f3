"""The accuracies that others have published: filed under what they are, in words that compare."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from normbench.analysis import published as module
from normbench.analysis.protocol import PIXELS
from normbench.analysis.published import Published, published
from normbench.norms import norms

# Of the fields that are compared with those of runs by their text.
WORDS = {
    "epochs": r"\d+",
    "optimizer": r"(adam|sgd)(, momentum 0\.\d+)?",
    "lr": r"[\d.e-]+( \* batch / \d+)?",
    "weight_decay": r"[\d.]+(e-\d+)?",
    "label_smoothing": r"0|0\.\d+",
    "images": r"all|\d+,000 of 50,000",
    "pixels": "|".join(PIXELS.values()),
    "precision": "fp32|bf16",
    "reported": "final epoch|best epoch",
}


def key(one: Published) -> tuple[object, ...]:
    figure = one.figure
    return one.source.source, one.protocol.network, figure.norm, figure.called, figure.batch_size


def test_every_figure_is_of_a_norm_of_normbench_or_of_none_and_comes_once() -> None:
    assert {one.figure.norm for one in published()} - {None} <= {norm.name for norm in norms}
    assert len({*map(key, published())}) == len(published())
    for one in published():
        # A norm that normbench has not is told by the source's name alone.
        assert one.figure.norm or one.figure.called, one


def test_a_layer_norm_that_is_another_norm_is_filed_under_what_it_is() -> None:
    called = {}
    for one in published():
        if one.figure.called in ("LN", "IN"):
            called[one.source.short, one.figure.called] = one.figure.norm
    assert called == {
        ("CharlesJWC", "LN"): "in_affine",
        ("gaow0007", "LN"): None,
        ("Cerebras", "LN"): "ln_chw",
        ("kentaroy47", "LN"): "ln_c",
        ("omihub777", "LN"): "ln_c",
        ("HarmanDotpy", "IN"): "in_affine",
        ("gaow0007", "IN"): "in_affine",
        ("Cerebras", "IN"): "in_affine",
    }
    for one in published():
        # Nobody calls them so, and a table would not show what the source meant.
        if one.figure.norm in ("in_affine", "ln_c", "ln_chw"):
            assert one.figure.called, one
    # The one source whose LN is ln: statistics over c, h, w and an affine per channel.
    assert {one.source.short for one in published() if one.figure.norm == "ln"} == {"HarmanDotpy"}


def test_groups_are_told_of_group_norm_and_a_spread_of_several_runs() -> None:
    for one in published():
        assert (one.figure.groups is not None) == (one.figure.norm == "gn"), one
        assert one.protocol.groups == (one.figure.groups and str(one.figure.groups))
        assert one.figure.sd is None or one.figure.n != 1, one


def test_protocols_are_in_the_words_of_runs() -> None:
    seen = set()
    for one in published():
        for name, value in one.protocol.known.items():
            if name in WORDS:
                seen.add(name)
                assert re.fullmatch(WORDS[name], value), (one.source.source, name, value)
    assert seen == {*WORDS}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("batch_size: 2,", "batchsize: 2,"),
        ("percent: 80.30", "percent: 803.0"),
        ("epochs: 100", "epoch: 100"),
        ("obtained: computed", "obtained: guessed"),
        ("n: 5", "n: 0"),
    ],
)
def test_a_mistake_in_the_file_is_refused(
    right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = module.FILE.read_text()
    assert right in text
    file = tmp_path / "published.yaml"
    file.write_text(text.replace(right, wrong, 1))
    monkeypatch.setattr(module, "FILE", file)
    with pytest.raises(ValidationError):
        published.__wrapped__()
