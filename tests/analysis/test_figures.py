"""Figures, by what is drawn and not by pixels."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_rounds import NUM_TRAIN, rows_of, some_seconds, timed
from made_up_runs import write_runs
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from normbench.analysis.frames import Frames

from normbench.analysis.figures import FIGURES
from normbench.analysis.figures.labels import alt_text, spread_out
from normbench.analysis.figures.layout import MAX_PANELS
from normbench.analysis.figures.saving import save
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
from normbench.analysis.loading import load_frames
from normbench.analysis.stats import mean_interval
from normbench.analysis.times import with_rounds
from normbench.errors import NormbenchError
from normbench.timing.rounds import as_rounds

SHAPES = ("o", "s", "^", "D", "X", *FREE_MARKERS)
NEW_NORMS = ("brn", "evo", "frn")  # without a style of their own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def one_panel(folder: Path) -> Frames:
    runs = write_runs(folder / "one", ("bn", "gn", "ln"), seeds=(0, 1, 2), epochs=4, logged=40)
    return timed(load_frames([runs]), some_seconds("bn", "gn", "ln"))


@pytest.fixture(scope="module")
def sweep(folder: Path) -> Frames:
    """Nothing of bn finished at batch size 1; gn was not timed, and ln was, whose runs shared the machine."""
    ended = {("bn", 1): ("diverged", "the loss is nan")}
    runs = write_runs(
        folder / "sweep", ("bn", "gn", "ln"), (1, 8, 64), (0, 1, 2), ended=ended, shared=["ln"]
    )
    return timed(load_frames([runs]), some_seconds("bn", "ln"))


@pytest.fixture(scope="module")
def rates(folder: Path) -> Frames:
    return load_frames(
        [
            write_runs(
                folder / "rates",
                batch_sizes=(8, 64),
                seeds=(0, 1),
                rates=(0.001, 0.01, 0.1),
                held_out=True,
            )
        ]
    )


@pytest.fixture(scope="module")
def new_norms(folder: Path) -> Frames:
    """All but brn were timed."""
    runs = write_runs(folder / "new", ("bn", "gn", *NEW_NORMS), (8, 64), rates=(0.001, 0.01))
    return timed(load_frames([runs]), some_seconds("bn", "gn", "evo", "frn"))


@pytest.fixture(scope="module")
def batch_size_figure(sweep: Frames) -> Figure:
    return FIGURES["batch-size"](sweep)


@pytest.fixture(scope="module")
def accuracy_figure(sweep: Frames) -> Figure:
    return FIGURES["accuracy"](sweep)


@pytest.fixture(scope="module")
def rate_figure(rates: Frames) -> Figure:
    return FIGURES["learning-rate"](rates)


@pytest.fixture(scope="module")
def time_figure(one_panel: Frames) -> Figure:
    return FIGURES["time"](one_panel)


def lines(axes: Axes) -> dict[str, Line2D]:
    """The lines that are named."""
    return {
        str(line.get_label()): line
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def panel(figure: Figure, title: str, ylabel: str = "") -> Axes:
    (found,) = [
        axes
        for axes in figure.axes
        if (axes.get_title("left"), axes.get_ylabel() or ylabel) == (title, ylabel)
    ]
    return found


def of(table: object, frames: Frames, **settings: object) -> list[dict[str, object]]:
    """Rows of a long table that belong to finished runs with these settings."""
    chosen = [
        row
        for row in frames.runs.to_dict("records")
        if all(row[key] == settings[key] for key in settings)
    ]
    ids = {row["run"] for row in chosen if row["status"] == "done"}
    return [row for row in table.to_dict("records") if row["run"] in ids]  # type: ignore[attr-defined]


def mean_by(rows: Sequence[dict[str, object]], key: str, value: str) -> dict[object, float]:
    places = sorted({row[key] for row in rows})  # type: ignore[type-var]
    return {at: statistics.fmean(row[value] for row in rows if row[key] == at) for at in places}  # type: ignore[misc]


def running_mean(values: Sequence[float], width: int) -> list[float]:
    half = width // 2
    return [statistics.fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def final(frames: Frames, metric: str, **settings: object) -> list[float]:
    """The last epoch's metric of each finished run with these settings, by run."""
    last = {row["run"]: float(row[metric]) for row in of(frames.metrics, frames, **settings)}  # type: ignore[arg-type]
    return list(last.values())


def shape(collection: PathCollection) -> str:
    """The marker that a scatter plot draws."""
    (path,) = collection.get_paths()
    for name in (*SHAPES, "x"):
        marker = MarkerStyle(name)
        of_name = marker.get_path().transformed(marker.get_transform())
        if of_name.vertices.shape == path.vertices.shape and np.allclose(
            of_name.vertices, path.vertices
        ):
            return name
    raise AssertionError("a shape that is no marker of ours")


def scatters(axes: Axes) -> list[PathCollection]:
    return [
        one
        for one in axes.collections
        if isinstance(one, PathCollection) and len(one.get_offsets())
    ]


def marker_of(axes: Axes, colour: str) -> str:
    """The marker of this colour: on its line, or drawn apart from it."""
    on_lines = {
        str(line.get_marker()) for line in axes.get_lines() if to_hex(line.get_color()) == colour
    }
    apart = {
        shape(one)
        for one in scatters(axes)
        if to_hex(one.get_facecolor()[0]) == colour and one.get_alpha() is None
    }
    (found,) = (on_lines | apart) & {*SHAPES}
    return found


def look(figure: Figure) -> dict[str, tuple[str, str]]:
    """Colour and marker of each norm."""
    found: dict[str, set[tuple[str, str]]] = {}
    for axes in figure.axes:
        named = {name: to_hex(line.get_color()) for name, line in lines(axes).items()}
        if not named:
            rows = zip(axes.get_yticklabels(), axes.containers, strict=True)
            named = {text.get_text(): to_hex(container[0].get_color()) for text, container in rows}
        for name, colour in named.items():
            found.setdefault(name, set()).add((colour, marker_of(axes, colour)))
    return {name: looks.pop() for name, looks in found.items() if len(looks) == 1}


def error_bars(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Low and high of each error bar, by colour."""
    bars: dict[str, list[tuple[float, float]]] = {}
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        for collection in container[2]:
            ends = [
                (float(segment[0][1]), float(segment[1][1]))
                for segment in collection.get_segments()
            ]
            bars[to_hex(collection.get_color()[0])] = ends
    return bars


def test_the_loss_of_a_norm_is_the_mean_over_its_seeds(one_panel: Frames) -> None:
    (axes,) = FIGURES["loss"](one_panel, smooth=1).axes
    assert set(lines(axes)) == {"bn", "gn", "ln"}
    for norm, line in lines(axes).items():
        expected = mean_by(of(one_panel.steps, one_panel, norm=norm), "step", "loss")
        assert len(expected) == 40
        assert line.get_xdata().tolist() == list(expected)
        assert line.get_ydata() == pytest.approx(list(expected.values()))


def test_a_smoothed_loss_is_a_centred_running_mean_before_the_raw_line(one_panel: Frames) -> None:
    (axes,) = FIGURES["loss"](one_panel, smooth=5).axes
    for norm, bold in lines(axes).items():
        raw = list(mean_by(of(one_panel.steps, one_panel, norm=norm), "step", "loss").values())
        of_norm = [
            one
            for one in axes.get_lines()
            if one.get_color() == bold.get_color() and one is not bold
        ]
        (faint,) = [one for one in of_norm if len(one.get_xdata()) > 1]
        assert faint.get_ydata() == pytest.approx(raw)
        assert bold.get_ydata() == pytest.approx(running_mean(raw, 5))
        assert faint.get_alpha() < 0.5
        assert faint.get_linewidth() < bold.get_linewidth()
        assert axes.get_lines().index(faint) < axes.get_lines().index(bold)


def test_a_line_too_short_to_be_smoothed_stays_as_it_is(sweep: Frames) -> None:
    steps = sweep.steps[sweep.steps["step"] < 100]
    for axes in FIGURES["loss"](replace(sweep, steps=steps), smooth=None).axes:
        for norm, line in lines(axes).items():
            batch_size = int(axes.get_title("left").split()[-1])
            rows = of(steps, sweep, norm=norm, batch_size=batch_size)
            assert line.get_ydata() == pytest.approx(list(mean_by(rows, "step", "loss").values()))


def test_a_caption_names_the_width_that_was_averaged_over(one_panel: Frames) -> None:
    assert "running mean of 5 logged steps" in FIGURES["loss"](one_panel, smooth=5).get_label()
    short = replace(one_panel, steps=one_panel.steps[one_panel.steps["step"] < 40])
    figure = FIGURES["loss"](short, smooth=None)
    (axes,) = figure.axes
    assert len([one for one in axes.get_lines() if len(one.get_xdata()) > 1]) == 3
    assert "running mean" not in figure.get_label()


@pytest.mark.parametrize("smooth", [0, -3, 4])
def test_a_running_mean_over_no_odd_number_of_steps_is_refused(
    one_panel: Frames, smooth: int
) -> None:
    with pytest.raises(
        NormbenchError,
        match=f"--smooth {smooth}: give the odd number of logged steps to average over",
    ):
        FIGURES["loss"](one_panel, smooth=smooth)


def test_runs_that_logged_no_steps_have_no_loss_by_step(one_panel: Frames) -> None:
    with pytest.raises(NormbenchError, match=r"no steps\.csv: these runs logged no steps"):
        FIGURES["loss"](replace(one_panel, steps=one_panel.steps.iloc[:0]))


@pytest.mark.parametrize(
    ("what", "ylabel", "factor"), [("loss", "loss (nats)", 1), ("accuracy", "accuracy (%)", 100)]
)
def test_epochs_are_solid_on_the_test_set_dashed_in_training_and_banded_over_seeds(
    accuracy_figure: Figure, sweep: Frames, what: str, ylabel: str, factor: int
) -> None:
    for batch_size, norm in itertools.product((8, 64), ("bn", "gn", "ln")):
        axes = panel(accuracy_figure, f"batch size {batch_size}", ylabel)
        solid = lines(axes)[norm]
        (dashed,) = [
            one
            for one in axes.get_lines()
            if one.get_color() == solid.get_color() and one is not solid
        ]
        assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
        bands = [
            one
            for one in axes.collections
            if to_hex(one.get_facecolor()[0]) == to_hex(solid.get_color())
        ]
        assert len(bands) == 2
        rows = of(sweep.metrics, sweep, norm=norm, batch_size=batch_size)
        for line, name in ((solid, f"test_{what}"), (dashed, f"train_{what}")):
            means = mean_by(rows, "epoch", name)
            assert line.get_xdata().tolist() == [1, 2, 3]
            assert line.get_ydata() == pytest.approx([factor * value for value in means.values()])
            ends = {
                at: [factor * row[name] for row in rows if row["epoch"] == at] for at in (1, 2, 3)
            }  # type: ignore[operator]
            expected = [(min(values), max(values)) for values in ends.values()]
            assert any(np.allclose(band_ends(band), expected) for band in bands)


def band_ends(band: PolyCollection) -> list[tuple[float, float]]:
    """Lowest and highest value of a band at each epoch."""
    (path,) = band.get_paths()
    epochs = sorted({float(x) for x in path.vertices[:, 0]})
    heights = [path.vertices[path.vertices[:, 0] == epoch, 1] for epoch in epochs]
    return [(float(found.min()), float(found.max())) for found in heights]


def test_one_seed_has_no_band_and_no_word_of_one(new_norms: Frames) -> None:
    figure = FIGURES["accuracy"](new_norms)
    assert not [one for axes in figure.axes for one in axes.collections]
    assert "bands" not in figure.get_label()


def test_batch_sizes_stand_on_a_log2_axis_with_a_tick_at_each_and_nowhere_else(
    batch_size_figure: Figure,
) -> None:
    (axes,) = batch_size_figure.axes
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_transform().base == 2
    assert axes.get_xticks().tolist() == [1, 8, 64]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "8", "64"]
    assert len(axes.xaxis.get_minorticklocs()) == 0


def test_means_and_intervals_over_seeds_are_those_of_the_statistics(
    batch_size_figure: Figure, sweep: Frames
) -> None:
    (axes,) = batch_size_figure.axes
    for norm, line in lines(axes).items():
        batch_sizes = (8, 64) if norm == "bn" else (1, 8, 64)
        expected = [
            mean_interval(final(sweep, "test_accuracy", norm=norm, batch_size=size))
            for size in batch_sizes
        ]
        assert all(one.n == 3 for one in expected)
        known = np.isfinite(line.get_ydata())
        assert line.get_xdata()[known] == pytest.approx(batch_sizes, rel=0.1)
        assert line.get_ydata()[known] == pytest.approx([100 * one.mean for one in expected])
        assert (norm == "bn") == (not known.all()), "a line is broken where no run finished"
        bars = error_bars(axes)[to_hex(line.get_color())]
        assert bars == [pytest.approx((100 * one.low, 100 * one.high)) for one in expected]


def test_every_seed_is_a_faint_dot(batch_size_figure: Figure, sweep: Frames) -> None:
    (axes,) = batch_size_figure.axes
    (dots,) = [
        one
        for one in scatters(axes)
        if to_hex(one.get_facecolor()[0]) == STYLES["ln"][0].lower() and one.get_alpha() is not None
    ]
    assert dots.get_alpha() < 0.5
    drawn = sorted(float(y) for _, y in dots.get_offsets())
    assert drawn == pytest.approx(
        sorted(100 * value for value in final(sweep, "test_accuracy", norm="ln"))
    )


def test_where_no_run_finished_there_is_an_x_at_the_foot_and_a_word_of_it(
    batch_size_figure: Figure,
) -> None:
    (axes,) = batch_size_figure.axes
    (lost,) = [one for one in scatters(axes) if shape(one) == "x"]
    ((x, y),) = lost.get_offsets()
    assert x == pytest.approx(1, rel=0.1)
    assert 0 <= y < 0.1
    assert lost.get_offset_transform() == axes.get_xaxis_transform()
    assert to_hex(lost.get_edgecolor()[0]) == STYLES["bn"][0].lower()
    assert "x at the foot: no run finished there" in batch_size_figure.get_label()


def test_one_seed_has_no_error_bar_and_no_dot_of_its_own(new_norms: Frames) -> None:
    chosen = new_norms.runs[new_norms.runs["lr"] == 0.001]
    figure = FIGURES["batch-size"](replace(new_norms, runs=chosen))
    (axes,) = figure.axes
    assert len(lines(axes)) == 5
    assert not axes.containers
    assert len(scatters(axes)) == 5
    assert "Student-t" not in figure.get_label()


@pytest.mark.parametrize(
    ("name", "what"), [("batch-size", "batch_size: all runs have 64"), ("learning-rate", "lr")]
)
def test_a_figure_against_what_does_not_vary_is_refused(
    one_panel: Frames, name: str, what: str
) -> None:
    with pytest.raises(NormbenchError, match=f"no figure against {what}"):
        FIGURES[name](one_panel)


def test_learning_rates_are_shown_by_the_images_held_out_and_the_axis_says_so(
    rate_figure: Figure, rates: Frames
) -> None:
    assert rate_figure.axes[0].get_ylabel() == "validation accuracy (%)"
    for batch_size in (8, 64):
        axes = panel(rate_figure, f"batch size {batch_size}", rate_figure.axes[0].get_ylabel())
        assert axes.xaxis.get_transform().base == 10
        assert axes.get_xticks().tolist() == [0.001, 0.01, 0.1]
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.001", "0.01", "0.1"]
        for norm, line in lines(axes).items():
            settings = {"norm": norm, "batch_size": batch_size}
            found = [
                mean_interval(final(rates, "val_accuracy", lr=lr, **settings))
                for lr in (0.001, 0.01, 0.1)
            ]
            assert line.get_ydata() == pytest.approx([100 * one.mean for one in found])


def test_without_images_held_out_learning_rates_are_shown_by_the_test_set(
    new_norms: Frames,
) -> None:
    figure = FIGURES["learning-rate"](new_norms)
    assert figure.axes[0].get_ylabel() == "test accuracy (%)"
    line = lines(panel(figure, "batch size 8", "test accuracy (%)"))["bn"]
    expected = [
        final(new_norms, "test_accuracy", norm="bn", batch_size=8, lr=lr)[0] for lr in (0.001, 0.01)
    ]
    assert line.get_ydata() == pytest.approx([100 * value for value in expected])


def test_figures_show_the_rate_that_was_best_on_images_held_out_and_not_on_the_test_set(
    rates: Frames,
) -> None:
    (axes,) = FIGURES["batch-size"](rates).axes
    on_test_set_instead = []
    for norm, line in lines(axes).items():
        for batch_size, drawn in zip((8, 64), line.get_ydata(), strict=True):
            settings = {"norm": norm, "batch_size": batch_size}
            held_out, on_test = (
                {
                    lr: statistics.fmean(final(rates, metric, lr=lr, **settings))
                    for lr in (0.001, 0.01, 0.1)
                }
                for metric in ("val_accuracy", "test_accuracy")
            )
            assert drawn == pytest.approx(100 * on_test[max(held_out, key=lambda lr: held_out[lr])])
            on_test_set_instead.append(drawn == pytest.approx(100 * max(on_test.values())))
    assert not all(on_test_set_instead)


def test_losses_by_step_are_those_of_the_rate_that_was_chosen(rates: Frames) -> None:
    figure = FIGURES["loss"](rates)
    assert [axes.get_title("left") for axes in figure.axes] == ["batch size 8", "batch size 64"]
    for axes, batch_size in zip(figure.axes, (8, 64), strict=True):
        for norm, line in lines(axes).items():
            settings = {"norm": norm, "batch_size": batch_size}
            of_rate = {
                lr: statistics.fmean(final(rates, "val_accuracy", lr=lr, **settings))
                for lr in (0.001, 0.01, 0.1)
            }
            rows = of(rates.steps, rates, lr=max(of_rate, key=lambda lr: of_rate[lr]), **settings)
            assert line.get_ydata() == pytest.approx(list(mean_by(rows, "step", "loss").values()))


def test_norms_stay_in_one_panel_where_none_finished_at_a_batch_size_and_rates_were_chosen(
    folder: Path,
) -> None:
    ended = {("bn", 8): ("diverged", "the loss is nan")}
    frames = load_frames(
        [
            write_runs(
                folder / "lost",
                batch_sizes=(8, 64),
                rates=(0.001, 0.01),
                held_out=True,
                ended=ended,
            )
        ]
    )
    (axes,) = FIGURES["batch-size"](frames).axes
    assert set(lines(axes)) == {"bn", "gn"}
    assert [shape(one) for one in scatters(axes)].count("x") == 1


def test_a_time_is_the_median_over_rounds_with_the_middle_half_of_them_and_its_ratio_to_bn(
    time_figure: Figure,
) -> None:
    (axes,) = time_figure.axes
    steps = {norm: np.array(found) for norm, found in some_seconds("bn", "gn", "ln").items()}
    assert [text.get_text() for text in axes.get_yticklabels()] == list(steps)
    assert axes.yaxis.get_inverted()
    for container, found in zip(axes.containers, steps.values(), strict=True):
        low, middle, high = np.sort(found)[[2, 4, 6]] * NUM_TRAIN / 64  # of nine rounds
        assert container[0].get_xdata() == pytest.approx([middle])
        (ends,) = [(segment[0][0], segment[1][0]) for segment in container[2][0].get_segments()]
        assert ends == pytest.approx((low, high))
    ratios = [np.sort(steps[norm] / steps["bn"]) for norm in ("gn", "ln")]
    assert [text.get_text() for text in axes.texts] == [
        f"{r[4]:.2f}x ({r[1]:.2f} to {r[7]:.2f})" for r in ratios
    ]
    assert axes.get_xlim()[0] == 0


def test_the_seconds_of_the_runs_themselves_are_in_no_figure(
    time_figure: Figure, one_panel: Frames
) -> None:
    slower = replace(
        one_panel,
        runs=one_panel.runs.assign(median_train_seconds=1e6),
        metrics=one_panel.metrics.assign(train_seconds=1e6),
    )
    another = FIGURES["time"](slower)
    assert [one[0].get_xdata().tolist() for axes in another.axes for one in axes.containers] == [
        one[0].get_xdata().tolist() for axes in time_figure.axes for one in axes.containers
    ]
    assert another.get_label() == time_figure.get_label()


def test_times_are_of_what_was_timed_whether_or_not_its_runs_shared_the_machine(
    sweep: Frames,
) -> None:
    figure = FIGURES["time"](sweep)
    shown = {
        axes.get_title("left"): [text.get_text() for text in axes.get_yticklabels()]
        for axes in figure.axes
    }
    assert shown == {
        "batch size 1": ["ln"],
        "batch size 8": ["bn", "ln"],
        "batch size 64": ["bn", "ln"],
    }
    assert [len(axes.texts) for axes in figure.axes] == [0, 1, 1], (
        "no ratio to a bn that did not finish"
    )


def test_without_a_run_that_was_timed_no_time_is_shown(folder: Path) -> None:
    frames = load_frames([write_runs(folder / "untimed")])
    others = [rows_of(config | {"norm.name": "in"}, [0.1]) for config in frames.configs.values()]
    for untimed in (frames, with_rounds(frames, as_rounds(others[0]))):
        with pytest.raises(NormbenchError, match=r"^no times: normbench bench measures them$"):
            FIGURES["time"](untimed)


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_drawn_where_nothing_finished(folder: Path, name: str) -> None:
    runs = folder / "nothing"
    if not runs.exists():
        write_runs(
            runs, batch_sizes=(8, 64), rates=(0.1, 0.2), ended={("bn", 8): ("diverged", "nan")}
        )
    frames = load_frames([runs], "norm=bn and batch_size=8")
    with pytest.raises(NormbenchError, match="no figure: none of 2 runs finished"):
        FIGURES[name](frames)


def test_a_norm_looks_the_same_in_every_figure(new_norms: Frames) -> None:
    at_one_rate = replace(new_norms, runs=new_norms.runs[new_norms.runs["lr"] == 0.001])
    looks = {
        name: look(FIGURES[name](at_one_rate))
        for name in ("loss", "accuracy", "batch-size", "time")
    }
    looks["learning-rate"] = look(FIGURES["learning-rate"](new_norms))
    assert {norm: STYLES[norm] for norm in ("bn", "gn")} == {
        norm: (colour.upper(), marker)
        for norm, (colour, marker) in looks["loss"].items()
        if norm in ("bn", "gn")
    }
    assert all(len(found) == 4 + (name != "time") for name, found in looks.items())
    for found in looks.values():
        assert found == {norm: looks["loss"][norm] for norm in found}


def test_every_norm_and_twenty_five_of_the_user_s_have_looks_of_their_own() -> None:
    labels = [*STYLES, *(f"norm{i}" for i in range(25))]
    found = looks_of(labels)
    assert list(found) == labels
    assert len({*found.values()}) == len(labels)
    assert {label: found[label] for label in STYLES} == STYLES


def test_the_norms_of_the_project_differ_in_print_without_colours() -> None:
    compared = [STYLES[norm][1] for norm in ("bn", "ln", "in", "gn", "none")]
    assert len({*compared}) == len(compared)
    for colour, _ in STYLES.values():
        red, green, blue = to_rgb(colour)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75  # stands out on white


@pytest.mark.parametrize("name", ["loss", "accuracy", "batch-size"])
def test_whatever_is_drawn_in_any_panel_is_named(folder: Path, name: str) -> None:
    runs = folder / "uneven"
    if not runs.exists():
        write_runs(
            runs,
            ("bn", "gn", "ln"),
            (1, 64),
            rates=(0.001, 0.01),
            ended={("bn", 1): ("diverged", "nan")},
        )
    figure = FIGURES[name](load_frames([runs]))
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {
        label for axes in figure.axes for label in lines(axes)
    }


def test_a_legend_shows_the_markers_that_its_panels_use(folder: Path) -> None:
    norms = ("bn", "gn", "in", "ln", "none", *(f"norm{i}" for i in range(5)))
    figure = FIGURES["batch-size"](load_frames([write_runs(folder / "ten", norms, (8, 64))]))
    (legend,) = figure.legends
    shown = [
        (text.get_text(), handle.get_color(), handle.get_marker())
        for text, handle in zip(legend.get_texts(), legend.get_lines(), strict=True)
    ]
    assert shown == [(norm, *look) for norm, look in looks_of(norms).items()]


def test_options_of_a_norm_make_lines_of_their_own_in_every_panel(folder: Path) -> None:
    runs = folder / "options"
    write_runs(runs / "8", ("gn",), (8,), settings={"gn": [{"norm": {"num_groups": 2}}]})
    write_runs(
        runs / "64", ("gn",), (64,), settings={"gn": [{"norm": {"num_groups": n}} for n in (2, 16)]}
    )
    figure = FIGURES["loss"](load_frames([runs / "8", runs / "64"]))
    eight, sixty_four = (
        lines(panel(figure, f"batch size {size}", figure.axes[0].get_ylabel())) for size in (8, 64)
    )
    assert set(eight) == {"gn num groups 2"}
    assert set(sixty_four) == {"gn num groups 2", "gn num groups 16"}
    assert eight["gn num groups 2"].get_color() == sixty_four["gn num groups 2"].get_color()


def test_more_panels_than_one_can_look_at_are_refused(folder: Path) -> None:
    batch_sizes = range(1, MAX_PANELS + 2)
    frames = load_frames([write_runs(folder / "panels", ("bn",), batch_sizes, epochs=1, logged=2)])
    with pytest.raises(
        NormbenchError,
        match=f"{MAX_PANELS + 1} panels, for batch_size: choose among them with --where",
    ):
        FIGURES["loss"](frames)


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("loss", "step", ["training loss (nats)"]),
        ("accuracy", "epoch", ["loss (nats)", "accuracy (%)"]),
        ("batch-size", "batch size (images, log2)", ["test accuracy (%)"]),
        ("time", "training time per epoch (s)", [""]),
    ],
)
def test_axes_say_what_they_show_in_which_unit(
    sweep: Frames, name: str, x: str, y: list[str]
) -> None:
    figure = FIGURES[name](sweep)
    assert {axes.get_xlabel() for axes in figure.axes} == {x}
    first_of_rows = [axes for axes in figure.axes if axes.get_subplotspec().is_first_col()]
    assert [axes.get_ylabel() for axes in first_of_rows] == y


OF_RUNS = (
    "cifar10-jpeg",
    "3 epochs",
    "24 runs",
    "3 seeds",
    "a processor",
    "fp32",
    "torch 2.15.0",
    "0123456789ab.",
)
OF_ROUNDS = (
    "a training step's median",
    "9 rounds",
    "another processor",
    "threads: 1",
    "torch 2.16.0",
    "fedcba987654.",
)
OF_BARS = ("Bars: the middle half of the rounds.",)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loss", OF_RUNS),
        ("accuracy", OF_RUNS),
        ("batch-size", OF_RUNS),
        ("time", OF_ROUNDS + OF_BARS),
    ],
)
def test_a_caption_says_what_a_figure_rests_on(
    sweep: Frames, name: str, words: tuple[str, ...]
) -> None:
    figure = FIGURES[name](sweep)
    said = figure.get_label()
    assert [word for word in words if word not in said] == []
    assert figure.get_supxlabel().split() == said.split()


@pytest.mark.parametrize("size", SIZES.values(), ids=[*SIZES])
def test_names_at_the_ends_of_lines_do_not_overlap(folder: Path, size: Size) -> None:
    runs = folder / "eight"
    if not runs.exists():
        write_runs(runs, [f"norm{i}" for i in range(8)], epochs=1, logged=8)
    frames = load_frames([runs])
    ends_together = frames.steps.assign(loss=2 - 0.01 * frames.steps["step"])
    figure = FIGURES["loss"](replace(frames, steps=ends_together), size)
    figure.canvas.draw()
    (axes,) = figure.axes
    assert sorted(text.get_text() for text in axes.texts) == [f"norm{i}" for i in range(8)]
    boxes = sorted((text.get_tightbbox() for text in axes.texts), key=lambda box: box.y0)
    assert [low.y1 <= high.y0 + 0.5 for low, high in itertools.pairwise(boxes)] == [True] * 7
    assert all(
        figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 and box.x1 <= figure.bbox.x1
        for box in boxes
    )


PLACES = st.lists(st.floats(0, 1), min_size=1, max_size=10).map(sorted)
LEAST = st.floats(0.01, 0.3)


@given(PLACES, LEAST)
def test_spreading_keeps_the_order_and_the_distance(places: list[float], least: float) -> None:
    found = spread_out(places, least)
    assert len(found) == len(places)
    assert all(high - low >= least - 1e-9 for low, high in itertools.pairwise(found))


@given(PLACES, LEAST)
def test_spreading_moves_no_more_than_least_squares_would(
    places: list[float], least: float
) -> None:
    """By the minimax formula of isotonic regression, on what is left when the distances are taken off."""
    rest = [place - i * least for i, place in enumerate(places)]
    n = len(rest)
    expected = [
        max(min(statistics.fmean(rest[a : b + 1]) for b in range(i, n)) for a in range(i + 1))
        + i * least
        for i in range(n)
    ]
    assert spread_out(places, least) == pytest.approx(expected)


@given(PLACES, LEAST)
def test_places_that_do_not_touch_stay(places: list[float], least: float) -> None:
    apart = [place + 1.001 * i * least for i, place in enumerate(places)]
    assert spread_out(apart, least) == pytest.approx(apart)


@pytest.mark.parametrize(
    ("name", "width", "rows_of_two", "height"),
    [("column", 3.5, 2, 5.0), ("page", 7.2, 1, 2.5), ("slide", 13.33, 1, 7.5)],
)
def test_a_size_is_in_inches(
    rates: Frames, name: str, width: float, rows_of_two: int, height: float
) -> None:
    figure = FIGURES["loss"](rates, size_called(name))
    assert figure.get_size_inches().tolist() == [width, height]
    assert len({axes.get_subplotspec().rowspan.start for axes in figure.axes}) == rows_of_two


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(NormbenchError, match="unknown size 'pge': did you mean 'page'"):
        size_called("pge")


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_same_figure_gives_the_same_bytes(
    one_panel: Frames, tmp_path: Path, suffix: str
) -> None:
    figure, another = (FIGURES["loss"](one_panel, smooth=5) for _ in range(2))
    for name, drawn in (("first", figure), ("second", another), ("third", figure)):
        save(drawn, tmp_path / f"{name}{suffix}")
    first, second, third = (
        (tmp_path / f"{name}{suffix}").read_bytes() for name in ("first", "second", "third")
    )
    assert len(first) > 5000
    assert first == second == third


def test_a_file_of_another_format_is_refused(time_figure: Figure, tmp_path: Path) -> None:
    with pytest.raises(NormbenchError, match=r"unknown format '\.gif'"):
        save(time_figure, tmp_path / "new" / "time.gif")
    assert not (tmp_path / "new").exists()


def test_text_in_an_svg_stays_text(time_figure: Figure, tmp_path: Path) -> None:
    save(time_figure, tmp_path / "time.svg")
    written = (tmp_path / "time.svg").read_text()
    assert ">training time per epoch (s)</text>" in written
    assert ">gn</text>" in written


def test_drawing_and_saving_leave_the_global_style_alone(sweep: Frames, tmp_path: Path) -> None:
    mpl.rcParams["font.size"] = 17
    try:
        before = dict(mpl.rcParams)
        save(FIGURES["time"](sweep), tmp_path / "time.svg")
        assert dict(mpl.rcParams) == before
        with pytest.raises(NormbenchError, match="unknown"):
            save(FIGURES["time"](sweep), tmp_path / "time.gif")
        assert dict(mpl.rcParams) == before
        with pytest.raises(ZeroDivisionError), drawing(SIZES["slide"]):
            1 / (mpl.rcParams["font.size"] - 18)
        assert dict(mpl.rcParams) == before
    finally:
        mpl.rcParams["font.size"] = mpl.rcParamsDefault["font.size"]


def test_a_figure_in_words_says_where_lines_begin_and_end(one_panel: Frames) -> None:
    figure = FIGURES["loss"](one_panel)
    (axes,) = figure.axes
    words = alt_text(figure)
    assert words.startswith("training loss (nats) against step.")
    for norm, line in lines(axes).items():
        assert f"{norm} from {line.get_ydata()[0]:.3g} to {line.get_ydata()[-1]:.3g}" in words


def test_each_mean_leads_to_its_runs(batch_size_figure: Figure) -> None:
    urls = {url for one in scatters(batch_size_figure.axes[0]) for url in one.get_urls() if url}
    assert urls == {
        f"#runs:norm={norm};batch_size={size}" for norm in ("bn", "gn", "ln") for size in (1, 8, 64)
    } - {"#runs:norm=bn;batch_size=1"}


def test_text_on_paper_is_in_our_ink(batch_size_figure: Figure) -> None:
    (axes,) = batch_size_figure.axes
    assert {
        to_hex(label.get_color())
        for label in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels())
    } == {INK}


def test_a_panel_with_one_batch_size_among_panels_of_others_is_drawn(folder: Path) -> None:
    settings = {
        "gn": [{"optim": {"reference_batch_size": 8}}, {"optim": {"reference_batch_size": 64}}]
    }
    write_runs(folder / "one" / "8", ("gn",), (8,), settings={"gn": settings["gn"][:1]})
    write_runs(folder / "one" / "64", ("gn",), (64,), settings={"gn": settings["gn"][1:]})
    figure = FIGURES["batch-size"](load_frames([folder / "one" / "8", folder / "one" / "64"]))
    assert [axes.get_xticks().tolist() for axes in figure.axes] == [[8], [64]]
