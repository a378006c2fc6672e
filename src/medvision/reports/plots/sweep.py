"""Plots of a search: history, importance, parallel coordinates and slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from medvision.reports.plots.style import new_axes, new_figure, short_name

Trial = Mapping[str, Any]
Key = Mapping[str, Any]

BLUE, RED, GREY = "#4477aa", "#ee6677", "#9aa3ad"
COLORS = "viridis"
PER_LINE = 3
MOST_KEYS = 12
"""Largest number of keys with an axis or a panel; more would be too small to read."""
SPREAD = 0.18
"""Half the width over which trials of one option are spread."""


def draw_history(trials: Sequence[Trial], *, metric: str, mode: str) -> Figure:
    """Draw the value of every trial in order of number, and the best so far as a line."""
    figure, axes = new_axes(7.5, 3.6)
    complete = _of(trials, "complete")
    pruned = [trial for trial in _of(trials, "pruned") if trial["value"] is not None]
    numbers = [trial["number"] for trial in complete]
    values = [trial["value"] for trial in complete]
    if complete:
        best = (np.maximum if mode == "max" else np.minimum).accumulate(values)
        last = max(trial["number"] for trial in trials)
        axes.step([*numbers, last], [*best, best[-1]], where="post", color=RED, label="best so far")
        axes.plot(numbers, values, "o", color=BLUE, label="complete")
    if pruned:
        axes.plot(
            [trial["number"] for trial in pruned],
            [trial["value"] for trial in pruned],
            "o",
            markerfacecolor="white",
            color=GREY,
            label="pruned: best until then",
        )
    for place, trial in enumerate(_of(trials, "failed")):
        label = "failed" if place == 0 else None
        axes.axvline(trial["number"], color=GREY, linewidth=1, linestyle=":", label=label)
    axes.set(xlabel="trial", ylabel=metric, title="Course of the search")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best", fontsize=9)
    return figure


def draw_importance(shares: Mapping[str, float]) -> Figure:
    """Draw the share of the metric's variance that each key explains, the largest on top."""
    figure, axes = new_axes(7.5, 0.8 + 0.36 * len(shares))
    names = [short_name(name, length=34) for name in shares][::-1]
    values = [*shares.values()][::-1]
    axes.barh(names, values, color=BLUE, height=0.6)
    for place, value in enumerate(values):
        axes.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=9)
    axes.set(xlim=(0, 1.1), xlabel="share of the variance", title="Importance")
    axes.grid(visible=False, axis="y")
    return figure


def draw_parallel(
    trials: Sequence[Trial], keys: Sequence[Key], *, metric: str, mode: str
) -> Figure | None:
    """Draw parallel coordinates: an axis per key and one for the metric, a line per trial.

    Returns:
        None if no trial is complete.
    """
    shown = [trial for trial in _of(trials, "complete") if trial["value"] is not None]
    if not shown:
        return None
    keys = keys[:MOST_KEYS]
    figure, axes = new_axes(max(7.5, 1.5 * (len(keys) + 1)), 4.2)
    values = np.array([trial["value"] for trial in shown])
    low, high = float(values.min()), float(values.max())
    colors = ScalarMappable(Normalize(low, high if high > low else low + 1), COLORS)
    for trial in _of(trials, "pruned"):
        axes.plot(
            range(len(keys)),
            [_height(key, trial["values"][key["name"]]) for key in keys],
            color=GREY,
            linewidth=0.7,
            alpha=0.5,
        )
    # draw the best ones last, on top
    for trial in sorted(shown, key=lambda one: one["value"], reverse=mode == "min"):
        line = [_height(key, trial["values"][key["name"]]) for key in keys]
        line.append(_share(trial["value"], low, high))
        axes.plot(range(len(line)), line, color=colors.to_rgba(trial["value"]), linewidth=1.5)
    for place, key in enumerate(keys):
        _mark_axis(axes, place, [(_height(key, value), _text(value)) for value in _ticks(key)])
    ends = [low, (low + high) / 2, high] if high > low else [low]
    _mark_axis(axes, len(keys), [(_share(end, low, high), f"{end:.3g}") for end in ends])
    names = [short_name(str(key["name"]), length=22).replace(".", ".\n") for key in keys]
    axes.set_xticks(range(len(keys) + 1), [*names, metric])
    axes.set(ylim=(-0.05, 1.05), xlim=(-0.2, len(keys) + 0.35), title="Parallel coordinates")
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def draw_slices(trials: Sequence[Trial], keys: Sequence[Key], *, metric: str) -> Figure | None:
    """Draw the metric against each key; later trials are darker.

    Returns:
        None if no trial is complete.
    """
    shown = [trial for trial in _of(trials, "complete") if trial["value"] is not None]
    if not shown:
        return None
    keys = keys[:MOST_KEYS]
    lines, per_line = -(-len(keys) // PER_LINE), min(PER_LINE, len(keys))
    figure = new_figure(max(4.2, 3.1 * per_line), 2.8 * lines)
    panels: NDArray[Any] = np.atleast_1d(figure.subplots(lines, per_line, squeeze=False)).ravel()
    order = [trial["number"] for trial in shown]
    values = [trial["value"] for trial in shown]
    for panel, key in zip(panels, keys, strict=False):
        where = _places(key, shown)
        panel.scatter(where, values, c=order, cmap="Blues", edgecolors=BLUE, vmin=min(order) - 3)
        panel.set_xlabel(short_name(str(key["name"]), length=30))
        if key["kind"] == "choice":
            options = list(key["options"])
            names = [short_name(option, length=12) for option in options]
            panel.set_xticks(range(len(options)), names, rotation=30 * (len(options) > 4))
            panel.set_xlim(-0.5, len(options) - 0.5)
        elif key["log"]:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(numticks=5))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for place, panel in enumerate(panels):
        panel.set_visible(place < len(keys))
        if place % per_line == 0:
            panel.set_ylabel(metric)
    return figure


def _of(trials: Sequence[Trial], state: str) -> list[Trial]:
    return [trial for trial in trials if trial["state"] == state]


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high <= low else (value - low) / (high - low)


def _height(key: Key, value: Any) -> float:
    """Position of a value on its axis, in [0, 1]."""
    if key["kind"] == "choice":
        return _share(list(key["options"]).index(value), 0, len(key["options"]) - 1)
    if key["log"]:
        return _share(np.log10(value), np.log10(key["low"]), np.log10(key["high"]))
    return _share(value, key["low"], key["high"])


def _ticks(key: Key) -> Sequence[Any]:
    if key["kind"] == "choice":
        return list(key["options"])
    low, high = key["low"], key["high"]
    middle = float(np.sqrt(low * high)) if key["log"] else (low + high) / 2
    return [low, middle, high] if high > low and key["kind"] == "float" else [low, high]


def _text(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else short_name(str(value), length=12)


def _mark_axis(axes: Axes, place: float, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([place, place], [0, 1], color=mpl.rcParams["axes.edgecolor"], linewidth=0.9)
    for height, text in ticks:
        axes.plot([place, place + 0.03], [height, height], color="black", linewidth=0.8)
        axes.text(
            place + 0.05,
            height,
            text,
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
        )


def _places(key: Key, trials: Sequence[Trial]) -> list[float]:
    """Positions of the trials on the axis of a key; those of one option are spread."""
    values = [trial["values"][key["name"]] for trial in trials]
    if key["kind"] != "choice":
        return values
    options, places = list(key["options"]), []
    for number, value in enumerate(values):
        total, before = values.count(value), values[:number].count(value)
        shift = 0.0 if total == 1 else SPREAD * (2 * before / (total - 1) - 1)
        places.append(options.index(value) + shift)
    return places
