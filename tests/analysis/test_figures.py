"""Figures, by what a reader sees in them and not by pixels."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.ratios import over_processes
from kit.runs import NUM_TRAIN, REGRESSION, rows_of, some_seconds, timed, write_runs
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle

from normbench.analysis.figures.labels import alt_text, spread_out
from normbench.analysis.figures.layout import MAX_PANELS
from normbench.analysis.figures.saving import save, to_svg
from normbench.analysis.figures.style import (
    FREE_MARKERS,
    INK,
    SIZES,
    STYLES,
    Size,
    drawing,
    looks_of,
    size_called,
)
from normbench.analysis.loading import load_study, with_bench
from normbench.analysis.outputs import output_named, outputs
from normbench.analysis.stats import mean_interval
from normbench.analysis.study import Study
from normbench.errors import NormbenchError
from normbench.timing.rounds import as_rounds

Draw = Callable[..., Figure]
RATES = (0.001, 0.01, 0.1)
NEW_NORMS = ("brn", "evo", "custom")  # without a style of their own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def one_panel(folder: Path) -> Study:
    runs = write_runs(folder / "one", ("bn", "gn", "ln"), seeds=(0, 1, 2), epochs=4, logged=40)
    return timed(load_study([runs]), some_seconds("bn", "gn", "ln"), processes=9)


@pytest.fixture(scope="module")
def sweep(folder: Path) -> Study:
    """Nothing of bn finished at batch size 1; gn was not timed; runs of ln shared the machine."""
    ended = {("bn", 1): ("diverged", "the loss is nan")}
    norms, seeds = ("bn", "gn", "ln"), (0, 1, 2)
    runs = write_runs(folder / "sweep", norms, (1, 8, 64), seeds, ended=ended, shared=["ln"])
    return timed(load_study([runs]), some_seconds("bn", "ln"))


@pytest.fixture(scope="module")
def rates(folder: Path) -> Study:
    runs = write_runs(
        folder / "rates", batch_sizes=(8, 64), seeds=(0, 1), rates=RATES, held_out=True
    )
    return load_study([runs])


@pytest.fixture(scope="module")
def new_norms(folder: Path) -> Study:
    """One seed each, two learning rates, no images held out; all but brn were timed."""
    runs = write_runs(folder / "new", ("bn", "gn", *NEW_NORMS), (8, 64), rates=(0.001, 0.01))
    return timed(load_study([runs]), some_seconds("bn", "gn", "evo", "custom"))


@pytest.fixture(scope="module")
def regression(folder: Path) -> Study:
    """A task whose primary metric is smaller when better, and is shown as it is."""
    runs = write_runs(folder / "task", batch_sizes=(8, 64), seeds=(0, 1), task=REGRESSION)
    return load_study([runs])


@pytest.fixture(scope="module")
def draw() -> Draw:
    """Draws a figure of a study by its name, each once."""
    drawn: dict[tuple[object, ...], Figure] = {}

    def draw(name: str, study: Study, *size: Size, **options: Any) -> Figure:
        key = (name, id(study), *size, *options.items())
        if key not in drawn:
            drawn[key] = output_named("figure", name).make(study, *size, **options)
        return drawn[key]

    return draw


def lines(axes: Axes) -> dict[str, Line2D]:
    """The lines with a name."""
    found = {str(line.get_label()): line for line in axes.get_lines()}
    return {name: line for name, line in found.items() if not name.startswith("_")}


def panel(figure: Figure, title: str, ylabel: str = "") -> Axes:
    """The panel with this title, and this label where it has any."""
    (found,) = [
        axes
        for axes in figure.axes
        if axes.get_title("left") == title and (axes.get_ylabel() or ylabel) == ylabel
    ]
    return found


def rows(table: pd.DataFrame, study: Study, **settings: object) -> pd.DataFrame:
    """The rows of a long table of the finished runs with these settings."""
    return table[table["run"].isin(study.done.at(**settings).runs["run"])]


def final(study: Study, column: str, **settings: object) -> list[float]:
    """The last epoch's figure of each finished run with these settings."""
    last = rows(study.metrics, study, **settings).groupby("run", sort=False)[column].last()
    return last.tolist()


def best_rate(study: Study, **settings: object) -> float:
    """The learning rate with the best mean on held-out images."""
    means = {lr: statistics.fmean(final(study, "val_accuracy", lr=lr, **settings)) for lr in RATES}
    return max(means, key=lambda lr: means[lr])


def shape(collection: PathCollection) -> str:
    """The marker that a scatter plot draws."""
    (path,) = collection.get_paths()
    for name in (*FREE_MARKERS, "x"):
        marker = MarkerStyle(name)
        vertices = marker.get_path().transformed(marker.get_transform()).vertices
        if vertices.shape == path.vertices.shape and np.allclose(vertices, path.vertices):
            return name
    raise AssertionError("a shape that is no marker of ours")


def scatters(axes: Axes) -> list[PathCollection]:
    collections = [one for one in axes.collections if isinstance(one, PathCollection)]
    return [one for one in collections if len(one.get_offsets())]


def colours(collection: Any) -> str:
    return to_hex(collection.get_facecolor()[0]).upper()


def error_bars(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Low and high of each vertical error bar, by colour."""
    bars = {}
    for container in axes.containers:
        for collection in container[2]:
            segments = collection.get_segments()
            ends = [(float(low[1]), float(high[1])) for low, high in segments]
            bars[to_hex(collection.get_color()[0])] = ends
    return bars


# The loss by step


def test_the_loss_of_a_norm_is_the_mean_over_its_seeds(one_panel: Study, draw: Draw) -> None:
    (axes,) = draw("loss", one_panel, smooth=1).axes
    assert set(lines(axes)) == {"bn", "gn", "ln"}
    for norm, line in lines(axes).items():
        expected = rows(one_panel.steps, one_panel, norm=norm).groupby("step")["loss"].mean()
        assert len(expected) == 40
        assert line.get_xdata().tolist() == expected.index.tolist()
        assert line.get_ydata() == pytest.approx(expected.tolist())


def test_a_smoothed_loss_is_a_centred_running_mean_before_the_raw_line(
    one_panel: Study, draw: Draw
) -> None:
    figure = draw("loss", one_panel, smooth=5)
    (axes,) = figure.axes
    for norm, bold in lines(axes).items():
        losses = rows(one_panel.steps, one_panel, norm=norm).groupby("step")["loss"].mean()
        raw = losses.tolist()
        of_norm = [line for line in axes.get_lines() if line.get_color() == bold.get_color()]
        (faint,) = [line for line in of_norm if line is not bold and len(line.get_xdata()) > 1]
        smooth = [statistics.fmean(raw[max(0, i - 2) : i + 3]) for i in range(len(raw))]
        assert faint.get_ydata() == pytest.approx(raw)
        assert bold.get_ydata() == pytest.approx(smooth)
        assert faint.get_alpha() < 0.5
        assert faint.get_linewidth() < bold.get_linewidth()
        assert axes.get_lines().index(faint) < axes.get_lines().index(bold)
    assert "running mean of 5 logged steps" in figure.get_label()


def test_a_line_too_short_to_be_smoothed_stays_as_it_is(one_panel: Study, draw: Draw) -> None:
    short = replace(one_panel, steps=one_panel.steps[one_panel.steps["step"] < 40])
    figure = draw("loss", short)
    (axes,) = figure.axes
    assert len([line for line in axes.get_lines() if len(line.get_xdata()) > 1]) == 3
    for norm, line in lines(axes).items():
        losses = rows(short.steps, short, norm=norm).groupby("step")["loss"].mean()
        assert line.get_ydata() == pytest.approx(losses.tolist())
    assert "running mean" not in figure.get_label()


def test_a_running_mean_is_never_longer_than_the_line(one_panel: Study, draw: Draw) -> None:
    steps = one_panel.steps["step"].nunique()
    longest = steps if steps % 2 else steps - 1
    figure, longer = draw("loss", one_panel, smooth=longest), draw("loss", one_panel, smooth=999)
    assert f"running mean of {longest} logged steps" in longer.get_label()
    assert longer.get_label() == figure.get_label()
    drawn, drawn_longer = lines(figure.axes[0]), lines(longer.axes[0])
    for norm, line in drawn.items():
        assert drawn_longer[norm].get_ydata() == pytest.approx(line.get_ydata())


@pytest.mark.parametrize("smooth", [0, -3, 4])
def test_a_running_mean_over_no_odd_number_of_steps_is_refused(
    one_panel: Study, draw: Draw, smooth: int
) -> None:
    refusal = f"--smooth {smooth}: give the odd number of logged steps to average over"
    with pytest.raises(NormbenchError, match=refusal):
        draw("loss", one_panel, smooth=smooth)


def test_runs_that_logged_no_steps_have_no_loss_by_step(one_panel: Study, draw: Draw) -> None:
    with pytest.raises(NormbenchError, match=r"no steps\.csv: these runs logged no steps"):
        draw("loss", replace(one_panel, steps=one_panel.steps.iloc[:0]))


def test_losses_by_step_are_those_of_the_rate_that_was_chosen(rates: Study, draw: Draw) -> None:
    figure = draw("loss", rates)
    for size in (8, 64):
        axes = panel(figure, f"batch size {size}", "training loss (nats)")
        for norm, line in lines(axes).items():
            settings = {"norm": norm, "batch_size": size}
            at_rate = rows(rates.steps, rates, lr=best_rate(rates, **settings), **settings)
            expected = at_rate.groupby("step")["loss"].mean()
            assert line.get_ydata() == pytest.approx(expected.tolist())


# Metrics by epoch


def band_ends(band: Any) -> list[tuple[float, float]]:
    """Lowest and highest value of a band at each epoch."""
    (path,) = band.get_paths()
    ends = pd.DataFrame(path.vertices).groupby(0)[1].agg(["min", "max"])
    return list(ends.itertuples(index=False, name=None))


@pytest.mark.parametrize(
    ("metric", "label", "scale"), [("loss", "loss (nats)", 1), ("accuracy", "accuracy (%)", 100)]
)
def test_epochs_are_solid_on_the_test_set_dashed_in_training_and_banded_over_seeds(
    sweep: Study, draw: Draw, metric: str, label: str, scale: int
) -> None:
    for size, norm in itertools.product((8, 64), ("bn", "gn", "ln")):
        axes = panel(draw("epochs", sweep), f"batch size {size}", label)
        solid = lines(axes)[norm]
        of_norm = [line for line in axes.get_lines() if line.get_color() == solid.get_color()]
        (dashed,) = [line for line in of_norm if line is not solid]
        assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
        bands = [one for one in axes.collections if colours(one) == solid.get_color().upper()]
        assert len(bands) == 2
        metrics = rows(sweep.metrics, sweep, norm=norm, batch_size=size)
        for line, split in ((solid, "test"), (dashed, "train")):
            over_seeds = (scale * metrics.set_index("epoch")[f"{split}_{metric}"]).groupby("epoch")
            assert line.get_xdata().tolist() == [1, 2, 3]
            assert line.get_ydata() == pytest.approx(over_seeds.mean().tolist())
            ends = over_seeds.agg(["min", "max"]).to_numpy()
            assert any(np.allclose(band_ends(band), ends) for band in bands)


def test_one_seed_has_no_band_and_no_word_of_one(new_norms: Study, draw: Draw) -> None:
    figure = draw("epochs", new_norms)
    assert not [one for axes in figure.axes for one in axes.collections]
    assert "bands" not in figure.get_label()


# Results against a setting


def test_batch_sizes_stand_on_a_log2_axis_with_a_tick_at_each_and_nowhere_else(
    sweep: Study, draw: Draw
) -> None:
    (axes,) = draw("batch-size", sweep).axes
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_transform().base == 2
    assert axes.get_xticks().tolist() == [1, 8, 64]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "8", "64"]
    assert len(axes.xaxis.get_minorticklocs()) == 0


def test_means_and_intervals_over_seeds_are_those_of_the_statistics(
    sweep: Study, draw: Draw
) -> None:
    (axes,) = draw("batch-size", sweep).axes
    for norm, line in lines(axes).items():
        sizes = (8, 64) if norm == "bn" else (1, 8, 64)
        expected = [
            mean_interval(final(sweep, "test_accuracy", norm=norm, batch_size=size))
            for size in sizes
        ]
        assert all(one.n == 3 for one in expected)
        known = np.isfinite(line.get_ydata())
        assert line.get_xdata()[known] == pytest.approx(sizes, rel=0.1)
        assert line.get_ydata()[known] == pytest.approx([100 * one.mean for one in expected])
        assert (norm == "bn") == (not known.all()), "a line is broken where no run finished"
        bars = error_bars(axes)[to_hex(line.get_color())]
        # A share of images is between 0 and 1.
        ends = [
            (max(0, one.mean - one.half_width), min(1, one.mean + one.half_width))
            for one in expected
        ]
        assert bars == [pytest.approx((100 * low, 100 * high)) for low, high in ends]


def test_every_seed_is_a_faint_dot(sweep: Study, draw: Draw) -> None:
    (axes,) = draw("batch-size", sweep).axes
    of_ln = [one for one in scatters(axes) if colours(one) == STYLES["ln"][0]]
    (dots,) = [one for one in of_ln if one.get_alpha() is not None]
    assert dots.get_alpha() < 0.5
    expected = [100 * value for value in final(sweep, "test_accuracy", norm="ln")]
    assert sorted(dots.get_offsets()[:, 1]) == pytest.approx(sorted(expected))


def test_where_no_run_finished_there_is_an_x_at_the_foot_and_a_word_of_it(
    sweep: Study, draw: Draw
) -> None:
    figure = draw("batch-size", sweep)
    (axes,) = figure.axes
    (lost,) = [one for one in scatters(axes) if shape(one) == "x"]
    ((x, y),) = lost.get_offsets()
    assert x == pytest.approx(1, rel=0.1)
    assert 0 <= y < 0.1
    assert lost.get_offset_transform() == axes.get_xaxis_transform()
    assert to_hex(lost.get_edgecolor()[0]).upper() == STYLES["bn"][0]
    assert "x at the foot: no run finished there" in figure.get_label()


def test_each_mean_leads_to_its_runs(sweep: Study, draw: Draw) -> None:
    svg = to_svg(draw("batch-size", sweep), SIZES["page"])
    pairs = {*itertools.product(("bn", "gn", "ln"), ("1", "8", "64"))} - {("bn", "1")}
    assert {*re.findall(r'"#runs:norm=(\w+);batch_size=(\d+)"', svg)} == pairs


def test_one_seed_has_no_error_bar_and_no_dot_of_its_own(new_norms: Study, draw: Draw) -> None:
    figure = draw("batch-size", new_norms.at(lr=0.001))
    (axes,) = figure.axes
    assert len(lines(axes)) == 5
    assert not axes.containers
    assert len(scatters(axes)) == 5
    assert "Student-t" not in figure.get_label()


@pytest.mark.parametrize(
    ("name", "what"), [("batch-size", "batch_size: all runs have 64"), ("learning-rate", "lr")]
)
def test_a_figure_against_what_does_not_vary_is_refused(
    one_panel: Study, draw: Draw, name: str, what: str
) -> None:
    with pytest.raises(NormbenchError, match=f"no figure against {what}"):
        draw(name, one_panel)


def test_learning_rates_are_shown_by_the_images_held_out_and_the_axis_says_so(
    rates: Study, draw: Draw
) -> None:
    for size in (8, 64):
        axes = panel(draw("learning-rate", rates), f"batch size {size}", "validation accuracy (%)")
        assert axes.xaxis.get_transform().base == 10
        assert axes.get_xticks().tolist() == list(RATES)
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.001", "0.01", "0.1"]
        for norm, line in lines(axes).items():
            of_norm = {"norm": norm, "batch_size": size}
            means = [np.mean(final(rates, "val_accuracy", lr=lr, **of_norm)) for lr in RATES]
            assert line.get_ydata() == pytest.approx([100 * mean for mean in means])


def test_without_images_held_out_learning_rates_are_shown_by_the_test_set(
    new_norms: Study, draw: Draw
) -> None:
    axes = panel(draw("learning-rate", new_norms), "batch size 8", "test accuracy (%)")
    of_bn = {"norm": "bn", "batch_size": 8}
    expected = [final(new_norms, "test_accuracy", lr=lr, **of_bn)[0] for lr in (0.001, 0.01)]
    assert lines(axes)["bn"].get_ydata() == pytest.approx([100 * value for value in expected])


def test_results_are_those_of_the_rate_that_was_best_on_images_held_out_and_not_on_the_test_set(
    rates: Study, draw: Draw
) -> None:
    (axes,) = draw("batch-size", rates).axes
    is_best_on_test_set = []
    for norm, line in lines(axes).items():
        for size, drawn in zip((8, 64), line.get_ydata(), strict=True):
            settings = {"norm": norm, "batch_size": size}
            on_test = {
                lr: statistics.fmean(final(rates, "test_accuracy", lr=lr, **settings))
                for lr in RATES
            }
            assert drawn == pytest.approx(100 * on_test[best_rate(rates, **settings)])
            is_best_on_test_set.append(drawn == pytest.approx(100 * max(on_test.values())))
    assert not all(is_best_on_test_set)


def test_norms_stay_in_one_panel_where_none_finished_at_a_batch_size_and_rates_were_chosen(
    folder: Path, draw: Draw
) -> None:
    ended = {("bn", 8): ("diverged", "the loss is nan")}
    sizes, two = (8, 64), (0.001, 0.01)
    runs = write_runs(folder / "lost", ("bn", "gn"), sizes, (0,), two, held_out=True, ended=ended)
    (axes,) = draw("batch-size", load_study([runs])).axes
    assert set(lines(axes)) == {"bn", "gn"}
    assert [shape(one) for one in scatters(axes)].count("x") == 1


def test_a_panel_with_one_batch_size_among_panels_of_others_is_drawn(
    folder: Path, draw: Draw
) -> None:
    for size in (8, 64):
        settings = {"gn": [{"optim": {"reference_batch_size": size}}]}
        write_runs(folder / "single" / str(size), ("gn",), (size,), settings=settings)
    figure = draw("batch-size", load_study([folder / "single" / "8", folder / "single" / "64"]))
    assert [axes.get_xticks().tolist() for axes in figure.axes] == [[8], [64]]


def test_another_task_has_figures_of_its_own_metric(regression: Study, draw: Draw) -> None:
    assert {axes.get_ylabel() for axes in draw("epochs", regression).axes} == {
        "loss (nats)",
        "squared error",
    }
    (axes,) = draw("batch-size", regression).axes
    assert axes.get_ylabel() == "test squared error"
    values = [final(regression, "test_squared_error", norm="bn", batch_size=n) for n in (8, 64)]
    means = [statistics.fmean(found) for found in values]
    assert lines(axes)["bn"].get_ydata() == pytest.approx(means)
    titles = [output.titled(regression) for output in outputs("figure", regression)]
    assert "Test squared error against batch size" in titles


# Times


def test_a_time_is_the_median_over_rounds_with_the_middle_half_of_them_and_its_ratio_to_bn(
    one_panel: Study, draw: Draw
) -> None:
    (axes,) = draw("time", one_panel).axes
    steps = {norm: np.array(found) for norm, found in some_seconds("bn", "gn", "ln").items()}
    assert [text.get_text() for text in axes.get_yticklabels()] == list(steps)
    assert axes.yaxis.get_inverted()
    for container, found in zip(axes.containers, steps.values(), strict=True):
        low, middle, high = np.sort(found)[[2, 4, 6]] * NUM_TRAIN / 64  # of nine rounds
        assert container[0].get_xdata() == pytest.approx([middle])
        ((start, end),) = container[2][0].get_segments()
        assert (start[0], end[0]) == pytest.approx((low, high))
    said = []
    for norm in ("gn", "ln"):
        ratios = steps[norm] / steps["bn"]
        value, low, high = over_processes([[ratio] for ratio in ratios])
        said.append(f"{value:.2f}x ({low:.2f} to {high:.2f})")
    assert [text.get_text() for text in axes.texts] == said
    assert axes.get_xlim()[0] == 0


def test_the_seconds_of_the_runs_themselves_are_in_no_figure(one_panel: Study, draw: Draw) -> None:
    slower = replace(
        one_panel,
        runs=one_panel.runs.assign(median_train_seconds=1e6),
        metrics=one_panel.metrics.assign(train_seconds=1e6),
    )
    assert alt_text(draw("time", slower)) == alt_text(draw("time", one_panel))
    places = [
        [container[0].get_xdata().tolist() for container in draw("time", study).axes[0].containers]
        for study in (slower, one_panel)
    ]
    assert places[0] == places[1]


def test_times_are_of_what_was_timed_whether_or_not_its_runs_shared_the_machine(
    sweep: Study, draw: Draw
) -> None:
    figure = draw("time", sweep)
    shown = {}
    for axes in figure.axes:
        shown[axes.get_title("left")] = [text.get_text() for text in axes.get_yticklabels()]
    both = ["bn", "ln"]
    assert shown == {"batch size 1": ["ln"], "batch size 8": both, "batch size 64": both}
    ratios = [len(axes.texts) for axes in figure.axes]
    assert ratios == [0, 1, 1], "no ratio to a bn that did not finish"


def test_without_a_run_that_was_timed_no_time_is_shown(folder: Path, draw: Draw) -> None:
    study = load_study([write_runs(folder / "untimed")])
    config = next(iter(study.configs.values())) | {"norm.name": "in"}
    of_another = with_bench(study, as_rounds(rows_of(config, [0.1])))
    for untimed in (study, of_another):
        with pytest.raises(NormbenchError, match=r"^no times: normbench bench measures them$"):
            draw("time", untimed)


def test_many_norms_make_a_higher_figure_of_times_in_which_no_two_names_touch(
    folder: Path, draw: Draw
) -> None:
    norms = ("bn", *(f"norm{i}" for i in range(24)))
    study = load_study([write_runs(folder / "many", norms, epochs=1, logged=1)])
    figure = draw("time", timed(study, some_seconds(*norms)))
    figure.canvas.draw()
    (axes,) = figure.axes
    names = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert all(one.y0 >= other.y1 for one, other in itertools.pairwise(names))


# What all figures have in common


@pytest.fixture(scope="module")
def unfinished(folder: Path) -> Study:
    ended = {("bn", 8): ("diverged", "nan")}
    return load_study([write_runs(folder / "unfinished", ("bn",), (8,), (0, 1), ended=ended)])


@pytest.mark.parametrize("name", [output.name for output in outputs("figure")])
def test_nothing_is_drawn_where_nothing_finished(unfinished: Study, draw: Draw, name: str) -> None:
    with pytest.raises(NormbenchError, match="no figure: none of 2 runs finished"):
        draw(name, unfinished)


def look(figure: Figure) -> dict[str, tuple[str, str]]:
    """Colour and marker of each norm: of its line, or of the dot in its row."""
    found: dict[str, set[tuple[str, str]]] = {}
    for axes in figure.axes:
        named = lines(axes)
        if not named:
            rows_of_axes = zip(axes.get_yticklabels(), axes.containers, strict=True)
            named = {text.get_text(): container[0] for text, container in rows_of_axes}
        for name, line in named.items():
            pair = (to_hex(line.get_color()).upper(), str(line.get_marker()))
            found.setdefault(name, set()).add(pair)
    return {name: pairs.pop() for name, pairs in found.items() if len(pairs) == 1}


def test_a_norm_looks_the_same_in_every_figure(new_norms: Study, draw: Draw) -> None:
    at_one_rate = new_norms.at(lr=0.001)
    looks = [look(draw(name, at_one_rate)) for name in ("loss", "epochs", "batch-size", "time")]
    looks.append(look(draw("learning-rate", new_norms)))
    expected = look(draw("loss", at_one_rate))
    assert [len(found) for found in looks] == [5, 5, 5, 4, 5]
    assert {norm: expected[norm] for norm in ("bn", "gn")} == {
        norm: STYLES[norm] for norm in ("bn", "gn")
    }
    for found in looks:
        assert (
            found.items()
            <= {
                norm: (colour.upper(), marker) for norm, (colour, marker) in expected.items()
            }.items()
        )


def test_twenty_five_norms_of_the_user_have_looks_of_their_own() -> None:
    labels = [*STYLES, *(f"norm{i}" for i in range(25))]
    found = looks_of(labels)
    assert list(found) == labels
    assert len({*found.values()}) == len(labels)
    assert found.items() >= STYLES.items()


def test_the_norms_of_the_project_differ_in_print_without_colours() -> None:
    compared = [STYLES[norm][1] for norm in ("bn", "ln", "in", "gn", "none")]
    assert len({*compared}) == len(compared)
    for colour, _ in STYLES.values():
        red, green, blue = to_rgb(colour)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75  # stands out on white


def test_whatever_is_drawn_in_any_panel_is_named_with_its_marker(folder: Path, draw: Draw) -> None:
    """bn is missing in the first panel; ten norms are too many to be named at their lines."""
    norms = ("gn", "bn", "in", "ln", "none", *(f"norm{i}" for i in range(5)))
    ended = {("bn", 1): ("diverged", "nan")}
    study = load_study([write_runs(folder / "ten", norms, (1, 64), ended=ended)])
    for name in ("loss", "epochs", "batch-size"):
        (legend,) = draw(name, study).legends
        shown = {}
        for text, handle in zip(legend.get_texts(), legend.get_lines(), strict=True):
            shown[text.get_text()] = (handle.get_color(), handle.get_marker())
        assert shown == looks_of(norms)


def test_options_of_a_norm_make_lines_of_their_own_in_every_panel(folder: Path, draw: Draw) -> None:
    places = []
    for size, groups in ((8, (2,)), (64, (2, 16))):
        settings = {"gn": [{"norm": {"num_groups": number}} for number in groups]}
        places.append(write_runs(folder / f"options-{size}", ("gn",), (size,), settings=settings))
    figure = draw("loss", load_study(places))
    eight, sixty_four = map(lines, figure.axes)
    assert set(eight) == {"gn num groups 2"}
    assert set(sixty_four) == {"gn num groups 2", "gn num groups 16"}
    assert eight["gn num groups 2"].get_color() == sixty_four["gn num groups 2"].get_color()


def test_more_panels_than_one_can_look_at_are_refused(folder: Path, draw: Draw) -> None:
    sizes = range(1, MAX_PANELS + 2)
    study = load_study([write_runs(folder / "panels", ("bn",), sizes, epochs=1, logged=2)])
    refusal = f"{MAX_PANELS + 1} panels, for batch_size: choose among them with --where"
    with pytest.raises(NormbenchError, match=refusal):
        draw("loss", study)


OF_RUNS = ("cifar10-jpeg", "3 epochs", "24 runs", "3 seeds", "a processor", "fp32", "torch 2.15.0")
OF_RUNS += ("0123456789ab.",)
OF_ROUNDS = ("a training step's median", "9 rounds", "another processor", "threads: 1")
OF_ROUNDS += ("of one process, without an interval, which takes 5",)
OF_ROUNDS += ("torch 2.16.0", "fedcba987654.", "Bars: the middle half of the rounds.")
OF_ROUNDS += ("Times are of this study's network (normresnet), not of the norm as such.",)


@pytest.mark.parametrize(
    ("name", "x", "y", "words"),
    [
        ("loss", "step", ["training loss (nats)"], OF_RUNS),
        ("epochs", "epoch", ["loss (nats)", "accuracy (%)"], OF_RUNS),
        ("batch-size", "batch size (images, log2)", ["test accuracy (%)"], OF_RUNS),
        ("time", "training time per epoch (s)", [""], OF_ROUNDS),
    ],
)
def test_axes_and_caption_say_what_a_figure_shows_and_what_it_rests_on(
    sweep: Study, draw: Draw, name: str, x: str, y: list[str], words: tuple[str, ...]
) -> None:
    figure = draw(name, sweep)
    assert {axes.get_xlabel() for axes in figure.axes} == {x}
    firsts = [axes for axes in figure.axes if axes.get_subplotspec().is_first_col()]
    assert [axes.get_ylabel() for axes in firsts] == y
    said = figure.get_label()
    assert [word for word in words if word not in said] == []
    assert figure.get_supxlabel().split() == said.split()


def test_a_caption_of_times_says_the_widths_of_the_network(folder: Path, draw: Draw) -> None:
    settings = {"bn": [{"model": {"widths": [8, 16]}}]}
    study = load_study([write_runs(folder / "widths", ("bn",), settings=settings)])
    said = draw("time", timed(study, some_seconds("bn"))).get_label()
    assert "this study's network (normresnet, widths 8, 16), not of the norm" in said


@pytest.mark.parametrize("size", SIZES.values(), ids=[*SIZES])
def test_names_at_the_ends_of_lines_do_not_overlap(folder: Path, draw: Draw, size: Size) -> None:
    runs = folder / "eight"
    if not runs.exists():
        write_runs(runs, [f"norm{i}" for i in range(8)], epochs=1, logged=8)
    study = load_study([runs])
    ends_together = study.steps.assign(loss=2 - 0.01 * study.steps["step"])
    figure = draw("loss", replace(study, steps=ends_together), size)
    figure.canvas.draw()
    (axes,) = figure.axes
    assert sorted(text.get_text() for text in axes.texts) == [f"norm{i}" for i in range(8)]
    boxes = sorted((text.get_tightbbox() for text in axes.texts), key=lambda box: box.y0)
    assert [low.y1 <= high.y0 + 0.5 for low, high in itertools.pairwise(boxes)] == [True] * 7
    for box in boxes:
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1
        assert box.x1 <= figure.bbox.x1


PLACES = st.lists(st.floats(0, 1), min_size=1, max_size=10).map(sorted)
LEAST = st.floats(0.01, 0.3)


@given(PLACES, LEAST)
def test_spreading_keeps_the_distance_and_moves_no_more_than_least_squares_would(
    places: Sequence[float], least: float
) -> None:
    """By the minimax formula of isotonic regression, on places without the distances owed."""
    rest = [place - i * least for i, place in enumerate(places)]
    expected = []
    for i in range(len(rest)):
        lows = [
            min(statistics.fmean(rest[start : end + 1]) for end in range(i, len(rest)))
            for start in range(i + 1)
        ]
        expected.append(max(lows) + i * least)
    found = spread_out(places, least)
    assert found == pytest.approx(expected)
    assert all(high - low >= least - 1e-9 for low, high in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("name", "width", "rows_of_two", "height"),
    [("column", 3.5, 2, 5.0), ("page", 7.2, 1, 2.5), ("slide", 13.33, 1, 7.5)],
)
def test_a_size_is_in_inches(
    rates: Study, draw: Draw, name: str, width: float, rows_of_two: int, height: float
) -> None:
    figure = draw("loss", rates, size_called(name))
    assert figure.get_size_inches().tolist() == [width, height]
    starts = {axes.get_subplotspec().rowspan.start for axes in figure.axes}
    assert len(starts) == rows_of_two


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(NormbenchError, match="unknown size 'pge': did you mean 'page'"):
        size_called("pge")


# Files


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_same_figure_gives_the_same_bytes(
    one_panel: Study, tmp_path: Path, suffix: str
) -> None:
    loss = output_named("figure", "loss").make
    figure, another = loss(one_panel, smooth=5), loss(one_panel, smooth=5)
    files = []
    for name, drawn in (("first", figure), ("second", another), ("third", figure)):
        save(drawn, tmp_path / f"{name}{suffix}")
        files.append((tmp_path / f"{name}{suffix}").read_bytes())
    first, second, third = files
    assert len(first) > 5000
    assert first == second == third


def test_a_file_of_another_format_is_refused(one_panel: Study, draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(NormbenchError, match=r"unknown format '\.gif'"):
        save(draw("time", one_panel), tmp_path / "new" / "time.gif")
    assert not (tmp_path / "new").exists()


def test_text_in_an_svg_stays_text(one_panel: Study, draw: Draw, tmp_path: Path) -> None:
    save(draw("time", one_panel), tmp_path / "time.svg")
    written = (tmp_path / "time.svg").read_text()
    assert ">training time per epoch (s)</text>" in written
    assert ">gn</text>" in written
    assert "#runs" not in written


def test_drawing_and_saving_leave_the_global_style_alone(sweep: Study, tmp_path: Path) -> None:
    time = output_named("figure", "time").make
    mpl.rcParams["font.size"] = 17
    try:
        before = dict(mpl.rcParams)
        figure = time(sweep)
        save(figure, tmp_path / "time.svg")
        assert dict(mpl.rcParams) == before
        with pytest.raises(ZeroDivisionError), drawing(SIZES["slide"]):
            1 / (mpl.rcParams["font.size"] - 18)
        assert dict(mpl.rcParams) == before
    finally:
        mpl.rcParams["font.size"] = mpl.rcParamsDefault["font.size"]


def test_a_figure_in_words_says_where_lines_begin_and_end(one_panel: Study, draw: Draw) -> None:
    figure = draw("loss", one_panel)
    words = alt_text(figure)
    assert words.startswith("training loss (nats) against step.")
    for norm, line in lines(figure.axes[0]).items():
        assert f"{norm} from {line.get_ydata()[0]:.3g} to {line.get_ydata()[-1]:.3g}" in words


def test_text_on_paper_is_in_our_ink(sweep: Study, draw: Draw) -> None:
    (axes,) = draw("batch-size", sweep).axes
    labels = (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels())
    assert {to_hex(label.get_color()) for label in labels} == {INK}
