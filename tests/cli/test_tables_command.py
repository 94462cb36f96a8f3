"""normbench table, compare and plot as a user meets them: what they print, draw and refuse."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.runs import write_runs

from normbench.analysis.loading import load_study
from normbench.analysis.outputs import output_named
from normbench.config.compose import compose
from normbench.config.schema import RunConfig

LeaveRun = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]
SWEEP = "SWEEP"  # in arguments: the folder of the fixture `sweep`


def config(norm: str, batch_size: int = 8, **settings: object) -> RunConfig:
    given = {
        "norm": norm,
        "batch_size": batch_size,
        "data": "synthetic",
        "epochs": 2,
        "runtime.precision": "fp32",
    }
    return compose([], given | settings)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of runs of bn and gn at batch sizes 8 and 64 with two seeds each."""
    folder = tmp_path_factory.mktemp("sweep")
    return str(write_runs(folder, ("bn", "gn"), (8, 64), (0, 1)))


@pytest.fixture
def runs(leave_run: LeaveRun, normbench: Run) -> None:
    """Under results/runs: bn and gn with two seeds each at batch 8, bn at batch 4, and a gn there
    that diverged."""
    for seed in (0, 1):
        leave_run(config("bn", seed=seed), reached=0.5 + seed / 4, train_seconds=4.0)
        leave_run(config("gn", seed=seed), reached=0.25 + seed / 2, train_seconds=5.0)
    leave_run(config("bn", 4), reached=0.25)
    leave_run(config("gn", 4), "diverged", "the loss of step 3 is nan", epochs=0)


def rows_of(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table, its header first."""
    lines = [
        line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("|:")
    ]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# table


@pytest.mark.usefixtures("runs")
def test_in_a_pipe_the_table_is_markdown_with_its_notes(normbench: Run) -> None:
    code, out, err = normbench("table")
    assert (code, err) == (0, "")
    assert [row[:2] for row in rows_of(out)] == [
        ["norm", "batch size"],
        ["bn", "4"],
        ["gn", "4"],
        ["bn", "8"],
        ["gn", "8"],
    ]
    assert out.endswith("\n- gn, batch size 4: 1 diverged: the loss of step 3 is nan\n")
    assert "\x1b" not in out
    assert normbench("table", "--markdown") == (0, out, "")
    assert normbench("table", "results/runs") == (0, out, "")


@pytest.mark.usefixtures("runs")
def test_by_makes_a_cross_table_of_any_metric(normbench: Run) -> None:
    _, out, _ = normbench("table", "--by", "norm,batch_size")
    header, *rows = rows_of(out)
    assert header == ["norm", "batch size 4", "batch size 8"]
    assert [row[:2] for row in rows] == [["bn", "25.0 % (n = 1)"], ["gn", "1 diverged"]]
    assert [row[2].split()[0] for row in rows] == ["62.5", "50.0"]
    _, out, _ = normbench(
        "table", "--by", "norm", "--metric", "train_seconds", "--where", "batch_size=8"
    )
    assert rows_of(out) == [["norm", "train seconds"], ["bn", "4.0 ± 0.0 s"], ["gn", "5.0 ± 0.0 s"]]


def test_source_puts_claimed_and_published_beside_what_was_measured(
    normbench: Run, sweep: str
) -> None:
    code, out, err = normbench("table", sweep, "--source")
    assert (code, err) == (0, "")
    header, *rows = rows_of(out)
    assert header[2:5] == ["claimed", "published", "measured here"]
    assert [row[:3] for row in rows if row[2]] == [["bn", "64", "92.3 %"], ["gn", "64", "91.7 %"]]
    assert ["bn", "8", "", "86.1 % (sd 0.4, n = 5, BeFranke)"] in [row[:4] for row in rows]


@pytest.mark.parametrize("kind", ["comparison", "leaderboard", "pairs", "target", "batch-size"])
def test_kind_shows_a_table_of_the_report(normbench: Run, sweep: str, kind: str) -> None:
    code, out, err = normbench("table", sweep, "--kind", kind)
    assert (code, err) == (0, "")
    assert output_named("table", kind).make(load_study([Path(sweep)])).caption in out


def test_a_target_is_in_the_unit_in_which_the_metric_is_shown(normbench: Run, sweep: str) -> None:
    _, out, _ = normbench("table", sweep, "--kind", "target", "--target", "40")
    header, *rows = rows_of(out)
    assert {row[header.index("target")] for row in rows} == {"40.0 %"}
    assert "Target: 40.0 %." in out


@pytest.mark.usefixtures("runs")
def test_source_says_where_nothing_is_claimed_or_published(normbench: Run) -> None:
    code, out, err = normbench("table", "--source")
    assert (code, out) == (2, "")
    assert err.startswith("normbench: nothing is claimed or published for these runs: the sources")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("runs")
def test_latex_and_csv_are_the_same_table(normbench: Run) -> None:
    _, latex, _ = normbench("table", "--latex")
    assert latex.startswith("\\begin{table}\n")
    assert latex.count(r" \\") == 5
    _, text, _ = normbench("table", "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {(row["norm"], row["batch_size"]): row["test_accuracy"] for row in rows} == {
        ("bn", "4"): "0.25",
        ("bn", "8"): "0.625",
        ("gn", "4"): "",
        ("gn", "8"): "0.5",
    }


@pytest.mark.usefixtures("runs")
def test_on_a_terminal_the_table_is_drawn_and_markdown_only_when_asked(
    normbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, shown, _ = normbench("table", "--by", "norm,batch_size")
    for corner in "┏┓┡┩└┘│":
        assert corner in shown
    assert "Test accuracy by norm and batch size" in shown
    assert "- gn, batch size 4: 1 diverged: the loss of step 3 is nan" in shown
    assert "| norm" not in shown
    _, asked, _ = normbench("table", "--by", "norm,batch_size", "--markdown")
    assert "┏" not in asked
    assert asked.startswith("| norm")


@pytest.mark.usefixtures("runs")
def test_runs_of_another_precision_are_refused_unless_they_are_shown_apart(
    normbench: Run, leave_run: LeaveRun
) -> None:
    leave_run(config("bn", **{"runtime.precision": "bf16"}), reached=1.0)
    code, out, err = normbench("table", "--where", "batch_size=8")
    assert (code, out) == (2, "")
    assert (
        err
        == "normbench: runs of different precision: bf16, fp32; choose with --where precision=bf16\n"
    )
    code, out, err = normbench("table", "--where", "batch_size=8", "--by", "norm,precision")
    assert (code, err) == (0, "")
    header, *rows = rows_of(out)
    assert sorted(header[1:]) == ["precision bf16", "precision fp32"]
    bn, gn = (dict(zip(header, row, strict=True)) for row in rows)
    assert bn["precision bf16"] == "100.0 % (n = 1)"
    assert gn["precision bf16"] == "no run"
    assert normbench("table", "--where", "batch_size=8", "--by", "norm")[0] == 2
    assert normbench("table", "--where", "batch_size=8", "--where", "precision=fp32")[0] == 0


@pytest.mark.usefixtures("runs")
def test_a_damaged_run_is_left_out_with_a_line_on_standard_error(
    normbench: Run, tmp_path: Path
) -> None:
    (broken,) = (tmp_path / "results" / "runs").glob("normresnet-bn-b4-*")
    (broken / "metrics.csv").write_text("epoch,steps\n1,1.5\n")
    code, out, err = normbench("table")
    assert code == 0
    assert err == f"left out: {Path('results/runs') / broken.name}: metrics.csv is damaged\n"
    assert ["bn", "4"] not in [row[:2] for row in rows_of(out)]


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--markdown", "--latex"], "choose one of --markdown and --latex"),
        (["--markdown", "--latex", "--csv"], "choose one of --markdown and --latex and --csv"),
        (["--source", "--by", "norm"], "choose one of --by and --source"),
        (["--kind", "pairs", "--by", "norm"], "choose one of --by and --kind"),
        (["--kind", "leaderbord"], "unknown table 'leaderbord': did you mean 'leaderboard'?"),
        (["--target", "60"], "--target needs --kind target"),
        (
            ["--kind", "target", "--target", "101"],
            "--target 101: accuracy (%) is a number from 0 to 100",
        ),
        (
            ["--metric", "test_loss"],
            "--metric needs --by: say by which settings, as --by norm,batch_size",
        ),
        (
            ["--by", "norm,batch_size", "--metric", "test_los"],
            "unknown metric 'test_los': did you mean 'test_loss'?",
        ),
        (["--by", "nrom,batch_size"], "unknown setting 'nrom': did you mean 'norm'?"),
        (["--by", ""], "unknown setting ''"),
        (["--by", "norm,norm", "--where", "batch_size=8"], "norm"),
        (
            ["--by", "norm"],
            "runs of norm bn differ in batch_size: add it to --by, or choose with --where batch_size=",
        ),
        (["--by", "batch_size"], "differ in norm: add it to --by, or choose with --where norm="),
        (["--where", "norm=zz"], "no runs match norm=zz"),
        (["nowhere"], "no runs in nowhere"),
    ],
)
def test_bad_input_of_table_is_one_line_and_exit_code_2(
    normbench: Run, arguments: list[str], message: str
) -> None:
    code, out, err = normbench("table", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


# compare


@pytest.mark.usefixtures("runs")
def test_compare_is_a_sentence_for_every_setting_in_common(normbench: Run) -> None:
    code, out, err = normbench("compare", "bn", "gn")
    assert (code, err) == (0, "")
    assert out == (
        "batch size 8, lr 0.001: bn - gn = +12.5 ± 158.8 points (95 % interval, 2 seeds, paired, "
        "on these test images), p = 0.5 (Holm over 1 comparison: all pairs of these runs): "
        "undecided, within ± 171.3 points.\n"
    )
    _, back, _ = normbench("compare", "gn", "bn", "--where", "seed=0")
    assert back == (
        "batch size 8, lr 0.001: gn - bn = -25.0 points (one seed, on these test images): "
        "no interval, undecided.\n"
    )


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bn", "gnn"], "unknown norm 'gnn': did you mean 'gn'?"),
        (["bn"], "Missing argument 'second'"),
        (
            ["bn", "gn", "--where", "batch_size=4"],
            "bn and gn have no finished runs of the same seed and settings",
        ),
    ],
)
def test_bad_input_of_compare_is_one_line_and_exit_code_2(
    normbench: Run, arguments: list[str], message: str
) -> None:
    code, out, err = normbench("compare", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


# plot


@pytest.mark.parametrize("figure", ["loss", "epochs", "batch-size"])
def test_plot_draws_each_figure_that_the_runs_have(
    normbench: Run, tmp_path: Path, sweep: str, figure: str
) -> None:
    code, out, err = normbench("plot", figure, sweep)
    assert (code, out, err) == (0, f"{figure}.svg\n", "")
    drawn = (tmp_path / f"{figure}.svg").read_text()
    assert "<svg" in drawn
    assert len(re.findall(r"<path", drawn)) > 10


@pytest.mark.parametrize(
    ("suffix", "beginning"),
    [(".png", b"\x89PNG\r\n\x1a\n"), (".pdf", b"%PDF-"), (".svg", b"<?xml")],
)
def test_the_format_is_that_of_the_file_and_its_folder_is_made(
    normbench: Run, tmp_path: Path, sweep: str, suffix: str, beginning: bytes
) -> None:
    name = f"new/batch{suffix}"
    code, out, _ = normbench("plot", "batch-size", sweep, "--size", "column", "-o", name)
    assert (code, out) == (0, f"{name}\n")
    assert (tmp_path / name).read_bytes().startswith(beginning)


def test_smoothing_changes_the_figure_of_losses(normbench: Run, tmp_path: Path, sweep: str) -> None:
    one_size = [sweep, "--where", "batch_size=64"]
    for name, smooth in {"raw": "1", "smooth": "3", "again": "3"}.items():
        assert normbench("plot", "loss", *one_size, "--smooth", smooth, "-o", f"{name}.svg")[0] == 0
    raw, smooth, again = (
        (tmp_path / f"{name}.svg").read_bytes() for name in ("raw", "smooth", "again")
    )
    assert smooth == again
    assert raw != smooth


@pytest.mark.usefixtures("runs")
def test_there_is_no_figure_of_times_that_were_not_measured(normbench: Run, tmp_path: Path) -> None:
    code, out, err = normbench("plot", "time")
    assert (code, out, err) == (2, "", "normbench: no times: normbench bench measures them\n")
    assert not (tmp_path / "time.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["los", SWEEP],
            "unknown figure 'los': did you mean 'loss'? allowed: batch-size, epochs, ",
        ),
        (
            ["loss", SWEEP, "--size", "pgae"],
            "unknown size 'pgae': did you mean 'page'? allowed: column, page, slide",
        ),
        (["batch-size", SWEEP, "-o", "x.jpg"], "unknown format '.jpg': "),
        (["batch-size", SWEEP, "-o", "x"], "unknown format 'x': "),
        (["epochs", SWEEP, "--smooth", "3"], "--smooth is for the figure loss, not for epochs"),
        (["loss", SWEEP, "--smooth", "0"], "--smooth 0: give the odd number of logged steps"),
        (
            ["time", SWEEP, "--bench", "nowhere"],
            "no bench.csv in nowhere: `normbench bench -o nowhere` writes it",
        ),
        (["learning-rate", SWEEP], "no figure against lr: all runs have 0.001"),
        (
            ["batch-size", SWEEP, "--where", "batch_size=8"],
            "no figure against batch_size: all runs have 8",
        ),
        (["loss", "nowhere"], "no runs in nowhere"),
    ],
)
def test_bad_input_of_plot_is_one_line_and_exit_code_2_and_draws_nothing(
    normbench: Run, tmp_path: Path, sweep: str, arguments: list[str], message: str
) -> None:
    given = [sweep if argument == SWEEP else argument for argument in arguments]
    code, out, err = normbench("plot", *given)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []
