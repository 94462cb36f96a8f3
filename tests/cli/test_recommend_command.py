"""normbench recommend as a user meets it: answers, tables, JSON, the tree, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from kit.runs import write_runs

from normbench.config.compose import config_dir
from normbench.recommend import library

Run = Callable[..., tuple[int, str, str]]
ROOT = config_dir().parent
RESULTS = ("--results", str(ROOT / "results"))


read_once = cache(library.committed)


@pytest.fixture(autouse=True)
def committed_studies_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "committed", read_once)


def asked(normbench: Run, *arguments: str) -> str:
    code, out, err = normbench("recommend", *arguments)
    assert code == 0, err
    return out


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_the_committed_studies_answer_with_their_evidence(size: int, normbench: Run) -> None:
    arguments = ("--batch-size", str(size), "--model", "cnn", *RESULTS)
    text = asked(normbench, *arguments)
    (value, *_) = json.loads(asked(normbench, *arguments, "--json"))
    assert value["verdict"] in ("recommended", "undecided")
    for norm in value["candidates"]:
        assert norm in text.partition("\n  ")[0]
    ahead = {one["verdict"] for one in value["evidence"]}
    assert value["recommended"] is None or value["recommended"] in ahead
    assert min(value["measured_at"]) <= size <= max(value["measured_at"])
    for part in ("evidence", "measured by", "sources' tree"):
        assert part in text


def test_the_readme_and_the_page_show_what_the_command_says(normbench: Run) -> None:
    shown = asked(normbench, "--batch-size", "4", "--model", "cnn", *RESULTS)
    assert shown in (ROOT / "README.md").read_text()
    table = asked(normbench, "--model", "cnn", *RESULTS)
    assert table in (ROOT / "docs" / "recommend.md").read_text()


def test_where_there_is_only_folklore_it_says_so(normbench: Run) -> None:
    for model in ("gan", "multimodal"):
        out = asked(normbench, "--model", model, "--batch-size", "8", *RESULTS)
        assert out.startswith(f"{model}: not measured here. There is only the sources' word")
        assert "sources' tree" in out


def test_explain_adds_the_path_and_every_comparison(normbench: Run) -> None:
    arguments = ("--batch-size", "4", "--model", "cnn", *RESULTS)
    plain, explained = asked(normbench, *arguments), asked(normbench, *arguments, "--explain")
    assert explained.startswith(plain[: plain.index("\n")])
    assert "model: CNN, batch: small" in explained
    assert "ws_gn - bn = +4.0 ± 0.7 points (95 % interval" in " ".join(explained.split())
    assert "model: CNN" not in plain


def test_own_runs_answer_instead(normbench: Run, tmp_path: Path) -> None:
    write_runs(tmp_path / "mine", norms=["bn", "gn"], batch_sizes=[8], seeds=[0, 1, 2])
    out = asked(normbench, "--batch-size", "8", "--runs", str(tmp_path / "mine"))
    assert "mine: " in out
    assert "all pairs of these runs" in " ".join(out.split())


def test_the_tree_is_drawn_beside_the_answer(normbench: Run, tmp_path: Path) -> None:
    out = asked(normbench, "--tree", str(tmp_path / "tree.svg"), *RESULTS)
    assert "sources' tree" in out
    assert "multi-modal" in (tmp_path / "tree.svg").read_text()


def test_wishes_are_answered_below_the_evidence(normbench: Run) -> None:
    arguments = ("--batch-size", "4", "--model", "cnn", *RESULTS)
    out = asked(normbench, *arguments, "--finetune", "--memory", "low")
    assert "not measured for fine-tuning; trained from the start: ws_gn" in " ".join(out.split())
    assert "--memory low: changes nothing" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--batch-size", "0"], "greater than or equal to 1"),
        (["--inference-batch", "0", "--batch-size", "4"], "greater than or equal to 1"),
        (["--model", "cnnn"], "unknown model 'cnnn': did you mean 'cnn'?"),
        (["--data", "unifrom"], "did you mean 'uniform'?"),
        (["--memory", "high", "--batch-size", "4"], "unknown value of --memory 'high'"),
        (["--time", "low"], "need --batch-size"),
        (["--runs", "nowhere"], "no runs in nowhere"),
        (["--results", "nowhere"], "no folder 'nowhere'"),
        (["--tree", "tree.bmp", *RESULTS], "unknown format '.bmp'"),
        (["--batch", "4"], "No such option"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], complaint: str, normbench: Run, tmp_path: Path
) -> None:
    (tmp_path / "results").mkdir()
    code, out, err = normbench("recommend", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
