"""Plots of several runs: training curves and ROC, one colour per group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medvision.reports.plots.classification import Points, macro_mean
from medvision.reports.plots.style import History, count_from_one, draw_chance, line_look, new_axes

LEGEND_LENGTH = 52  # longest name below a picture, in characters


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Plotted data of a group.

    Attributes:
        name: Name in the legend.
        size: Number of seeds, in words.
        has_spread: If True, there are several runs, each with a seed of its own.
        auroc: Mean and standard deviation of the test AUROC, in words.
        histories: Rows of metrics.csv of each run.
        roc: False and true positive rates of each run that has them.
    """

    name: str
    size: str
    has_spread: bool
    auroc: str
    histories: Sequence[History]
    roc: Sequence[Points]

    def validates(self, metric: str) -> bool:
        """Return True if any epoch of any run has this validation score."""
        return any(_points(history, f"val/{metric}") for history in self.histories)


def draw_validation(groups: Sequence[Drawn], *, metric: str, label: str, mark: str) -> Figure:
    """Draw validation values per epoch: a line per run, and mean and band over several seeds.

    The band is one standard deviation (n - 1) to either side. Mean and band cover the epochs that
    all runs of the group have.
    """
    figure, axes = _canvas(groups, width=6, height=3.6)
    ends: list[int] = []
    for number, group in enumerate(groups):
        look: Any = line_look(number)
        lines = [_points(history, f"val/{metric}") for history in group.histories]
        ends += [max(line) for line in lines if line]
        for line in lines:
            axes.plot([*line], [*line.values()], marker="o", **look, **_of_one_run(group))
        if group.has_spread:
            epochs = sorted(set.intersection(*(set(line) for line in lines)))
            values = np.array([[line[epoch] for epoch in epochs] for line in lines])
            mean = values.mean(axis=0)
            std = values.std(axis=0, ddof=1)
            axes.fill_between(
                epochs, mean - std, mean + std, color=look["color"], alpha=0.15, linewidth=0
            )
            axes.plot(epochs, mean, **look, linewidth=2.2)
        _name(axes, look, f"{_cut(group.name, LEGEND_LENGTH)} ({group.size})")
    axes.set(xlabel="epoch", ylabel=label, title=f"{label}, validation{mark}")
    count_from_one(axes, max(ends, default=1))
    figure.legend(loc="outside lower left", fontsize=9)
    return figure


def draw_rocs(groups: Sequence[Drawn], *, what: str, mark: str) -> Figure:
    """Draw the ROC of every run that has one, and the mean height over several seeds.

    Args:
        groups: Groups; those without any ROC are left out, and the others keep their colours.
        what: ``images`` or ``pixels``.
        mark: Text added to the title.
    """
    drawn = [bool(group.roc) for group in groups]
    figure, axes = _canvas(list(compress(groups, drawn)), width=5.6, height=5.2)
    draw_chance(axes, f"ROC of test {what}{mark}")
    for number, group in enumerate(groups):
        if not group.roc:
            continue
        look: Any = line_look(number)
        for curve in group.roc:
            axes.plot(*curve, **look, **_of_one_run(group))
        if group.has_spread:
            axes.plot(*macro_mean(group.roc), **look, linewidth=2.2)
        name = _cut(group.name, LEGEND_LENGTH - 16)
        _name(axes, look, f"AUC {group.auroc}  {name} ({group.size})")
    figure.legend(loc="outside lower left", fontsize=9)
    return figure


def _canvas(groups: Sequence[Drawn], *, width: float, height: float) -> tuple[Figure, Axes]:
    """Create a figure (size in inches) with room for the legend below."""
    return new_axes(width, height + 0.2 * len(groups))


def _of_one_run(group: Drawn) -> dict[str, Any]:
    """Line style of a run, thin if the mean of its group is also drawn."""
    if group.has_spread:
        return {"linewidth": 0.8, "markersize": 2, "alpha": 0.55}
    return {"linewidth": 1.6, "markersize": 3}


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 3].rstrip(' .')}..."


def _name(axes: Axes, look: Mapping[str, Any], name: str) -> None:
    axes.plot([], [], **look, linewidth=2.2, label=name)


def _points(history: History, name: str) -> dict[int, float]:
    """Collect the defined values by epoch, counted from 1."""
    known = {int(row["epoch"] or 0) + 1: row.get(name) for row in history}
    return {epoch: value for epoch, value in known.items() if value is not None}
