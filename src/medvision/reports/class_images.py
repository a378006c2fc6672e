"""Test images of a classification run, the mistakes first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medvision.reports.style import short_name
from medvision.types import IGNORE_INDEX

Read = Callable[[str], NDArray[np.uint8]]
"""Image (H, W, C) of a row's path, in [0, 255]."""

WRONG_COLOR = "#cc0022"


def choose_images(
    predicted: NDArray[np.integer],
    confidence: NDArray[np.floating],
    target: NDArray[np.integer],
    *,
    count: int = 16,
) -> list[int]:
    """Rows to show: the most confident mistakes, at most half, then right ones of every class.

    The right ones are taken class by class in turn, evenly from the table, in which neighbours
    are often alike. Mistakes fill what is left where there are too few.
    """
    known = target != IGNORE_INDEX
    wrong = np.flatnonzero(known & (predicted != target))
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    chosen = wrong[: count // 2].tolist()
    classes = np.unique(target[known])
    turns: list[tuple[int, int, int]] = []
    for label in classes:
        right = np.flatnonzero((predicted == target) & (target == label))
        stride = max(1, len(right) * len(classes) // (count - len(chosen)))
        order = sorted(range(len(right)), key=lambda place: (place % stride, place))
        turns += [(turn, int(label), int(right[place])) for turn, place in enumerate(order)]
    chosen += [row for _, _, row in sorted(turns)]
    return [*chosen, *wrong[count // 2 :].tolist()][:count]


def draw_images(
    probability: NDArray[np.floating],
    target: NDArray[np.integer],
    class_names: Sequence[str],
    *,
    threshold: float,
    rows: Sequence[Mapping[str, Any]],
    read: Read,
    mark: str,
) -> Figure:
    """Up to 16 test images with predicted class, its probability and true class."""
    predicted = probability.argmax(axis=1)
    if len(class_names) == 2:
        predicted = (probability[:, 1] >= threshold).astype(np.int64)
    confidence = probability[np.arange(len(predicted)), predicted]
    chosen = choose_images(predicted, confidence, target)
    lines = -(-len(chosen) // 4)
    figure = Figure(figsize=(9, 2.5 * lines + 0.6), layout="constrained")
    cells = figure.subplots(lines, 4, squeeze=False).ravel()
    for axes in cells[len(chosen) :]:
        axes.set_axis_off()
    for axes, row in zip(cells, chosen, strict=False):
        image = read(rows[row]["path"])
        axes.imshow(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)
        axes.set(xticks=[], yticks=[])
        right = predicted[row] == target[row]
        axes.spines[:].set(visible=not right, color=WRONG_COLOR, linewidth=3)
        axes.set_title(
            f"{'' if right else '✗ '}{short_name(class_names[predicted[row]])} "
            f"{100 * confidence[row]:.1f} %\ntrue: {short_name(class_names[target[row]])}",
            fontsize=9,
            color="black" if right else WRONG_COLOR,
        )
    figure.suptitle(f"Test images: predicted class and its probability, true class{mark}")
    return figure
