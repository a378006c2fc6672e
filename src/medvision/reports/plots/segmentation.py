"""Plots of a segmentation run: ROC, and test images with their predictions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from medvision.reports.plots.overlays import PREDICTED_COLOR, TRUE_COLOR, as_rgb, draw_contours
from medvision.reports.plots.style import (
    PHOTO_DPI,
    STYLE,
    draw_chance,
    new_axes,
    new_figure,
    save,
    title_mark,
)
from medvision.types import IGNORE_INDEX

Read = Callable[[str, str], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Function that reads image (H, W, C) and mask (H, W) of a sample's path and target."""


def write_test_plots(
    folder: Path,
    *,
    roc: tuple[NDArray[np.float64], ...] | None,
    auroc: float | None,
    rows: Sequence[Mapping[str, Any]],
    read: Read,
    synthetic: bool,
) -> None:
    """Write the ROC and the grid of test images to ``folder/plots``.

    Args:
        folder: Run folder; test probabilities are read from it.
        roc: False and true positive rates and thresholds of all test pixels.
        auroc: Area under the ROC; None if undefined.
        rows: Rows of predictions_test.csv, one per test image.
        read: Function that reads image and true mask of a row at the size of its prediction.
        synthetic: If True, titles state that the images are phantoms.
    """
    mark = title_mark(synthetic=synthetic)
    with mpl.rc_context(STYLE):
        if roc is not None and auroc is not None:
            figure = draw_roc(roc[0], roc[1], auroc=auroc, mark=mark)
            save(figure, folder / "plots" / "roc.png")
        figure = draw_samples(folder, choose_rows(rows), read=read, mark=mark)
        save(figure, folder / "plots" / "test_images.png", dpi=PHOTO_DPI)


def draw_roc(
    false_positive_rate: NDArray[np.float64],
    true_positive_rate: NDArray[np.float64],
    *,
    auroc: float,
    mark: str,
    of: str = "test",
) -> Figure:
    """Draw the ROC of the foreground probability over all pixels of a split."""
    figure, axes = new_axes(5, 5)
    draw_chance(axes, f"ROC of {of} pixels{mark}")
    axes.plot(false_positive_rate, true_positive_rate, color="#4477aa", label=f"AUROC {auroc:.4f}")
    axes.legend(loc="lower right")
    return figure


def choose_rows(
    rows: Sequence[Mapping[str, Any]], *, count: int = 4
) -> list[tuple[str, Mapping[str, Any]]]:
    """Choose the worst, median and best rows by Dice, each image at most once, with titles."""
    ranked = sorted(rows, key=lambda row: row["dice"])
    if len(ranked) <= 3 * count:
        return [("", row) for row in ranked]
    middle = (len(ranked) - count) // 2
    parts = {
        "worst": ranked[:count],
        "median": ranked[middle : middle + count],
        "best": ranked[-count:],
    }
    return [(title, row) for title, part in parts.items() for row in part]


def draw_samples(
    folder: Path, chosen: Sequence[tuple[str, Mapping[str, Any]]], *, read: Read, mark: str
) -> Figure:
    """Draw a grid of image, true mask, predicted mask and both contours, two samples per row."""
    per_line = 2
    lines = -(-len(chosen) // per_line)
    figure = new_figure(4 * 1.7 * per_line, 1.95 * lines + 0.6)
    grid = np.atleast_2d(figure.subplots(lines, 4 * per_line, squeeze=False))
    for axes in grid.flat:
        axes.set_axis_off()
    for position, (title, row) in enumerate(chosen):
        line, column = position % lines, position // lines
        cells = grid[line, 4 * column : 4 * column + 4]
        _draw_sample(cells, folder, title, row, read)
    figure.suptitle(
        f"Test images{mark}: image, true mask, prediction, contours (green true, blue predicted)",
        fontsize=11,
    )
    return figure


def _draw_sample(
    cells: NDArray[Any], folder: Path, title: str, row: Mapping[str, Any], read: Read
) -> None:
    image, mask = read(row["path"], row["target"])
    probability = np.asarray(Image.open(folder / row["predicted"]))
    true, predicted = (
        np.asarray((mask > 0) & (mask != IGNORE_INDEX)),
        np.asarray(probability >= 128),
    )
    colored = as_rgb(image)
    contours = np.array(colored, order="C")
    draw_contours(contours, [(true, TRUE_COLOR), (predicted, PREDICTED_COLOR)])
    pictures: tuple[NDArray[Any], ...] = (colored, true, predicted, contours)
    for axes, picture in zip(cells, pictures, strict=True):
        flat: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
        axes.imshow(picture, **flat)
    name = Path(row["path"]).name
    name = name if len(name) <= 22 else f"{name[:19]}..."
    cells[0].set_title(f"{title} {name}".strip(), fontsize=8, loc="left")
    scores = f"Dice {row['dice']:.3f}  IoU {row['iou']:.3f}"
    cells[3].set_title(scores, fontsize=8, loc="right")
