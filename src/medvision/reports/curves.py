"""The values of every epoch as a picture."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medvision.reports.style import STAGE_COLORS

History = Sequence[Mapping[str, float | int | None]]
"""A row per epoch, as metrics.csv holds them; None where a value is undefined."""


def draw_curve(history: History, *, name: str, label: str, mark: str) -> Figure:
    """Training and validation value of every epoch, the best validation epoch marked."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for stage, color in STAGE_COLORS.items():
        points = [(row["epoch"], row.get(f"{stage}/{name}")) for row in history]
        known = [(int(e or 0) + 1, v) for e, v in points if v is not None]
        if not known:
            continue
        epochs, values = zip(*known, strict=True)
        axes.plot(epochs, values, color=color, marker="o", markersize=3, label=stage)
        if stage == "val":
            best = (min if name == "loss" else max)(known, key=lambda point: point[1])
            axes.plot(*best, color=color, marker="o", markersize=9, fillstyle="none")
            axes.annotate(
                f"{best[1]:.3f}", best, xytext=(0, 9), textcoords="offset points", ha="center"
            )
    axes.set(xlabel="epoch", ylabel=label, title=f"{label}, train and validation{mark}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.15)
    if axes.has_data():
        axes.legend()
    return figure
