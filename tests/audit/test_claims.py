"""The claims: their file, their judgement by studies and by computation, the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from kit.runs import in_study, one_run

from normbench import audit
from normbench.analysis.design import read_design
from normbench.analysis.study_files import write_study
from normbench.audit import Verdict, judge, load_claims
from normbench.audit.claims import JUDGES
from normbench.audit.exact import EXACT
from normbench.audit.source_runs import PRINTED, STEPS
from normbench.config.compose import config_dir
from normbench.errors import NormbenchError

Run = Callable[..., tuple[int, str, str]]
RESULTS = config_dir().parent / "results"
BOTH = ("pre", "post")


def verdict(name: str, results: Path) -> Verdict:
    (judged,) = judge([name], results)
    return judged.finding.verdict


def test_each_claim_has_one_id_and_says_what_decides_it() -> None:
    claims = load_claims()
    ids = [claim.id for claim in claims]
    assert len(set(ids)) == len(ids)
    studies = {path.stem for path in (config_dir() / "sweep").glob("*.yaml")}
    for claim in claims:
        assert claim.by in studies | {"exact", "speed", "open"}, claim.id
        assert (claim.by == "exact") == (claim.id in EXACT)
        if claim.contrary is not None:
            (other,) = (one for one in claims if one.id == claim.contrary)
            assert other.contrary == claim.id
    assert {*EXACT, *JUDGES} <= set(ids)


def test_without_studies_nothing_that_needs_one_has_a_verdict(tmp_path: Path) -> None:
    for judged in judge((), tmp_path):
        if judged.claim.by == "exact":
            assert judged.finding.verdict in (Verdict.SUPPORTED, Verdict.REFUTED)
        else:
            assert judged.finding.verdict == Verdict.UNMEASURED, judged.claim.id


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("parameter-count", Verdict.SUPPORTED),
        ("adain-aligns", Verdict.SUPPORTED),
        ("bn-samples-independent", Verdict.REFUTED),
        ("lazy-bn", Verdict.REFUTED),
        ("in-small-batch", Verdict.REFUTED),
        ("momentum-convention", Verdict.REFUTED),
        ("checkpoint-momentum", Verdict.REFUTED),
        ("accumulation", Verdict.REFUTED),
    ],
)
def test_what_a_formula_decides_comes_out_as_it_must(
    name: str, expected: Verdict, tmp_path: Path
) -> None:
    assert verdict(name, tmp_path) == expected


def batch_size_study(results: Path, ahead: str, size: int, gap: float = 0.1) -> None:
    """gn, ln and in_affine against bn at one batch size, `ahead` by the gap before the others."""
    runs = []
    for norm in ("bn", "gn", "ln", "in_affine"):
        for seed in range(3):
            reached = 0.5 + gap * (norm == ahead) + seed * 0.001 * (norm == "bn")
            runs.append(one_run(norm, size, seed, reached))
    norms = ["gn", "ln", "in_affine"]
    family = {"norms": norms, "against": "bn", "at": {"batch_size": [size]}}
    design = read_design({"name": "batch_size", "primary": [family]})
    write_study(replace(in_study(*runs), design=design), results / "batch-size")


def test_a_curve_decides_which_of_two_contrary_claims_holds(tmp_path: Path) -> None:
    batch_size_study(tmp_path, "bn", 64)
    assert verdict("bn-large-batch-use", tmp_path) == Verdict.SUPPORTED
    assert verdict("gn-large-batch-use", tmp_path) == Verdict.REFUTED
    assert verdict("bn-small-batch-use", tmp_path) == Verdict.UNMEASURED


def test_bn_collapses_only_where_every_other_norm_is_ahead(tmp_path: Path) -> None:
    batch_size_study(tmp_path / "one", "gn", 1)
    (judged,) = judge(["bn-batch-1"], tmp_path / "one")
    assert judged.finding.verdict != Verdict.SUPPORTED
    batch_size_study(tmp_path / "all", "bn", 1, gap=-0.3)
    (judged,) = judge(["bn-batch-1"], tmp_path / "all")
    assert judged.finding.verdict == Verdict.SUPPORTED
    assert any("gn - bn = +" in figure for figure in judged.finding.figures)


def test_printed_losses_far_from_ours_refute_the_trajectory(tmp_path: Path) -> None:
    assert all(len(losses) == len(STEPS) for losses in PRINTED.values())
    assert verdict("loss-trajectory", RESULTS) in (Verdict.SUPPORTED, Verdict.REFUTED)
    assert verdict("loss-trajectory", tmp_path) == Verdict.UNMEASURED


def test_a_claim_of_one_batch_size_or_another_waits_for_the_other(tmp_path: Path) -> None:
    batch_size_study(tmp_path, "bn", 4)
    assert verdict("in-beats-bn-small", tmp_path) == Verdict.UNMEASURED
    batch_size_study(tmp_path, "in_affine", 4)
    assert verdict("in-beats-bn-small", tmp_path) == Verdict.SUPPORTED


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        ({"ln": 0.5, "bn": 0.4, "none": 0.3}, Verdict.SUPPORTED),
        ({"ln": 0.5, "bn": 0.6, "none": 0.3}, Verdict.REFUTED),
        ({"ln": 0.5, "bn": 0.4, "none": 0.6}, Verdict.REFUTED),
        ({"ln": 0.5, "bn": 0.4}, Verdict.UNMEASURED),
    ],
)
def test_ln_is_the_norm_of_recurrent_networks_where_it_is_ahead_of_both(
    reached: dict[str, float], expected: Verdict, tmp_path: Path
) -> None:
    runs = []
    for place, (norm, value) in enumerate(reached.items()):
        runs += [one_run(norm, 64, seed, value + place * seed / 1000) for seed in range(3)]
    others = [norm for norm in reached if norm != "ln"]
    family = {"norms": others, "against": "ln", "at": {"batch_size": [64]}}
    design = read_design({"name": "recurrent", "primary": [family]})
    write_study(replace(in_study(*runs), design=design), tmp_path / "recurrent")
    assert verdict("ln-rnns", tmp_path) == expected


def transformer_study(results: Path, ahead: str = "", positions: tuple[str, ...] = BOTH) -> None:
    """Six norms at the positions: ln far above bn and none, `ahead` above ln, the others alike."""
    reached = {"ln": 0.5, "rms": 0.5, "dyt": 0.5, "derf": 0.5, "bn": 0.4, "none": 0.4}
    runs = []
    for norm, position, seed in product(reached, positions, range(3)):
        result = reached[norm] + 0.3 * (norm == ahead) + 0.001 * seed * (norm == "ln")
        runs.append(one_run(norm, 64, seed, result, **{"model.norm_position": position}))
    norms = [norm for norm in reached if norm != "ln"]
    family = {"norms": norms, "against": "ln", "at": {"model.norm_position": list(positions)}}
    content = {"name": "transformer", "primary": [family], "smallest_difference": 5}
    write_study(replace(in_study(*runs), design=read_design(content)), results / "transformer")


def test_ln_is_the_norm_of_transformers_while_no_other_is_ahead(tmp_path: Path) -> None:
    transformer_study(tmp_path / "none")
    (judged,) = judge(["ln-transformers"], tmp_path / "none")
    assert judged.finding.verdict == Verdict.SUPPORTED
    assert len(judged.finding.figures) == 10
    for norm in ("rms", "bn"):
        transformer_study(tmp_path / norm, norm)
        assert verdict("ln-transformers", tmp_path / norm) == Verdict.REFUTED
    transformer_study(tmp_path / "pre", positions=("pre",))
    assert verdict("ln-transformers", tmp_path / "pre") == Verdict.UNMEASURED


def test_an_unknown_claim_is_refused_with_the_nearest() -> None:
    with pytest.raises(NormbenchError, match="did you mean 'lazy-bn'"):
        judge(["lazy_bn"], RESULTS)


def test_a_missing_folder_is_no_folder_without_studies(tmp_path: Path) -> None:
    with pytest.raises(NormbenchError, match=r"no folder .*none"):
        judge(["lazy-bn"], tmp_path / "none")


def test_the_page_holds_what_the_command_says(
    normbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_once = cache(lambda names, results: judge(names, results))
    # Each form of the answer is made of the same judgements.
    monkeypatch.setattr(audit, "judge", lambda names, results: judged_once(tuple(names), results))
    code, out, err = normbench("audit", "--markdown", "--results", str(RESULTS))
    assert code == 0, err
    assert (RESULTS / "AUDIT.md").read_text() == out
    code, out, _ = normbench("audit", "--json", "--results", str(RESULTS))
    values = json.loads(out)
    assert len(values) == len(load_claims())
    code, out, _ = normbench("audit", "--results", str(RESULTS))
    told = " ".join(out.split())
    for one in values:
        assert f"{one['verdict']}: {one['claim']} ({one['id']})" in told
        assert all(figure in told for figure in one["figures"])
        assert f"command: {one['command']}" in told
    code, out, _ = normbench("audit", "--short", "--results", str(RESULTS))
    assert len(out.splitlines()) == len(values) + 2
    code, out, _ = normbench("audit", "bn-large-batch-use", "--results", str(RESULTS))
    assert "contrary:  bn-small-batch-use" in out
