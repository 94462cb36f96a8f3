"""The course of training: the loss by step, and the metrics by epoch."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normbench.analysis.figures import style
from normbench.analysis.figures.labels import add_labels
from normbench.analysis.figures.layout import add_basis, by_panel, link, of_lines, prepared
from normbench.analysis.study import Study
from normbench.errors import NormbenchError
from normbench.tasks.metric import Metric

MARKED = 6  # markers on a long line
MOST_SMOOTHED = 9  # logged steps
DASHES = {"train": "--", "test": "-"}  # of lines, by split
OVER_SEEDS = "Lines: mean over seeds; bands: lowest to highest."


def loss(study: Study, size: style.Size = style.PAGE, smooth: int | None = None) -> Figure:
    """The training loss of logged steps, the mean over seeds, with all norms in a panel.

    smooth: logged steps in a centred running mean, drawn over the faint raw line; an odd number,
    1 for the raw line alone, by default up to 9; never more than a line has.

    Raises NormbenchError for an even or negative number, and where no step was logged.
    """
    if smooth is not None and (smooth < 1 or smooth % 2 == 0):
        raise NormbenchError(
            f"--smooth {smooth}: give the odd number of logged steps to average over, 1 for none"
        )
    study, looks = prepared(study)
    study = study.done.chosen
    if study.steps.empty:
        raise NormbenchError("no steps.csv: these runs logged no steps")
    with style.drawing(size):
        facets = by_panel(study)
        figure, axes = style.panels(size, len(facets))
        widths = []
        for ax, (title, panel) in zip(axes, facets, strict=True):
            widths += _loss_lines(ax, panel, looks, smooth)
            label = f"training {study.metric('train_loss').label}"
            _finish(ax, title, "step", label if style.is_first(ax) else "")
        add_labels(figure, axes, size)
        over_seeds = "Mean over seeds." if study.runs["seed"].nunique() > 1 else ""
        add_basis(figure, study, size, _how_smooth(widths), over_seeds)
    return figure


def epochs(study: Study, size: style.Size = style.PAGE) -> Figure:
    """The loss and the primary metric by epoch, on the training set and on the test set."""
    study, looks = prepared(study)
    study = study.done.chosen
    metrics = [one for one in study.task.metrics if one.name == "loss" or one == study.primary]
    with style.drawing(size):
        facets = by_panel(study)
        columns = min(len(facets), size.columns)
        order = _in_rows(facets, metrics, columns)
        # A single facet has the metrics side by side.
        wide = min(len(metrics), size.columns) if columns == 1 else columns
        figure, axes = style.panels(size, len(order), wide, sharey=False)
        for ax, (title, panel, metric) in zip(axes, order, strict=True):
            _epoch_lines(ax, panel, metric, looks)
            _finish(ax, title, "epoch", metric.label)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if panel.runs["epochs"].max() == 1:
                ax.set_xlim(0.5, 1.5)
        add_labels(figure, axes, size)
        over_seeds = OVER_SEEDS if study.runs["seed"].nunique() > 1 else ""
        how = "Solid: test set; dashed: training, as the epoch went."
        add_basis(figure, study, size, how, over_seeds)
    return figure


def _in_rows(
    facets: Sequence[tuple[str, Study]], metrics: Sequence[Metric], columns: int
) -> list[tuple[str, Study, Metric]]:
    """The panels in their order: below each row of facets, the same facets in the next metric."""
    order = []
    for start in range(0, len(facets), columns):
        for metric in metrics:
            for title, panel in facets[start : start + columns]:
                order.append((title, panel, metric))
    return order


def _loss_lines(ax: Axes, panel: Study, looks: style.Looks, smooth: int | None) -> list[int]:
    """Draws a line per norm; returns the widths of the running means."""
    means = of_lines(panel.steps, panel).groupby(["line", "step"], sort=False)["loss"].mean()
    widths = []
    for place, (label, of_line) in enumerate(means.groupby(level="line", sort=False)):
        raw = of_line.droplevel("line").sort_index()
        colour, marker = looks[str(label)]
        width = _width(len(raw), smooth)
        widths.append(width)
        if width > 1:
            ax.plot(raw.index, raw, color=colour, alpha=0.3, linewidth=0.7, label="_")
        shown = raw.rolling(width, center=True, min_periods=1).mean()
        (line,) = ax.plot(shown.index, shown, color=colour, marker=marker, label=str(label))
        # Markers of different lines start at different steps, lest markers hide each other.
        every = max(1, len(shown) // MARKED)
        line.set_markevery((every * place // 5 % every, every))
        line.set_url(link(panel.runs[panel.runs["line"] == label]))
    return widths


def _width(length: int, smooth: int | None) -> int:
    """Logged steps to average over, odd: as asked, else so few that a line keeps its shape."""
    if smooth is None:
        return min(MOST_SMOOTHED, _odd(length // 8 + 1))
    return min(smooth, _odd(length))


def _odd(number: int) -> int:
    return number - (number + 1) % 2


def _how_smooth(widths: Sequence[int]) -> str:
    high = max(widths)
    if high == 1:
        return "Single logged steps."
    up_to = "" if min(widths) == high else "up to "
    return f"Bold: running mean of {up_to}{high} logged steps; faint: each."


def _epoch_lines(ax: Axes, panel: Study, metric: Metric, looks: style.Looks) -> None:
    rows = of_lines(panel.metrics, panel)
    of_split = {}
    for split in DASHES:
        values = metric.scale * rows[f"{split}_{metric.name}"]
        by_epoch = values.groupby([rows["line"], rows["epoch"]])
        of_split[split] = by_epoch.agg(["mean", "min", "max", "size"])
    for label in rows["line"].unique():
        colour, marker = looks[str(label)]
        for split, dashes in DASHES.items():
            over_seeds = of_split[split].loc[label]
            if (over_seeds["size"] > 1).any():
                low, high = over_seeds["min"], over_seeds["max"]
                ax.fill_between(low.index, low, high, color=colour, alpha=0.15, linewidth=0)
            (line,) = ax.plot(over_seeds.index, over_seeds["mean"], dashes, color=colour)
            line.set(marker=marker, markevery=max(1, len(over_seeds) // MARKED))
            if split == "test":
                runs = panel.runs[panel.runs["line"] == label]
                line.set(label=str(label), url=link(runs))
            else:
                line.set(label="_", markerfacecolor=style.PAPER)


def _finish(ax: Axes, title: str, x: str, y: str) -> None:
    style.set_title(ax, title)
    ax.set(xlabel=x, ylabel=y)
