"""What a network found, drawn onto the image: contours and heat maps, made for thousands of files.

Pictures are uint8 RGB in [0, 255].
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.types import IGNORE_INDEX

TRUE_COLOR, PREDICTED_COLOR = (90, 255, 90), (60, 110, 255)  # both stand out on mucosa
CLASS_COLORS = (
    PREDICTED_COLOR,
    (255, 210, 40),
    (255, 70, 230),
    (60, 230, 255),
    (255, 130, 40),
    (190, 140, 255),
)
"""Contours of classes 1, 2, ..., over again from the seventh on; none is that of the truth."""

MOST_HEAT = 0.6  # of the picture, at heat 1: what lies below is still seen


def draw_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], *, truth: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """The image beside itself with the contours of every region, holes and single pixels too.

    Class 1 is blue, further classes have colours of their own, and the truth is green whatever
    its class. Background (0) and ``IGNORE_INDEX`` are not drawn.

    Args:
        image: (H, W, C), C 1 or 3.
        mask: Class indices (H, W).
        truth: True class indices (H, W), drawn below the contours of the mask.

    Returns:
        (H, 2W, 3).

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

    They are about a hundredth of the smaller side wide, at least a pixel.
    """
    thickness = max(1, round(min(picture.shape[:2]) / 160))  # OpenCV draws up to 2 pixels more
    for region, color in regions:
        contours, _ = cv2.findContours(
            region.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE
        )
        cv2.drawContours(picture, contours, -1, color, thickness)


def heat_overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image beside itself with heat laid over it, from blue over green to red.

    The colour covers the more of the image the hotter it is; where there is no heat the image
    is left as it is.

    Args:
        image: (H, W, C), C 1 or 3.
        heat: In [0, 1], (h, w) of any size: it is enlarged bilinearly.

    Returns:
        (H, 2W, 3).

    Raises:
        ValueError: If the heat is not a map of numbers in [0, 1].
    """
    if heat.ndim != 2 or not (heat.min() >= 0 and heat.max() <= 1):  # NaN is neither
        raise ValueError(f"expected heat (h, w) in [0, 1], got {heat.shape} with other values")
    picture, right = _twice(image)
    height, width = image.shape[:2]
    enlarged = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
    levels = cv2.convertScaleAbs(enlarged, alpha=255)
    # TURBO, because its lightness rises and falls only once and no two heats share a colour
    colored = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    cover = MOST_HEAT * enlarged
    right[:] = cv2.blendLinear(np.ascontiguousarray(right), colored, 1 - cover, cover)
    return picture


def encode_png(pixels: NDArray[np.uint8], *, level: int = 1) -> bytes:
    """A PNG file, made fast: of colours (H, W, 3), or of grey values (H, W) or (H, W, 1).

    Each row is stored as its difference to the row above, which costs next to nothing. Masks and
    probabilities then hold long runs of zeros and need no search for other repetitions.

    Args:
        pixels: RGB or grey; class indices and probabilities are stored as they are.
        level: Effort of the compression, 0 to 9. Above 1 it costs more than it saves.

    Raises:
        ValueError: If the shape is another.
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
    """A picture (H, 2W, 3) that shows the image twice, and its right half, to draw into."""
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
