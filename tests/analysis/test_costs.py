"""What a bench comes to: the costs of steps and of layers against oracles in numpy, as tables and as a figure."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.runs import TIMED_ON, rows_of
from matplotlib.axes import Axes

from normbench.analysis.bench import of_layers, of_steps
from normbench.analysis.captions import machine
from normbench.analysis.figures.costs import costs_figure, layers_figure
from normbench.analysis.figures.saving import save
from normbench.analysis.figures.style import STYLES, size_called
from normbench.analysis.tables.costs import costs, costs_table
from normbench.analysis.tables.layers import layers, layers_table
from normbench.config.compose import compose
from normbench.config.schema import flatten
from normbench.timing.rounds import as_rounds

RATIO = ["relative_time", "relative_time_low", "relative_time_high"]


def config(norm: str, batch_size: int = 64, **settings: Any) -> dict[str, Any]:
    """A configuration with dotted keys."""
    given = {
        "norm": norm,
        "batch_size": batch_size,
        "data": "synthetic",
        "runtime.device": "cpu",
    } | settings
    return flatten(compose([], given).identity())


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The order-statistic interval of a median, by scipy's binomial law."""
    n = len(ratios)
    k = max(
        (k for k in range(n // 2 + 1) if 2 * scipy.stats.binom.cdf(k - 1, n, 0.5) <= 0.05),
        default=0,
    )
    ordered = np.sort(ratios)
    return (float(ordered[k - 1]), float(ordered[n - k])) if k else (math.nan, math.nan)


# Steps

CONFIGS = [
    *(config(norm, batch_size) for batch_size in (64, 8) for norm in ("bn", "ln", "gn")),
    *(config(norm, 64, **{"runtime.channels_last": True}) for norm in ("gn", "bn")),
    config("in", 64, **{"train.accumulate": 2}),
]
PLACES = list(itertools.product(range(len(CONFIGS)), ("monday", "friday"), range(8)))


@settings(max_examples=10)
@given(st.sets(st.sampled_from(PLACES)), st.integers(0, 2**32 - 1))
def test_costs_are_those_of_the_oracle_whatever_rounds_are_lost(
    lost: set[tuple[int, str, int]], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    kept = [place for place in PLACES if place not in lost or place[1:] == ("friday", 7)]
    steps = {place: float(generator.lognormal(-3, 0.5)) for place in kept}
    rows = [
        rows_of(CONFIGS[i], [s], race, peak_bytes=i)[0] | {"round": n}
        for (i, race, n), s in steps.items()
    ]
    found = costs(as_rounds(rows)).to_dict("records")
    assert [row["peak_bytes"] for row in found] == list(range(len(CONFIGS))), (
        "in the order of the rounds"
    )
    for i, row in enumerate(found):
        one = CONFIGS[i]
        mine = {place[1:]: seconds for place, seconds in steps.items() if place[0] == i}
        is_norm_s = [key for key in one if key.startswith("norm.")]
        (bn,) = [
            j
            for j, other in enumerate(CONFIGS)
            if other["norm.name"] == "bn"
            and all(other.get(key) == value for key, value in one.items() if key not in is_norm_s)
        ] or [None]
        of_bn = {place[1:]: seconds for place, seconds in steps.items() if place[0] == bn}
        assert (row["norm"], row["batch_size"]) == (one["norm.name"], one["batch_size"])
        assert row["seconds"] == pytest.approx(np.median([*mine.values()]))
        assert row["rounds"] == len(mine)
        images = one["batch_size"] * one["train.accumulate"]
        assert row["images_per_second"] == pytest.approx(images / np.median([*mine.values()]))
        ratios = [mine[place] / of_bn[place] for place in {*mine} & {*of_bn}]
        expected = (np.median(ratios), *interval(ratios)) if ratios else (math.nan,) * 3
        assert [row[name] for name in RATIO] == pytest.approx(expected, nan_ok=True)


def test_rounds_of_another_race_or_another_round_are_no_pair() -> None:
    bn, gn = config("bn"), config("gn")
    rows = [
        *rows_of(bn, [1.0, 2.0, 4.0], "a"),
        *rows_of(gn, [3.0], "a"),
        *rows_of(gn, [0.1, 0.1], "b"),
    ]
    found = costs(as_rounds(rows)).set_index("norm").loc["gn"]
    assert found["relative_time"] == 3.0
    assert found["seconds"] == pytest.approx(0.1)
    apart = costs(as_rounds([*rows_of(bn, [1.0], "a"), *rows_of(gn, [3.0], "b")])).set_index("norm")
    assert math.isnan(apart.loc["gn", "relative_time"])
    assert apart.loc["bn", "relative_time"] == 1.0


@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=12))
def test_whatever_slows_a_whole_round_down_changes_no_ratio(drift: list[float]) -> None:
    norms = {"bn": 0.01, "gn": 0.0115}
    rows = [
        row
        for norm, step in norms.items()
        for row in rows_of(config(norm), [step * slow for slow in drift])
    ]
    found = costs(as_rounds(rows)).set_index("norm")
    assert found.loc["gn", RATIO].tolist() == pytest.approx([1.15] * 3)


def test_settings_in_which_configurations_of_a_norm_differ_are_columns_by_short_names() -> None:
    some = [
        config("bn"),
        *(config("gn", **{"norm.num_groups": n, "runtime.channels_last": n == 2}) for n in (2, 4)),
    ]
    found = costs(as_rounds([row for one in some for row in rows_of(one, [0.1])]))
    assert list(found.columns[:2]) == ["norm", "batch_size"]
    assert {*found.columns[2:4]} == {"num groups", "channels last"}
    assert found.columns[4] == "seconds"
    assert found["num groups"].tolist() == ["", "2", "4"]
    assert found["channels last"].tolist() == ["False", "True", "False"]
    layouts = [
        config(norm, **{"runtime.channels_last": last})
        for norm, last in (("bn", True), ("gn", False))
    ]
    found = costs(as_rounds([row for one in layouts for row in rows_of(one, [0.1])]))
    assert found["channels last"].tolist() == ["True", "False"], "why gn is not related to bn"
    alone = costs(as_rounds([row for one in some[::2] for row in rows_of(one, [0.1])]))
    assert list(alone.columns[:3]) == ["norm", "batch_size", "seconds"]


def test_rounds_of_an_interrupted_bench_are_counted_as_they_are() -> None:
    """Not their median over batch sizes, which no contestant took."""
    rows = [
        row
        for size, number in ((1, 25), (64, 3))
        for norm in ("bn", "gn")
        for row in rows_of(config(norm, size), [0.1] * number)
    ]
    said = costs_table(as_rounds(rows)).caption
    assert "Medians over 3 or 25 rounds" in said
    assert "with its 95 % interval where there are 6 rounds" in said


def test_the_table_says_what_its_figures_rest_on() -> None:
    seconds = {
        "bn": [0.01, 0.011, 0.009, 0.01, 0.01, 0.01, 0.01],
        "gn": [0.012, 0.0132, 0.0117, 0.011, 0.013, 0.012, 0.012],
    }
    rows = [row for norm, found in seconds.items() for row in rows_of(config(norm), found)]
    rows += rows_of(config("bn", 1), [0.0012] * 7)
    table = costs_table(as_rounds(rows))
    assert table.title == "What a training step costs"
    assert table.shown.to_dict("list") == {
        "norm": ["bn", "gn", "bn"],
        "batch size": ["64", "64", "1"],
        "step": ["10.0 ms", "12.0 ms", "1.2 ms"],
        "relative to bn": ["1.00x", "1.20x (1.10 to 1.30)", "1.00x"],
        "images/s": ["6400", "5333", "833"],
        "peak": ["3.0 MiB"] * 3,
        "saved": ["2.0 MiB"] * 3,
        "state": ["1.0 MiB"] * 3,
    }
    assert table.caption.startswith("Medians over 7 rounds, ")
    assert table.caption.endswith(
        "another processor, threads: 1, torch 2.16.0, commit fedcba987654."
    )
    compiled = costs_table(as_rounds(rows_of(config("bn"), [0.1], compile_seconds=61.7)))
    assert compiled.shown["compilation"].tolist() == ["62 s"]


def test_without_bn_a_step_has_no_ratio_and_says_so() -> None:
    rows = [row for norm in ("gn", "ln") for row in rows_of(config(norm), [0.1] * 7)]
    assert costs(as_rounds(rows))[RATIO].isna().all(axis=None)
    assert costs_table(as_rounds(rows)).shown["relative to bn"].tolist() == ["not measured"] * 2


def test_of_two_kinds_of_bn_none_is_chosen_to_relate_to() -> None:
    configs = [config("bn"), config("bn", **{"norm.eps": 0.1}), config("gn")]
    rows = [
        row
        for one, seconds in zip(configs, (0.1, 0.2, 0.4), strict=True)
        for row in rows_of(one, [seconds])
    ]
    for order in (rows, rows[::-1]):
        assert costs(as_rounds(order)).set_index("norm")["relative_time"].isna()["gn"]


# The figure


def dots(axes: Axes) -> list[tuple[float, float, float]]:
    """Low, middle and high of each row that has a dot, from the top; the ends are the middle where there is no bar."""
    found = []
    for container in axes.containers:
        ((middle,),) = [container[0].get_xdata()]
        bars = [segment[:, 0] for one in container[2] for segment in one.get_segments()]
        low, high = bars[0] if bars else (middle, middle)
        found.append((low, middle, high))
    return found


def many_rounds(configs: Sequence[dict[str, Any]], rounds: int = 7) -> pd.DataFrame:
    """Rounds of all of these, each a little slower than the one before."""
    generator = np.random.default_rng(0)
    each = (generator.uniform(0.9, 1.1, rounds) * (1 + i / 10) for i in range(len(configs)))
    return as_rounds(
        [
            row
            for one, found in zip(configs, each, strict=True)
            for row in rows_of(one, found.tolist())
        ]
    )


def test_one_batch_size_is_one_panel_with_a_row_for_each_norm_and_bn_at_1() -> None:
    rounds = many_rounds([config(norm) for norm in ("bn", "gn", "ln")])
    figure = costs_figure(rounds)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["bn", "gn", "ln"]
    assert axes.yaxis.get_inverted()
    data = costs(rounds)
    expected = [(low, middle, high) for middle, low, high in data[RATIO].to_numpy().tolist()]
    assert dots(axes) == [pytest.approx(ends) for ends in expected]
    assert dots(axes)[0] == (1, 1, 1)
    assert [text.get_text() for text in axes.texts] == [
        f"{middle:.2f}x" for middle in data["relative_time"]
    ]
    colours = [container[0].get_color().upper() for container in axes.containers]
    assert colours == [STYLES[norm][0].upper() for norm in ("bn", "gn", "ln")]
    assert axes.get_title("left") == ""
    assert axes.get_xlabel() == "time of a step over bn's"


def test_each_batch_size_and_layout_is_a_panel() -> None:
    configs = [
        config(norm, batch_size, **{"runtime.channels_last": last})
        for batch_size, last in itertools.product((1, 64), (False, True))
        for norm in ("bn", "gn")
    ]
    figure = costs_figure(many_rounds(configs))
    assert [" ".join(axes.get_title("left").split()) for axes in figure.axes] == [
        f"batch size {batch_size}, channels last {last}"
        for batch_size in (1, 64)
        for last in (False, True)
    ]
    assert [len(axes.containers) for axes in figure.axes] == [2] * 4
    assert figure.get_supxlabel().split() == figure.get_label().split()
    assert "95 % interval" in figure.get_label()
    assert "another processor, threads: 1, torch 2.16.0, commit fedcba987654." in figure.get_label()


def test_each_machine_stands_with_its_own_threads() -> None:
    here, there = many_rounds([config("bn")]), many_rounds([config("gn")])
    both = pd.concat([here, there.assign(device="another still", threads="16")])
    assert machine(both).startswith(
        "another processor, threads: 1; another still, threads: 16, torch 2.16.0"
    )


def test_titles_of_many_settings_end_where_the_next_panel_begins() -> None:
    settings = itertools.product((False, True), (True, False))
    configs = [
        config("bn", 64, **{"runtime.channels_last": last, "runtime.compile": compiled})
        for last, compiled in settings
    ]
    figure = costs_figure(many_rounds([*configs, config("bn", 8)]))
    figure.canvas.draw()
    boxes = [axes._left_title.get_window_extent() for axes in figure.axes]
    assert len(boxes) == 5
    assert all(one.x1 <= other.x0 for one, other in itertools.pairwise(boxes) if one.y0 == other.y0)
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    titles = [" ".join(axes.get_title("left").split()) for axes in figure.axes]
    assert titles[1] == "batch size 64, channels last False, compile True"


def test_few_rounds_have_dots_without_bars_and_norms_without_bn_have_none() -> None:
    rounds = many_rounds([config("bn"), config("gn")], rounds=3)
    few = costs_figure(rounds)
    for note in (few.get_label(), costs_table(rounds).caption):
        assert "without an interval, which takes 6 rounds" in note
    assert [low == middle == high for low, middle, high in dots(few.axes[0])] == [True, True]
    alone = costs_figure(many_rounds([config("gn"), config("ln"), config("bn", 8)]))
    assert [len(axes.containers) for axes in alone.axes] == [0, 1]
    assert [text.get_text() for text in alone.axes[0].get_yticklabels()] == ["gn", "ln"]


@pytest.mark.parametrize(
    "size", [size_called("column"), size_called("slide")], ids=["column", "slide"]
)
def test_the_figure_is_drawn_at_every_size(size: Any, tmp_path: Any) -> None:
    figure = costs_figure(
        many_rounds([config(norm, size) for size in (1, 64) for norm in ("bn", "gn")]), size
    )
    save(figure, tmp_path / "costs.svg", size)
    assert ">gn</text>" in (tmp_path / "costs.svg").read_text()


# Layers


def layer_rounds(seconds: dict[tuple[str, ...], Sequence[float]], **facts: Any) -> pd.DataFrame:
    """Rounds by norm, site, layout, mode and part."""
    names = ("norm", "site", "layout", "mode", "part")
    rows = [
        {
            "batch_size": 64,
            "own_activation": False,
            **TIMED_ON,
            **facts,
            **dict(zip(names, key, strict=True)),
            "round": number,
            "seconds": value,
        }
        for key, found in seconds.items()
        for number, value in enumerate(found)
    ]
    return pd.DataFrame(rows)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_layers_are_summed_over_sites_and_the_way_back_is_what_both_ways_take_longer(
    seed: int, rounds: int
) -> None:
    generator = np.random.default_rng(seed)
    norms, sites, layouts, modes = (
        ("bn", "gn"),
        ("4x32x32", "8x16x16", "8x8x8"),
        ("contiguous",),
        ("eager", "compiled"),
    )
    forward = {
        key: generator.uniform(1, 2, rounds)
        for key in itertools.product(norms, sites, layouts, modes)
    }
    backward = {key: generator.uniform(2, 4, rounds) for key in forward}
    seconds = {(*key, "forward"): forward[key].tolist() for key in forward}
    seconds |= {(*key, "both"): (forward[key] + backward[key]).tolist() for key in forward}
    table = layers(layer_rounds(seconds))
    assert len(table) == 4
    for row in table.to_dict("records"):
        there, back = (
            {
                norm: sum(part[norm, site, row["layout"], row["mode"]] for site in sites)
                for norm in norms
            }
            for part in (forward, backward)
        )
        norm = row["norm"]
        assert row["forward_seconds"] == pytest.approx(np.median(there[norm]))
        assert row["backward_seconds"] == pytest.approx(np.median(back[norm]))
        ratios = (there[norm] + back[norm]) / (there["bn"] + back["bn"])
        low, high = interval(ratios)
        assert [row[name] for name in RATIO] == pytest.approx(
            [np.median(ratios), low, high], nan_ok=True
        )


def test_layers_are_related_to_bn_in_the_same_layout_mode_and_batch_size() -> None:
    seconds = {
        ("bn", "4x8x8", "contiguous", "eager", "forward"): [0.001],
        ("bn", "4x8x8", "contiguous", "eager", "both"): [0.002],
        ("gn", "4x8x8", "contiguous", "eager", "forward"): [0.002],
        ("gn", "4x8x8", "contiguous", "eager", "both"): [0.006],
        ("gn", "4x8x8", "channels_last", "eager", "forward"): [0.002],
        ("gn", "4x8x8", "channels_last", "eager", "both"): [0.005],
        ("gn", "4x8x8", "contiguous", "compiled", "forward"): [0.002],
        ("gn", "4x8x8", "contiguous", "compiled", "both"): [0.004],
    }
    at_8 = {key: [10 * value for value in found] for key, found in seconds.items()}
    rounds = pd.concat([layer_rounds(seconds), layer_rounds(at_8, batch_size=8)])
    table = layers_table(rounds)
    assert table.shown.to_dict("list") == {
        "batch size": ["64"] * 4 + ["8"] * 4,
        "norm": ["bn", "gn", "gn", "gn"] * 2,
        "layout": ["contiguous", "contiguous", "contiguous", "channels_last"] * 2,
        "mode": ["eager", "eager", "compiled", "eager"] * 2,
        "forward": [
            "1.00 ms",
            "2.00 ms",
            "2.00 ms",
            "2.00 ms",
            "10.00 ms",
            "20.00 ms",
            "20.00 ms",
            "20.00 ms",
        ],
        "backward": [
            "1.00 ms",
            "4.00 ms",
            "2.00 ms",
            "3.00 ms",
            "10.00 ms",
            "40.00 ms",
            "20.00 ms",
            "30.00 ms",
        ],
        "relative to bn": ["1.00x", "3.00x", "not measured", "not measured"] * 2,
    }


def test_each_layout_and_mode_of_layers_is_a_panel() -> None:
    seconds = {
        (norm, "4x8x8", layout, mode, part): [seconds * (2 if part == "both" else 1)] * 6
        for layout, mode in itertools.product(
            ("contiguous", "channels_last"), ("eager", "compiled")
        )
        for norm, seconds in (("bn", 0.1), ("gn", 0.3 if mode == "compiled" else 0.05))
        for part in ("forward", "both")
    }
    figure = layers_figure(layer_rounds(seconds))
    assert {axes.get_xlabel() for axes in figure.axes} == {"time of the layers over bn's"}
    found = {" ".join(axes.get_title("left").split()): dots(axes) for axes in figure.axes}
    assert {*found} == {
        f"layout {layout}, mode {mode}"
        for layout in ("contiguous", "channels_last")
        for mode in ("eager", "compiled")
    }
    for title, ((_, bn, _), (_, gn, _)) in found.items():
        assert (bn, gn) == (1, pytest.approx(3 if "compiled" in title else 0.5))


def test_the_caption_of_layers_says_sites_rounds_and_machine() -> None:
    seconds = {
        ("bn", site, "contiguous", "eager", part): [0.1] * 5
        for site in ("4x8x8", "8x4x4")
        for part in ("forward", "both")
    }
    said = layers_table(layer_rounds(seconds)).caption
    assert "(4x8x8, 8x4x4), median over 5 rounds" in said
    assert said.endswith("another processor, threads: 1, torch 2.16.0, commit fedcba987654.")
    assert "activation" not in said
    own = layer_rounds(
        {("frn", *key[1:]): found for key, found in seconds.items()}, own_activation=True
    )
    both = layers_table(pd.concat([layer_rounds(seconds), own])).caption
    assert "With an activation of its own, which the others leave to the network: frn. " in both


# What is written


def test_a_report_of_a_bench_is_files_that_are_called_alike(tmp_path: Any) -> None:
    rounds = many_rounds([config("bn"), config("gn")])
    report = of_steps(rounds.to_dict("records"))
    report.write(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        f"bench{end}" for end in (".csv", ".md", ".svg", ".png")
    }
    assert report.table.caption in (tmp_path / "new" / "bench.md").read_text()
    seconds = {
        ("bn", "4x8x8", "contiguous", "eager", part): [0.1, 0.2] for part in ("forward", "both")
    }
    of_layers(layer_rounds(seconds).to_dict("records")).write(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").glob("layers.*")} == {
        f"layers{end}" for end in (".csv", ".md", ".svg", ".png")
    }
    written = pd.read_csv(io.StringIO((tmp_path / "new" / "layers.csv").read_text()))
    pd.testing.assert_frame_equal(written, layer_rounds(seconds))
