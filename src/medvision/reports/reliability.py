"""The reliability diagram of a classifier, before and after its probabilities were calibrated."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Bins = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]]
"""Mean confidence, accuracy and number of images of each of B bins of equal width over [0, 1]."""


def draw_calibration(
    confidence: NDArray[np.floating],
    accuracy: NDArray[np.floating],
    count: NDArray[np.integer],
    *,
    ece: float | None,
    mark: str,
    after: Bins | None = None,
    after_ece: float | None = None,
    temperature: float | None = None,
) -> Figure:
    """Reliability diagram: how often a class was right against how sure of it the network was.

    With ``after``, the bins after temperature scaling stand beside those before it.
    """
    figure = Figure(figsize=(5.5, 6.2 if after else 6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(count) + 1)
    shown = [(confidence, accuracy, count), *([after] if after else [])]
    width = np.diff(edges) / len(shown)
    looks = [("#4477aa", "#aa3377", "o", " before"), ("#ccbb44", "#228833", "D", " after")]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":", label="calibrated")
    for place, ((sure, right, images), (bar, point, marker, when)) in enumerate(
        zip(shown, looks, strict=False)
    ):
        where = when if after else " in the bin"
        filled, left = images > 0, edges[:-1] + place * width
        bars: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white"}
        heights = np.where(filled, right, 0)
        axes.bar(left, heights, **bars, color=bar, alpha=0.55, label=f"accuracy{where}")
        label = f"at its mean confidence{when if after else ''}"
        points = sure[filled], right[filled]
        axes.plot(*points, marker, color=point, markeredgecolor="white", label=label, zorder=3)
        below.bar(left, images, **bars, color=bar, label=f"images{when}")
    axes.set(ylabel="accuracy", ylim=(0, 1.04), xlim=(0, 1))
    title = f"Calibration, ECE {told(ece)[1]}, test images{mark}"
    if after:
        title = (
            f"Calibration, test images{mark}\nECE {told(ece)[1]} before, {told(after_ece)[1]}"
            f" after temperature {temperature:.3g}"
        )
    axes.set_title(title)
    below.set(xlabel="confidence: probability of the most probable class", ylabel="images")
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2 if after else 3, fontsize=9)
    return figure


def told(score: float | None) -> tuple[bool, str]:
    """Whether a score is a number, and the number with four decimals."""
    known = score is not None and bool(np.isfinite(score))
    return known, f"{score:.4f}" if known else "undefined"
