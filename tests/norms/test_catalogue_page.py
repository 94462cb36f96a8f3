"""Certificates in sentences, norms that are alike, the catalogue page, and a report's norms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from normbench.analysis.loading import load_study
from normbench.analysis.report import write_report
from normbench.analysis.study import Study
from normbench.certificates import Certificate, certify
from normbench.certificates.alike import alike
from normbench.certificates.parts import norm_parts
from normbench.certificates.sentences import sentences
from normbench.norms import norms

REPOSITORY = Path(__file__).parents[2]
CHOSEN = ("bn", "bn_custom", "in", "in_affine", "ln", "ln_c", "batch_renorm", "ws_bn")
FACTS = Certificate(
    shares_statistics_over=("n h w",),
    mean_0_over=("n h w",),
    variance_1_over=("n h w",),
    batch_mates_matter_in_training=True,
    evaluates_as_it_trains=False,
    ignores_scale_of=("channel", "batch"),
    at_batch_1="works",
    on_1x1_maps="works",
    at_batch_2_on_1x1_maps="keeps only signs",
    at_batch_1_on_1x1_maps="refused: no variance: one value",
    saved_bytes=8.0,
    under_activation_checkpointing="state updated twice",
)


def test_norms_are_alike_where_their_formulas_are() -> None:
    """Not where a learned scale is lacking, nor where a running variance is biased."""
    found = alike({name: norms.build(name) for name in CHOSEN})
    at_1, on_pixels = "In training at batch 1", "In training on 1x1 maps"
    assert found["bn"] == {
        "In training": ["bn_custom"],
        "In evaluation": ["batch_renorm"],
        at_1: ["in_affine"],
    }
    assert found["in_affine"] == {at_1: ["bn", "bn_custom"]}
    assert (found["ln"], found["ln_c"]) == ({on_pixels: ["ln_c"]}, {on_pixels: ["ln"]})
    assert found["bn_custom"] == {"In training": ["bn"], at_1: ["in_affine"]}
    assert (found["in"], found["ws_bn"]) == ({}, {})


def test_sentences_say_the_facts_of_the_certificate() -> None:
    told = sentences(FACTS, {"In training at batch 1": ["in_affine"]}, "bn")
    for sentence in (
        "A statistic runs over n h w.",
        "Its output has mean 0 and variance 1 over n h w.",
        "Batch mates change a sample's output in training alone.",
        "Evaluation computes something else than training.",
        "It ignores a scale of its input per channel and per batch.",
        "It ignores no shift.",
        "In training it works at batch 1 and on 1x1 maps.",
        "In training it keeps only signs at batch 2 on 1x1 maps.",
        "Training is refused at batch 1 on 1x1 maps: no variance: one value.",
        "For the backward pass it keeps 8 bytes for each float32 value of its input.",
        "Gradients of no parts of a batch of 32 add up to the gradient of the batch.",
        "In training at batch 1, bn is in_affine.",
    ):
        assert sentence in told


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shares_statistics_over": ("nothing",)}, "No cell shares a statistic with another."),
        (
            {"shares_statistics_over": ("n h w", "h w")},
            "A statistic runs over n h w in some channels, over h w in others.",
        ),
        ({"mean_0_over": ()}, "Its output has mean 0 over no axes, and variance 1 over n h w."),
        (
            {"mean_0_over": (), "variance_1_over": ()},
            "Its output has neither mean 0 nor variance 1 over any axes.",
        ),
        (
            {"batch_mates_matter_in_evaluation": True},
            "Batch mates always change a sample's output.",
        ),
        (
            {"batch_mates_matter_in_training": False},
            "Batch mates never change a sample's output.",
        ),
        (
            {"accumulates_exactly_in_parts_of": (1, 2)},
            "Gradients of a batch of 32 accumulate exactly in parts of 1 and 2.",
        ),
    ],
)
def test_a_sentence_follows_its_fact(changes: dict[str, object], sentence: str) -> None:
    assert sentence not in sentences(FACTS, {}, "bn")
    assert sentence in sentences(replace(FACTS, **changes), {}, "bn")  # type: ignore[arg-type]


def test_of_a_warm_up_only_what_differs_is_told() -> None:
    first = replace(FACTS, evaluates_as_it_trains=True)
    told = sentences(replace(FACTS, in_warm_up=first), {}, "bn")
    told_in_warm_up = [one for one in told if one.startswith("In warm-up")]
    assert told_in_warm_up == ["In warm-up: evaluation computes what training computes."]


def test_of_a_refused_norm_the_reason_is_told() -> None:
    five = certify(norms.build("gn", options={"num_groups": 5}))
    [sentence] = sentences(five, {}, "gn")
    assert sentence == "gn is refused: num_groups=5 does not divide 16 channels."


@pytest.mark.slow
def test_the_committed_page_is_that_of_the_command(normbench: Any, tmp_path: Path) -> None:
    docs, page = REPOSITORY / "docs", tmp_path / "catalogue.md"
    results = str(REPOSITORY / "results")
    code, out, err = normbench("norms", "--page", str(tmp_path), "--results", results)
    assert (code, out, err) == (0, f"{page}\n", "")
    assert page.read_text() == (docs / "catalogue.md").read_text()
    made = {path.name for path in (tmp_path / "catalogue").iterdir()}
    assert made == {path.name for path in (docs / "catalogue").iterdir()}
    assert made == {f"{entry.name}.svg" for entry in norms}
    size = sum(path.stat().st_size for path in (docs / "catalogue").iterdir())
    assert size + page.stat().st_size < 500_000


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study([REPOSITORY / "results" / "first-light"], ["norm=ln,in"])


def test_a_report_tells_of_its_norms(study: Study, tmp_path: Path) -> None:
    parts = norm_parts(study)
    assert [part.name for part in parts] == ["ln", "in"]
    assert "A statistic runs over c h w." in parts[0].sentences
    text = write_report(study, tmp_path, norms=parts).read_text()
    assert text.count('<details class="norm">') == 2
    assert "mean and var of shape (n, c) over the axes (h, w)" in text
    assert ">c h w: 400 cells</text>" in text
    assert 'href="#norms"' in text
    without = write_report(study, tmp_path).read_text()
    assert 'href="#norms"' not in without


def test_a_report_runs_no_code_of_a_study_and_leaves_out_what_it_does_not_know(
    study: Study, tmp_path: Path
) -> None:
    code, mark = tmp_path / "norm.py", tmp_path / "mark"
    code.write_text(f"open({str(mark)!r}, 'w')")
    own = {"norm.name": f"{code}:Norm", "norm.file": str(code), "norm.options": {}}
    gone = {"norm.name": "adain"}
    refused = {"norm.name": "gn", "norm.num_groups": 5}
    for settings in (own, gone, refused, {}):
        changed = replace(study, configs=dict.fromkeys(study.configs, settings))
        assert norm_parts(changed) == []
    assert not mark.exists()
