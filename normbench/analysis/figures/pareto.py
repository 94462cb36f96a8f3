"""The final result against the time of a step: what a norm costs, and what it brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normbench.analysis.captions import machine, over_processes, timed_networks
from normbench.analysis.figures import style
from normbench.analysis.figures.intervals import lengths, over_seeds
from normbench.analysis.figures.labels import add_legend
from normbench.analysis.figures.layout import add_basis, by_panel, link, prepared
from normbench.analysis.stats import Estimate, Ratio, mean_interval, ratio_over_processes
from normbench.analysis.study import BASELINE, LOST, Study
from normbench.analysis.tables.table import in_words
from normbench.errors import NormbenchError
from normbench.tasks.metric import Metric

TIME = f"time of a step over {BASELINE}'s"
FRONT = (
    "Filled and joined: no other norm there is at least as quick and as good, and better in one; "
    "by the points alone, whatever their intervals, so it is no verdict."
)
NOT_SOUND = "Norms that lost seeds or are not comparable count for nothing in this."


@dataclass(frozen=True)
class Point:
    """A norm at a choice of settings: the time of a step over bn's, and the final result.

    reached: times the metric's scale. is_sound: whether its figures are comparable, and no seed
    was lost. url: the link to its runs.
    """

    label: str
    time: Ratio
    reached: Estimate
    is_sound: bool
    url: str


def pareto(study: Study, size: style.Size = style.PAGE) -> Figure:
    """The primary metric on the test set against the time of a step relative to bn.

    The ratios are those of the comparison table, from a bench of the runs' own settings.
    Raises NormbenchError where no norm was timed in the same rounds as bn.
    """
    study, looks = prepared(study)
    study = study.chosen
    panels, untimed = _points_by_panel(study)
    if not panels:
        raise NormbenchError(f"no times relative to {BASELINE}: normbench bench measures them")
    metric = study.primary
    with style.drawing(size):
        figure, axes = style.panels(size, len(panels))
        for ax, (title, points) in zip(axes, panels.items(), strict=True):
            _draw_panel(ax, points, metric, looks)
            style.set_title(ax, title)
            if style.is_first(ax):
                ax.set_ylabel(replace(metric, name=in_words(study.test_column)).label)
        add_legend(figure, axes, size)
        every = [point for points in panels.values() for point in points]
        add_basis(figure, study, size, *_remarks(study, every, untimed))
    return figure


def is_on_front(point: Point, points: Sequence[Point], metric: Metric) -> bool:
    """Whether no sound point is at least as quick and as good as this one, and better in one.

    A point that is not sound is on no front.
    """
    others = [one for one in points if one.is_sound]
    return point.is_sound and not any(_dominates(one, point, metric) for one in others)


def _dominates(first: Point, second: Point, metric: Metric) -> bool:
    if metric.is_better(second.reached.mean, first.reached.mean):
        return False
    is_better = metric.is_better(first.reached.mean, second.reached.mean)
    is_quicker = first.time.value < second.time.value
    return is_quicker or (is_better and first.time.value == second.time.value)


def _points_by_panel(study: Study) -> tuple[dict[str, list[Point]], list[str]]:
    """The points of each panel by its title, and the lines without a time beside bn's."""
    panels: dict[str, list[Point]] = {}
    untimed = []
    for title, panel in by_panel(study):
        for label, runs in panel.done.runs.groupby("line", sort=False):
            ratio = ratio_over_processes(panel.clock(runs["run"]), panel.clock_of_bn)
            if ratio is None:
                untimed.append(f"{label} at {title}" if title else str(label))
                continue
            of_line = panel.runs[panel.runs["line"] == label]
            is_sound = runs["norm"].iloc[0] not in panel.broken
            is_sound &= not of_line["status"].isin(LOST).any()
            values = [panel.primary.scale * value for value in runs[panel.test_column]]
            point = Point(str(label), ratio, mean_interval(values), bool(is_sound), link(runs))
            panels.setdefault(title, []).append(point)
    return panels, untimed


def _draw_panel(ax: Axes, points: Sequence[Point], metric: Metric, looks: style.Looks) -> None:
    front = sorted(
        (point for point in points if is_on_front(point, points, metric)),
        key=lambda point: point.time.value,
    )
    # From each point, what it reaches is reached until the next one.
    x, y = [point.time.value for point in front], [point.reached.mean for point in front]
    ax.step(x, y, where="post", color=style.FAINT, linewidth=0.8, zorder=1, label="_")
    for point in points:
        colour, marker = looks[point.label]
        at = [point.time.value], [point.reached.mean]
        width = None
        if point.time.low < point.time.high:
            width = [[point.time.value - point.time.low], [point.time.high - point.time.value]]
        bar = lengths(point.reached, metric)
        height = None if bar is None else [[bar[0]], [bar[1]]]
        ax.errorbar(*at, height, width, fmt="none", color=colour, capsize=2, zorder=2)
        (line,) = ax.plot(*at, color=colour, marker=marker, linestyle="", zorder=3)
        line.set(label=point.label, url=point.url)
        if point not in front:
            line.set_markerfacecolor(style.PAPER)
    ax.margins(0.12)
    ax.set_xlabel(TIME)


def _remarks(study: Study, points: Sequence[Point], untimed: Sequence[str]) -> list[str]:
    processes = [point.time.processes for point in points]
    remarks = [
        f"Across: the median of the rounds' ratios to {BASELINE}, {over_processes(processes)}, "
        f"on {machine(study.bench)}, of this study's network ({timed_networks(study)}), not of "
        "the norm as such."
    ]
    remarks.append(over_seeds([point.reached for point in points], study.primary, "up and down"))
    remarks.append(FRONT)
    if not all(point.is_sound for point in points):
        remarks.append(NOT_SOUND)
    if untimed:
        remarks.append(f"Not timed beside {BASELINE}: {', '.join(untimed)}.")
    return remarks
