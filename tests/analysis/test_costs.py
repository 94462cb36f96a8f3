"""The costs of steps and of layers, against oracles in numpy; as tables and as figures."""

from __future__ import annotations

import io
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.ratios import over_processes
from kit.runs import TIMED_ON, rows_by_processes, rows_of
from matplotlib.axes import Axes

from normbench.analysis.bench import of_layers, of_steps
from normbench.analysis.captions import machine
from normbench.analysis.figures.costs import costs_figure, layers_figure
from normbench.analysis.figures.saving import save
from normbench.analysis.figures.style import STYLES, size_called
from normbench.analysis.tables.layer_costs import layers, layers_table
from normbench.analysis.tables.step_costs import costs, costs_table
from normbench.checksums import SUMS
from normbench.config.compose import compose
from normbench.config.schema import flatten
from normbench.timing.rounds import as_rounds

RATIO = ["relative_time", "relative_time_low", "relative_time_high"]


def config(norm: str, batch_size: int = 64, **changed: Any) -> dict[str, Any]:
    """A configuration with dotted keys."""
    given = {"norm": norm, "batch_size": batch_size, "data": "synthetic", "runtime.device": "cpu"}
    return flatten(compose([], given | changed).identity())


def rounds(
    *timed: tuple[dict[str, Any], Sequence[float]], processes: int = 1, **facts: Any
) -> pd.DataFrame:
    """The rounds of these configurations, whose steps took these seconds."""
    rows = []
    for one, seconds in timed:
        rows += rows_by_processes(one, seconds, processes, **facts)
    return as_rounds(rows)


def many_rounds(configs: Sequence[dict[str, Any]], processes: int = 5) -> pd.DataFrame:
    """Two rounds of all of these in each process, each a little slower than the one before."""
    generator = np.random.default_rng(0)
    timed = []
    for place, one in enumerate(configs):
        seconds = generator.uniform(0.9, 1.1, 2 * processes) * (1 + place / 10)
        timed.append((one, seconds.tolist()))
    return rounds(*timed, processes=processes)


# Steps

CONFIGS = [
    *(config(norm, batch_size) for batch_size in (64, 8) for norm in ("bn", "ln", "gn")),
    *(config(norm, 64, **{"runtime.channels_last": True}) for norm in ("gn", "bn")),
    config("in", 64, **{"train.accumulate": 2}),
]
BASELINES = [0, 0, 0, 3, 3, 3, 7, 7, None]  # the place of bn at the same other settings
PLACES = list(itertools.product(range(len(CONFIGS)), "abcdef", range(3)))


@settings(max_examples=8)
@given(st.sets(st.sampled_from(PLACES)), st.integers(0, 2**32 - 1))
def test_costs_are_those_of_the_oracle_whatever_rounds_are_lost(
    lost: set[tuple[int, str, int]], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    steps: list[dict[tuple[str, int], float]] = [{} for _ in CONFIGS]
    rows = []
    for i, race, number in PLACES:
        if (i, race, number) not in lost or (race, number) == ("f", 2):
            seconds = float(generator.lognormal(-3, 0.5))
            steps[i][race, number] = seconds
            rows += rows_of(CONFIGS[i], [seconds], race, peak_bytes=i)
            rows[-1]["round"] = number
    found = costs(as_rounds(rows)).to_dict("records")
    in_order = [row["peak_bytes"] for row in found]
    assert in_order == list(range(len(CONFIGS))), "in the order of the rounds"
    for row, one, mine, place in zip(found, CONFIGS, steps, BASELINES, strict=True):
        step = np.median([*mine.values()])
        images = one["batch_size"] * one["train.accumulate"]
        assert (row["norm"], row["batch_size"]) == (one["norm.name"], one["batch_size"])
        assert row["rounds"] == len(mine)
        assert row["processes"] == len({race for race, _ in mine})
        assert row["seconds"] == pytest.approx(step)
        assert row["images_per_second"] == pytest.approx(images / step)
        of_bn = {} if place is None else steps[place]
        ratios = defaultdict(list)
        for race, number in {*mine} & {*of_bn}:
            ratios[race].append(mine[race, number] / of_bn[race, number])
        expected = over_processes([*ratios.values()]) if ratios else (math.nan,) * 3
        assert [row[name] for name in RATIO] == pytest.approx(expected, nan_ok=True)


def test_rounds_of_another_race_or_another_round_are_no_pair() -> None:
    bn, gn = config("bn"), config("gn")
    rows = rows_of(bn, [1.0, 2.0, 4.0], "a") + rows_of(gn, [3.0], "a")
    found = costs(as_rounds([*rows, *rows_of(gn, [0.1, 0.1], "b")])).set_index("norm")
    assert found.loc["gn", "relative_time"] == pytest.approx(3)
    assert found.loc["gn", "seconds"] == pytest.approx(0.1)
    apart = costs(as_rounds([*rows_of(bn, [1.0], "a"), *rows_of(gn, [3.0], "b")]))
    assert apart["relative_time"].tolist() == pytest.approx([1.0, math.nan], nan_ok=True)


@settings(max_examples=10)
@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=12))
def test_whatever_slows_a_whole_round_down_changes_no_ratio(drift: list[float]) -> None:
    slowed = {step: [step * slow for slow in drift] for step in (0.01, 0.0115)}
    found = costs(rounds((BN, slowed[0.01]), (GN, slowed[0.0115]), processes=5)).set_index("norm")
    assert found.loc["gn", RATIO].tolist() == pytest.approx([1.15] * 3)


BN, GN = config("bn"), config("gn")


def test_settings_in_which_configurations_of_a_norm_differ_are_columns_by_short_names() -> None:
    of_gn = [
        config("gn", **{"norm.num_groups": n, "runtime.channels_last": n == 2}) for n in (2, 4)
    ]
    found = costs(rounds(*((one, [0.1]) for one in (BN, *of_gn))))
    assert list(found.columns[:2]) == ["norm", "batch_size"]
    assert {*found.columns[2:4]} == {"num groups", "channels last"}
    assert found.columns[4] == "seconds"
    assert found["num groups"].tolist() == ["", "2", "4"]
    assert found["channels last"].tolist() == ["False", "True", "False"]
    last = config("bn", **{"runtime.channels_last": True})
    found = costs(rounds((last, [0.1]), (GN, [0.1])))
    assert found["channels last"].tolist() == ["True", "False"], "why gn is not related to bn"
    alone = costs(rounds((BN, [0.1]), (of_gn[1], [0.1])))
    assert list(alone.columns[:3]) == ["norm", "batch_size", "seconds"]


def test_rounds_of_an_interrupted_bench_are_counted_as_they_are() -> None:
    """Not their median over batch sizes, which no contestant took."""
    whole = rounds(*((config(norm, 1), [0.1] * 25) for norm in ("bn", "gn")), processes=5)
    said = costs_table(pd.concat([whole, rounds((BN, [0.1] * 3), (GN, [0.1] * 3))])).caption
    assert "Medians over 3 or 25 rounds" in said
    interval = "averaged over 1 or 5 processes, with its 95 % Student-t interval over them where"
    assert f"{interval} there are 5. " in said


def test_the_table_says_what_its_figures_rest_on() -> None:
    of_bn = [0.01, 0.011, 0.009, 0.01, 0.01, 0.01, 0.01]
    of_gn = [0.012, 0.0132, 0.0117, 0.011, 0.013, 0.012, 0.012]
    timed = (BN, of_bn), (GN, of_gn), (config("bn", 1), [0.0012] * 7)
    table = costs_table(rounds(*timed, processes=7))
    value, low, high = over_processes([[1.2], [1.2], [1.3], [1.1], [1.3], [1.2], [1.2]])
    assert table.title == "What a training step costs"
    assert table.shown.to_dict("list") == {
        "norm": ["bn", "gn", "bn"],
        "batch size": ["64", "64", "1"],
        "step": ["10.0 ms", "12.0 ms", "1.2 ms"],
        "relative to bn": ["1.00x", f"{value:.2f}x ({low:.2f} to {high:.2f})", "1.00x"],
        "images/s": ["6400", "5333", "833"],
        "peak": ["3.0 MiB"] * 3,
        "saved": ["2.0 MiB"] * 3,
        "state": ["1.0 MiB"] * 3,
    }
    assert table.caption.startswith("Medians over 7 rounds, ")
    interval = "averaged over 7 processes, with its 95 % Student-t interval over them. "
    assert interval in table.caption
    network = "(normresnet, widths 64, 128, 256, 512)"
    assert f"Times are of this network {network}, not of the norm as such." in table.caption
    assert table.caption.endswith(
        "another processor, threads: 1, torch 2.16.0, commit fedcba987654."
    )
    compiled = costs_table(rounds((BN, [0.1]), compile_seconds=61.7))
    assert compiled.shown["compilation"].tolist() == ["62 s"]


def test_without_bn_a_step_has_no_ratio_and_says_so() -> None:
    found = rounds((GN, [0.1] * 7), (config("ln"), [0.1] * 7))
    assert costs(found)[RATIO].isna().all(axis=None)
    assert costs_table(found).shown["relative to bn"].tolist() == ["not measured"] * 2


def test_of_two_kinds_of_bn_none_is_chosen_to_relate_to() -> None:
    timed = [(BN, [0.1]), (config("bn", **{"norm.eps": 0.1}), [0.2]), (GN, [0.4])]
    for order in (timed, timed[::-1]):
        assert costs(rounds(*order)).set_index("norm")["relative_time"].isna()["gn"]


def test_each_machine_stands_with_its_own_threads() -> None:
    there = rounds((GN, [0.1])).assign(device="another still", threads="16")
    assert machine(pd.concat([rounds((BN, [0.1])), there])).startswith(
        "another processor, threads: 1; another still, threads: 16, torch 2.16.0"
    )


# Figures


def dots(axes: Axes) -> list[tuple[float, float, float]]:
    """Low, middle and high of each row with a dot, from the top; without a bar all are equal."""
    found = []
    for container in axes.containers:
        (middle,) = container[0].get_xdata()
        low, high = middle, middle
        for collection in container[2]:
            ((start, end),) = collection.get_segments()
            low, high = start[0], end[0]
        found.append((low, middle, high))
    return found


def titles(figure: Any) -> list[str]:
    return [" ".join(axes.get_title("left").split()) for axes in figure.axes]


def test_one_batch_size_is_one_panel_with_a_row_for_each_norm_and_bn_at_1() -> None:
    timed = many_rounds([BN, GN, config("ln")])
    data = costs(timed)
    (axes,) = costs_figure(timed).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["bn", "gn", "ln"]
    assert axes.yaxis.get_inverted()
    expected = data[["relative_time_low", "relative_time", "relative_time_high"]].to_numpy()
    assert dots(axes) == [pytest.approx(ends) for ends in expected.tolist()]
    assert dots(axes)[0] == (1, 1, 1)
    said = [f"{middle:.2f}x" for middle in data["relative_time"]]
    assert [text.get_text() for text in axes.texts] == said
    colours = [container[0].get_color().upper() for container in axes.containers]
    assert colours == [STYLES[norm][0] for norm in ("bn", "gn", "ln")]
    assert axes.get_title("left") == ""
    assert axes.get_xlabel() == "time of a step over bn's"


def test_each_batch_size_and_layout_is_a_panel_whose_title_ends_where_the_next_begins() -> None:
    configs = []
    for size, last in itertools.product((1, 64), (False, True)):
        changed = {"runtime.channels_last": last, "runtime.compile": size == 1}
        configs += [config(norm, size, **changed) for norm in ("bn", "gn")]
    figure = costs_figure(many_rounds(configs))
    assert titles(figure) == [
        f"batch size {size}, channels last {last}, compile {size == 1}"
        for size, last in itertools.product((1, 64), (False, True))
    ]
    assert [len(axes.containers) for axes in figure.axes] == [2] * 4
    assert figure.get_supxlabel().split() == figure.get_label().split()
    assert "with its 95 % Student-t interval" in figure.get_label()
    assert "another processor, threads: 1, torch 2.16.0, commit fedcba987654." in figure.get_label()
    figure.canvas.draw()
    boxes = [axes._left_title.get_window_extent() for axes in figure.axes]
    for one, other in itertools.pairwise(boxes):
        assert one.y0 != other.y0 or one.x1 <= other.x0
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize(("processes", "said"), [(1, "of one process"), (4, "of 4 processes")])
def test_few_processes_have_dots_without_bars_and_the_notes_say_why(
    processes: int, said: str
) -> None:
    timed = many_rounds([BN, GN], processes)
    few = costs_figure(timed)
    reason = "without an interval, which takes 5 processes, since they differ by more than rounds"
    for note in (few.get_label(), costs_table(timed).caption):
        assert f"{said}, {reason}" in note
    assert [low == middle == high for low, middle, high in dots(few.axes[0])] == [True, True]


def test_norms_without_bn_have_no_dots() -> None:
    alone = costs_figure(many_rounds([GN, config("ln"), config("bn", 8)]))
    assert [len(axes.containers) for axes in alone.axes] == [0, 1]
    assert [text.get_text() for text in alone.axes[0].get_yticklabels()] == ["gn", "ln"]


@pytest.mark.parametrize("name", ["column", "slide"])
def test_the_figure_is_drawn_at_every_size(name: str, tmp_path: Path) -> None:
    size = size_called(name)
    figure = costs_figure(many_rounds([BN, GN, config("bn", 1), config("gn", 1)]), size)
    save(figure, tmp_path / "costs.svg", size)
    assert ">gn</text>" in (tmp_path / "costs.svg").read_text()


# Layers

Site = tuple[str, str, str, str]  # norm, site, layout, mode


def layer_rounds(
    forward: dict[Site, Sequence[float]],
    both: dict[Site, Sequence[float]],
    processes: int = 1,
    **facts: Any,
) -> pd.DataFrame:
    """The rounds of layers, whose forward passes and whose passes both ways took these seconds.

    The processes take them in turns.
    """
    known = {"batch_size": 64, "own_activation": False, **TIMED_ON, **facts}
    rows = []
    for part, timed in (("forward", forward), ("both", both)):
        for place, seconds in timed.items():
            of_place = dict(zip(("norm", "site", "layout", "mode"), place, strict=True))
            for number, value in enumerate(seconds):
                race = f"process {number % processes} batch {known['batch_size']}"
                turn = {"race": race, "round": number // processes}
                rows.append(known | of_place | turn | {"part": part, "seconds": value})
    return pd.DataFrame(rows)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6))
def test_layers_are_summed_over_sites_and_the_way_back_is_what_both_ways_take_longer(
    seed: int, number: int, processes: int
) -> None:
    generator = np.random.default_rng(seed)
    sites = ("4x32x32", "8x16x16", "8x8x8")
    places = [*itertools.product(("bn", "gn"), sites, ("contiguous",), ("eager", "compiled"))]
    there = {place: generator.uniform(1, 2, number) for place in places}
    back = {place: generator.uniform(2, 4, number) for place in places}
    both = {place: there[place] + back[place] for place in places}
    table = layers(layer_rounds(there, both, processes))
    assert len(table) == 4
    for row in table.to_dict("records"):
        norm, where = row["norm"], (row["layout"], row["mode"])
        sums = [sum(part[norm, site, *where] for site in sites) for part in (there, back, both)]
        of_bn = sum(both["bn", site, *where] for site in sites)
        assert row["forward_seconds"] == pytest.approx(np.median(sums[0]))
        assert row["backward_seconds"] == pytest.approx(np.median(sums[1]))
        ratios = sums[2] / of_bn
        by_process = [ratios[first::processes] for first in range(min(processes, number))]
        expected = over_processes(by_process)
        assert [row[name] for name in RATIO] == pytest.approx(expected, nan_ok=True)
        assert (row["rounds"], row["processes"]) == (number, len(by_process))


def test_layers_are_related_to_bn_in_the_same_layout_mode_and_batch_size() -> None:
    seconds = {
        ("bn", "4x8x8", "contiguous", "eager"): (0.001, 0.002),
        ("gn", "4x8x8", "contiguous", "eager"): (0.002, 0.006),
        ("gn", "4x8x8", "channels_last", "eager"): (0.002, 0.005),
        ("gn", "4x8x8", "contiguous", "compiled"): (0.002, 0.004),
    }
    timed = []
    for size, slow in ((64, 1), (8, 10)):
        forward = {place: [slow * there] for place, (there, _) in seconds.items()}
        both = {place: [slow * total] for place, (_, total) in seconds.items()}
        timed.append(layer_rounds(forward, both, batch_size=size))
    assert layers_table(pd.concat(timed)).shown.to_dict("list") == {
        "batch size": ["64"] * 4 + ["8"] * 4,
        "norm": ["bn", "gn", "gn", "gn"] * 2,
        "layout": ["contiguous", "contiguous", "contiguous", "channels_last"] * 2,
        "mode": ["eager", "eager", "compiled", "eager"] * 2,
        "forward": ["1.00 ms", *["2.00 ms"] * 3, "10.00 ms", *["20.00 ms"] * 3],
        "backward": [f"{size * value:.2f} ms" for size in (1, 10) for value in (1, 4, 2, 3)],
        "relative to bn": ["1.00x", "3.00x", "not measured", "not measured"] * 2,
    }


def test_each_layout_and_mode_of_layers_is_a_panel() -> None:
    forward, both = {}, {}
    for layout, mode in itertools.product(("contiguous", "channels_last"), ("eager", "compiled")):
        for norm, seconds in (("bn", 0.1), ("gn", 0.3 if mode == "compiled" else 0.05)):
            forward[norm, "4x8x8", layout, mode] = [seconds] * 6
            both[norm, "4x8x8", layout, mode] = [2 * seconds] * 6
    figure = layers_figure(layer_rounds(forward, both))
    assert {axes.get_xlabel() for axes in figure.axes} == {"time of the layers over bn's"}
    assert len({*titles(figure)}) == 4
    for title, axes in zip(titles(figure), figure.axes, strict=True):
        assert title.startswith("layout c")
        expected = 3 if "mode compiled" in title else 0.5
        assert [middle for _, middle, _ in dots(axes)] == [1, pytest.approx(expected)]


TWO_SITES = {("bn", site, "contiguous", "eager"): [0.1] * 5 for site in ("4x8x8", "8x4x4")}


def test_the_caption_of_layers_says_sites_rounds_and_machine() -> None:
    of_bn = layer_rounds(TWO_SITES, TWO_SITES)
    said = layers_table(of_bn).caption
    assert "(4x8x8, 8x4x4), median over 5 rounds" in said
    assert "the rounds' ratios, of one process, without an interval, which takes 5" in said
    assert said.endswith("another processor, threads: 1, torch 2.16.0, commit fedcba987654.")
    assert "activation" not in said
    both = layers_table(pd.concat([of_bn, of_bn.assign(norm="frn", own_activation=True)])).caption
    assert "With an activation of its own, which the others leave to the network: frn. " in both


# Files


def test_a_report_of_a_bench_is_files_that_are_called_alike(tmp_path: Path) -> None:
    report = of_steps(many_rounds([BN, GN]).to_dict("records"))
    report.write(tmp_path / "new")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {SUMS, *(f"bench{end}" for end in (".csv", ".md", ".svg", ".png"))}
    assert report.table.caption in (tmp_path / "new" / "bench.md").read_text()
    timed = layer_rounds(TWO_SITES, TWO_SITES)
    of_layers(timed.to_dict("records")).write(tmp_path / "new")
    names = {path.name for path in (tmp_path / "new").glob("layers.*")}
    assert names == {f"layers{end}" for end in (".csv", ".md", ".svg", ".png")}
    written = pd.read_csv(io.StringIO((tmp_path / "new" / "layers.csv").read_text()))
    pd.testing.assert_frame_equal(written, timed)
