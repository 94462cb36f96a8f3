"""The figure of norms by their result, and how intervals over seeds are drawn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.runs import REGRESSION, in_study, one_run
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from normbench.analysis.figures.intervals import LEAST_SEEDS, lengths
from normbench.analysis.figures.labels import alt_text
from normbench.analysis.figures.layout import MAX_PANELS
from normbench.analysis.figures.style import STYLES
from normbench.analysis.outputs import output_named
from normbench.analysis.stats import Estimate, mean_interval
from normbench.analysis.study import Study
from normbench.errors import NormbenchError
from normbench.tasks.metric import Metric

REACHED = {"bn": (0.70, 0.72, 0.69), "gn": (0.80, 0.81, 0.77), "in": (0.995, 0.5, 0.99)}
SHARE = Metric("accuracy", "%", "larger", 100, 1, "points", 0, 1)


def study_of(
    reached: Mapping[str, Sequence[float]], sizes: Sequence[int] = (64,), **task: Any
) -> Study:
    runs = []
    for norm, values in reached.items():
        for size in sizes:
            for seed, value in enumerate(values):
                runs.append(one_run(norm, size, seed, value, **task))
    return in_study(*runs)


def drawn(study: Study) -> Figure:
    figure: Figure = output_named("figure", "norms").make(study)
    return figure


def names(axes: Axes) -> list[str]:
    """From top to bottom."""
    low, high = axes.get_ylim()
    assert low > high
    return [label.get_text() for label in axes.get_yticklabels()]


def bars(axes: Axes) -> dict[str, tuple[float, float]]:
    """The ends of each horizontal bar, by colour."""
    found = {}
    for container in axes.containers:
        for collection in container[2]:
            (((low, _), (high, _)),) = collection.get_segments()
            found[to_hex(collection.get_color()[0]).upper()] = low, high
    return found


@pytest.mark.parametrize(("task", "order"), [({}, "in gn bn"), ({"task": REGRESSION}, "bn gn in")])
def test_the_best_mean_is_on_top_whether_larger_or_smaller_is_better(
    task: dict[str, Any], order: str
) -> None:
    reached = REACHED | {"in": (0.9, 0.85, 0.95)}
    (axes,) = drawn(study_of(reached, **task)).axes
    assert names(axes) == order.split()


def test_every_seed_is_a_dot_and_the_bar_is_the_interval_within_what_is_possible() -> None:
    (axes,) = drawn(study_of(REACHED)).axes
    found = bars(axes)
    seeds = {}
    for dots in axes.collections:
        if dots.get_alpha() is not None:
            seeds[to_hex(dots.get_facecolor()[0]).upper()] = sorted(dots.get_offsets()[:, 0])
    for norm, values in REACHED.items():
        colour = STYLES[norm][0].upper()
        estimate = mean_interval([100 * value for value in values])
        low, high = estimate.mean - estimate.half_width, estimate.mean + estimate.half_width
        assert (high > 100) == (norm == "in")
        assert found[colour] == pytest.approx((max(low, 0), min(high, 100)))
        assert seeds[colour] == pytest.approx(sorted(100 * value for value in values))


def test_each_panel_has_an_order_of_its_own_and_all_have_one_axis() -> None:
    reached = {("bn", 1): 0.1, ("gn", 1): 0.6, ("bn", 64): 0.7, ("gn", 64): 0.65}
    runs = [one_run(norm, size, 0, value) for (norm, size), value in reached.items()]
    first, second = drawn(in_study(*runs)).axes
    assert (names(first), names(second)) == (["gn", "bn"], ["bn", "gn"])
    assert first.get_xlim() == second.get_xlim()


def test_a_norm_without_a_result_stands_last_with_an_x_and_a_word_of_it() -> None:
    lost = one_run("ln", 64, 0, state="diverged", reason="the loss is nan")
    runs = [one_run(norm, 64, 0, value) for norm, value in (("bn", 0.1), ("gn", 0.2))]
    figure = drawn(in_study(lost, *runs))
    (axes,) = figure.axes
    assert names(axes) == ["gn", "bn", "ln"]
    assert "x at the left: no run finished." in figure.get_label()
    assert "x at the left" not in drawn(in_study(*runs)).get_label()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_only_three_seeds_or_more_have_a_bar_and_of_two_the_caption_says_why(number: int) -> None:
    figure = drawn(study_of({norm: values[:number] for norm, values in REACHED.items()}))
    (axes,) = figure.axes
    assert len(bars(axes)) == (len(REACHED) if number >= 3 else 0)
    assert ("Where there are two seeds, no bar: " in figure.get_label()) == (number == 2)
    assert ("Bars: 95 % Student-t interval" in figure.get_label()) == (number == 3)
    assert ("cut where no accuracy can be" in figure.get_label()) == (number == 3)


def test_a_figure_of_norms_in_words_has_the_mean_of_each() -> None:
    words = alt_text(drawn(study_of(REACHED)))
    means = {norm: 100 * statistics.fmean(values) for norm, values in REACHED.items()}
    told = ", ".join(f"{norm} {means[norm]:.3g}" for norm in ("in", "gn", "bn"))
    assert words == f"test accuracy (%): {told}."


def test_too_many_panels_and_runs_without_a_result_are_refused() -> None:
    sizes = range(1, MAX_PANELS + 2)
    with pytest.raises(NormbenchError, match=f"{MAX_PANELS + 1} panels"):
        drawn(study_of({"bn": (0.5,), "gn": (0.6,)}, sizes))
    with pytest.raises(NormbenchError, match="no figure: none of 1 run finished"):
        drawn(in_study(one_run("bn", state="failed")))


@given(st.floats(0, 100), st.floats(0, 500), st.integers(1, 9))
def test_a_bar_leaves_no_range_and_is_no_longer_than_the_interval(
    mean: float, half_width: float, n: int
) -> None:
    found = lengths(Estimate(mean, half_width, n), SHARE)
    assert (found is None) == (n < LEAST_SEEDS)
    if found is not None:
        below, above = found
        assert mean - below >= -1e-9
        assert mean + above <= 100 + 1e-9
        assert 0 <= below <= half_width
        assert 0 <= above <= half_width
        assert below == half_width or mean - below == pytest.approx(0)
    unbounded = Metric("loss", "nats", "smaller")
    expected = (half_width, half_width) if n >= LEAST_SEEDS else None
    assert lengths(Estimate(mean, half_width, n), unbounded) == expected
    assert lengths(Estimate(mean, math.nan, n), SHARE) is None
