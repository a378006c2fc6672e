"""One picture of the first images that were predicted, each with its answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MOST_PICTURES = 24
LONGEST_LINE = 26  # characters that fit above a picture
SIDE_PX = 320  # of the largest picture shown; a camera's would only take time


def write_grid(
    path: Path, pictures: Sequence[NDArray[np.uint8]], titles: Sequence[str], *, note: str = ""
) -> None:
    """Write a PNG that shows up to 24 pictures in rows of up to six, titles above them.

    Args:
        path: The PNG, in a folder that exists.
        pictures: uint8 (H, W, 1) or (H, W, 3) each, of any sizes; 1 to 24 of them.
        titles: One for each, such as ``glioma 97.1 %``; of long lines the middle is left out.
        note: A sentence below them all.

    Raises:
        ValueError: If there are no pictures, too many, or not as many titles.
    """
    if not 1 <= len(pictures) <= MOST_PICTURES or len(titles) != len(pictures):
        raise ValueError(
            f"expected 1 to {MOST_PICTURES} pictures with a title each, "
            f"got {len(pictures)} with {len(titles)}"
        )
    import matplotlib as mpl  # a second that predicting need not wait for
    from matplotlib.figure import Figure

    from medvision.reports.plots.style import PHOTO_DPI, STYLE, save, short_name

    columns = num_columns(len(pictures))
    lines = -(-len(pictures) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.05 * max(columns, 2), 2.35 * lines + 0.3), layout="constrained")
        cells = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in cells:
            axes.set_axis_off()
            axes.set_anchor("N")  # the titles of a row stand at one height
        for axes, picture, title in zip(cells, pictures, titles, strict=False):
            axes.imshow(_shrunk(picture), cmap="gray", vmin=0, vmax=255)
            short = [short_name(line, length=LONGEST_LINE) for line in title.splitlines()]
            axes.set_title("\n".join(short), fontsize=9)
        if note:
            figure.supxlabel(note, fontsize=8, color="#555555")
        save(figure, path, dpi=PHOTO_DPI)


def num_columns(count: int) -> int:
    """Pictures in a row: four to six, whatever leaves the fewest places empty; a few, one row."""
    return count if count <= 6 else min((6, 5, 4), key=lambda columns: -count % columns)


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[Any]:
    """At most ``SIDE_PX`` high and wide; (H, W) where it is grey."""
    grey = picture[..., 0] if picture.shape[2] == 1 else picture
    height, width = grey.shape[:2]
    factor = min(1, SIDE_PX / max(height, width))
    size_px = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(grey, size_px, interpolation=cv2.INTER_AREA)
