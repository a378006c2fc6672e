"""Predictions drawn onto images (contours and heat maps), fast enough for thousands of files.

Pictures are uint8 RGB in [0, 255]. ``write_grid`` shows several of them in one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.types import IGNORE_INDEX

if TYPE_CHECKING:  # matplotlib takes a second, which predicting does not need
    from matplotlib.figure import Figure

TRUE_COLOR, PREDICTED_COLOR = (90, 255, 90), (60, 110, 255)  # both stand out on mucosa
CLASS_COLORS = (
    PREDICTED_COLOR,
    (255, 210, 40),
    (255, 70, 230),
    (60, 230, 255),
    (255, 130, 40),
    (190, 140, 255),
)
"""Contour colours of classes 1, 2, ..., repeated from the seventh on; none equals the truth."""

MOST_HEAT = 0.6  # opacity at heat 1, so that the image stays visible


def draw_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], *, truth: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Draw contours of all regions, including holes and single pixels, beside the image.

    Class 1 is blue, further classes have other colours, and the truth is green for every class.
    Background (0) and ``IGNORE_INDEX`` are not drawn.

    Args:
        image: (H, W, C), C 1 or 3.
        mask: Class indices (H, W).
        truth: True class indices (H, W), drawn below the contours of the mask.

    Returns:
        Image and overlay side by side, (H, 2W, 3).

    Raises:
        ValueError: If the shapes do not agree.
    """
    for indices in (mask, truth):
        if indices is not None and indices.shape != image.shape[:2]:
            raise ValueError(f"expected a mask {image.shape[:2]}, got {indices.shape}")
    picture, right = _twice(image)
    if truth is not None:
        draw_contours(right, [(truth == label, TRUE_COLOR) for label in _classes(truth)])
    colors = len(CLASS_COLORS)
    draw_contours(
        right, [(mask == label, CLASS_COLORS[(label - 1) % colors]) for label in _classes(mask)]
    )
    return picture


def draw_contours(
    picture: NDArray[np.uint8],
    regions: Iterable[tuple[NDArray[np.bool_], tuple[int, int, int]]],
) -> None:
    """Draw the outlines of regions (H, W) into a picture (H, W, 3), the last on top.

    Lines are about a hundredth of the smaller side wide, at least one pixel.
    """
    thickness = max(1, round(min(picture.shape[:2]) / 160))  # OpenCV draws up to 2 pixels more
    for region, color in regions:
        contours, _ = cv2.findContours(
            region.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE
        )
        cv2.drawContours(picture, contours, -1, color, thickness)


def heat_overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw heat over the image, from blue over green to red, beside the image.

    The opacity grows with the heat; without heat the image is unchanged.

    Args:
        image: (H, W, C), C 1 or 3.
        heat: In [0, 1], (h, w) of any size; enlarged bilinearly.

    Returns:
        Image and overlay side by side, (H, 2W, 3).

    Raises:
        ValueError: If the heat is not a map of numbers in [0, 1].
    """
    if heat.ndim != 2 or not (heat.min() >= 0 and heat.max() <= 1):  # NaN is rejected too
        raise ValueError(f"expected heat (h, w) in [0, 1], got {heat.shape} with other values")
    picture, right = _twice(image)
    height, width = image.shape[:2]
    enlarged = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
    levels = cv2.convertScaleAbs(enlarged, alpha=255)
    # TURBO: its lightness rises and falls only once, and no two heats share a colour
    colored = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    cover = MOST_HEAT * enlarged
    right[:] = cv2.blendLinear(np.ascontiguousarray(right), colored, 1 - cover, cover)
    return picture


def encode_png(pixels: NDArray[np.uint8], *, level: int = 1) -> bytes:
    """Encode a PNG quickly, from colours (H, W, 3), or grey values (H, W) or (H, W, 1).

    Each row is stored as its difference to the row above, at almost no cost. Masks and
    probabilities then contain long runs of zeros and need no search for other repetitions.

    Args:
        pixels: RGB or grey; class indices and probabilities are stored as they are.
        level: Compression level, 0 to 9. Levels above 1 cost more than they save.

    Raises:
        ValueError: If the pixels have another shape.
    """
    is_color = pixels.ndim == 3 and pixels.shape[2] == 3
    if not is_color and (pixels.ndim, *pixels.shape[2:]) not in {(2,), (3, 1)}:
        raise ValueError(f"expected pixels (H, W), (H, W, 1) or (H, W, 3), got {pixels.shape}")
    strategy = cv2.IMWRITE_PNG_STRATEGY_FILTERED if is_color else cv2.IMWRITE_PNG_STRATEGY_RLE
    settings = {
        cv2.IMWRITE_PNG_COMPRESSION: level,
        cv2.IMWRITE_PNG_STRATEGY: strategy,
        cv2.IMWRITE_PNG_FILTER: cv2.IMWRITE_PNG_FILTER_UP,
    }
    stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if is_color else pixels
    _, encoded = cv2.imencode(".png", stored, [part for pair in settings.items() for part in pair])
    return encoded.tobytes()


def _twice(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Place the image twice in a picture (H, 2W, 3); return it with its right half to draw into."""
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"expected an image (H, W, 1) or (H, W, 3), got {image.shape}")
    height, width, _ = image.shape
    picture = np.empty((height, 2 * width, 3), np.uint8)
    picture[:, :width] = picture[:, width:] = image
    return picture, picture[:, width:]


def _classes(mask: NDArray[np.uint8]) -> list[int]:
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256])  # much faster than np.unique
    present = np.flatnonzero(counts)
    return [int(label) for label in present if label not in (0, IGNORE_INDEX)]


MOST_PICTURES = 24
LONGEST_LINE = 26  # longest line above a picture, in characters
SIDE_PX = 320  # longer side of the largest picture shown; more only takes time


def write_grid(
    path: Path, pictures: Sequence[NDArray[np.uint8]], titles: Sequence[str], *, note: str = ""
) -> None:
    """Write a PNG grid of up to 24 pictures in rows of up to six, with titles above them.

    Args:
        path: The PNG, in an existing folder.
        pictures: As for `draw_grid`.
        titles: As for `draw_grid`.
        note: Sentence below the grid.

    Raises:
        ValueError: If there are no or too many pictures, or the number of titles differs.
    """
    from medvision.reports.plots.style import PHOTO_DPI, save  # matplotlib takes a second

    save(draw_grid(pictures, titles, note=note), path, dpi=PHOTO_DPI)


def draw_grid(
    pictures: Sequence[NDArray[np.uint8]],
    titles: Sequence[str],
    *,
    note: str = "",
    columns: int | None = None,
) -> Figure:
    """Draw a grid of up to 24 pictures, with titles above them.

    Args:
        pictures: uint8 (H, W, 1) or (H, W, 3) each, of any sizes; 1 to 24 of them.
        titles: One title per picture, such as ``glioma 97.1 %``; long lines are cut in the middle.
        note: Sentence below the grid.
        columns: Pictures in a row; None chooses up to six.

    Raises:
        ValueError: If there are no or too many pictures, or the number of titles differs.
    """
    if not 1 <= len(pictures) <= MOST_PICTURES or len(titles) != len(pictures):
        raise ValueError(
            f"expected 1 to {MOST_PICTURES} pictures with a title each, "
            f"got {len(pictures)} with {len(titles)}"
        )
    import matplotlib as mpl  # import takes a second, which predicting does not need

    from medvision.reports.plots.style import STYLE, new_figure, short_name

    columns = columns or num_columns(len(pictures))
    lines = -(-len(pictures) // columns)
    wide = max(picture.shape[1] / picture.shape[0] for picture in pictures)
    width = 2.05 * max(columns, 2) * max(1.0, min(wide, 2.5))
    with mpl.rc_context(STYLE):
        figure = new_figure(width, 2.35 * lines + 0.3)
        cells = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in cells:
            axes.set_axis_off()
            axes.set_anchor("N")  # align the titles of a row
        for axes, picture, title in zip(cells, pictures, titles, strict=False):
            small = shrunk(picture, SIDE_PX)
            shown = small[..., 0] if small.shape[2] == 1 else small
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
            short = [short_name(line, length=LONGEST_LINE) for line in title.splitlines()]
            axes.set_title("\n".join(short), fontsize=9)
        if note:
            figure.supxlabel(note, fontsize=8, color="#555555")
    return figure


def num_columns(count: int) -> int:
    """Number of pictures per row: four to six with the fewest empty cells; a few fit in one row."""
    return count if count <= 6 else min((6, 5, 4), key=lambda columns: -count % columns)


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert an image (H, W, 1) or (H, W, 3) to three channels."""
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def shrunk(picture: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Shrink the picture (H, W, C) to at most this height and width."""
    scale = side_px / max(picture.shape[:2])
    if scale >= 1:
        return picture
    height, width = (max(1, round(scale * side)) for side in picture.shape[:2])
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return small.reshape(height, width, picture.shape[2]).astype(np.uint8, copy=False)
