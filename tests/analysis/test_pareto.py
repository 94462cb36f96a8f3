"""Accuracy against cost: points with their intervals, and the norms that no other dominates."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.ratios import over_processes
from kit.runs import ACCURACY, SQUARED_ERROR, in_study, one_run, timed
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from normbench.analysis.figures.labels import alt_text
from normbench.analysis.figures.pareto import Point, is_on_front, pareto
from normbench.analysis.figures.saving import to_svg
from normbench.analysis.figures.style import PAGE, PAPER
from normbench.analysis.outputs import outputs
from normbench.analysis.stats import Estimate, Ratio, mean_interval
from normbench.analysis.study import Study
from normbench.errors import NormbenchError
from normbench.tasks.metric import Metric

REACHED = {"bn": (0.70, 0.72, 0.71), "gn": (0.60, 0.62, 0.64), "ln": (0.50, 0.54, 0.55)}
SECONDS = {
    "bn": [0.10, 0.11, 0.10, 0.12, 0.10],
    "gn": [0.08, 0.09, 0.09, 0.08, 0.08],
    "ln": [0.13, 0.12, 0.14, 0.13, 0.15],
}


def study(seeds: int = 3, processes: int = 5, sizes: Sequence[int] = (64,)) -> Study:
    """gn is quicker than bn and worse; ln is slower than both, and worse."""
    runs = []
    for norm, size, seed in itertools.product(REACHED, sizes, range(seeds)):
        runs.append(one_run(norm, size, seed, REACHED[norm][seed]))
    return timed(in_study(*runs), SECONDS, processes)


def named(axes: Axes) -> dict[str, Line2D]:
    found = {str(line.get_label()): line for line in axes.get_lines()}
    return {label: line for label, line in found.items() if not label.startswith("_")}


def filled(axes: Axes) -> set[str]:
    """The norms whose points are filled."""
    points = named(axes).items()
    return {norm for norm, line in points if to_hex(line.get_markerfacecolor()) != PAPER}


def bars(axes: Axes, line: Line2D) -> list[tuple[float, ...]]:
    """The ends of the bars in a line's colour, each as x, y, x, y."""
    found = []
    for container in axes.containers:
        for collection in container[2]:
            if to_hex(collection.get_color()[0]) == to_hex(line.get_color()):
                found += [tuple(ends.ravel()) for ends in collection.get_segments()]
    return found


def test_a_point_is_the_mean_and_the_ratio_with_intervals_both_ways() -> None:
    (axes,) = pareto(study()).axes
    assert axes.get_xlabel() == "time of a step over bn's"
    assert axes.get_ylabel() == "test accuracy (%)"
    for norm, line in named(axes).items():
        ratios = [[ours / bn] for ours, bn in zip(SECONDS[norm], SECONDS["bn"], strict=True)]
        ratio, low, high = over_processes(ratios)
        estimate = mean_interval([100 * value for value in REACHED[norm]])
        point = (line.get_xdata()[0], line.get_ydata()[0])
        assert point == pytest.approx((ratio, estimate.mean))
        down, up = estimate.mean - estimate.half_width, estimate.mean + estimate.half_width
        expected = [(ratio, down, ratio, up)]
        if norm != "bn":  # whose ratio to itself is exact
            expected.append((low, estimate.mean, high, estimate.mean))
        assert sorted(bars(axes, line)) == [pytest.approx(ends) for ends in sorted(expected)]


def test_without_seeds_or_processes_there_are_no_bars() -> None:
    figure = pareto(study(seeds=1, processes=1))
    (axes,) = figure.axes
    assert [bars(axes, line) for line in named(axes).values()] == [[], [], []]
    assert "without an interval" in figure.get_label()
    assert "Student-t interval over seeds" not in figure.get_label()


def test_norms_that_no_other_dominates_are_filled_and_joined() -> None:
    (axes,) = pareto(study()).axes
    assert filled(axes) == {"bn", "gn"}
    (joined,) = [line for line in axes.get_lines() if line.get_drawstyle() == "steps-post"]
    ends = [(named(axes)[norm].get_xdata()[0]) for norm in ("gn", "bn")]
    assert joined.get_xdata() == pytest.approx(ends)
    assert joined.get_ydata() == pytest.approx([62, 71])


def test_a_norm_that_lost_seeds_or_is_not_comparable_dominates_nothing() -> None:
    runs = [one_run(norm, 64, 0, 0.9 if norm == "gn" else 0.5) for norm in SECONDS]
    assert filled(pareto(timed(in_study(*runs), SECONDS)).axes[0]) == {"gn"}
    lost = one_run("gn", 64, 1, state="diverged")
    figure = pareto(timed(in_study(*runs, lost), SECONDS))
    assert filled(figure.axes[0]) == {"bn"}
    assert "count for nothing" in figure.get_label()
    runs[1] = one_run("gn", 64, 0, 0.9, broken=["keeps state"])
    figure = pareto(timed(in_study(*runs), SECONDS))
    assert filled(figure.axes[0]) == {"bn"}
    assert "gn*" in named(figure.axes[0])


def test_without_a_time_beside_bn_s_a_norm_is_named_and_no_point() -> None:
    runs = [one_run(norm, size) for norm in SECONDS for size in (8, 64)]
    some = {("bn", 64): [0.1], ("gn", 64): [0.2], ("ln", 8): [0.1]}
    figure = pareto(timed(in_study(*runs), some))
    (axes,) = figure.axes
    assert axes.get_title("left") == "batch size 64"
    assert set(named(axes)) == {"bn", "gn"}
    told = "bn at batch size 8, gn at batch size 8, ln at batch size 8, ln at batch size 64"
    assert f"Not timed beside bn: {told}." in figure.get_label()


def test_without_a_bench_there_is_no_figure() -> None:
    untimed = in_study(one_run("bn"), one_run("gn"))
    assert "pareto" not in [output.name for output in outputs("figure", untimed)]
    with pytest.raises(NormbenchError, match="no times relative to bn: normbench bench measures"):
        pareto(untimed)
    assert "pareto" in [output.name for output in outputs("figure", study())]


def test_a_point_links_to_its_runs_and_is_told_in_words() -> None:
    figure = pareto(study(sizes=(8, 64)))
    links = re.findall(r'"#runs:norm=(\w+);batch_size=(\d+)"', to_svg(figure, PAGE))
    assert {*links} == {*itertools.product(SECONDS, ("8", "64"))}
    assert "bn 71 at 1" in alt_text(figure)


POINTS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.booleans()), max_size=8)


@given(POINTS, st.sampled_from([ACCURACY, SQUARED_ERROR]))
def test_the_front_is_that_of_the_definition(
    places: list[tuple[int, int, bool]], metric: Metric
) -> None:
    points = [
        Point(str(index), Ratio(x, np.nan, np.nan, 1, 1), Estimate(y, np.nan, 1), is_sound, "")
        for index, (x, y, is_sound) in enumerate(places)
    ]
    sign = 1 if metric is ACCURACY else -1
    sound = [(x, -sign * y) for x, y, is_sound in places if is_sound]
    for point, (x, y, is_sound) in zip(points, places, strict=True):
        here = (x, -sign * y)
        beaten = [one for one in sound if one != here and one[0] <= here[0] and one[1] <= here[1]]
        assert is_on_front(point, points, metric) == (is_sound and not beaten)
