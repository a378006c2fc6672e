"""Damage files and masks in ways that a data set should be checked for."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

MASK_FAULTS = ("empty", "full", "inverted", "grey", "size", "values")
"""No foreground; nothing else; swapped; grey levels on a broad rim; a row and a column too many;
0, 1 and 2 in a set of two classes."""

CORRUPTIONS = ("truncated", "no_bytes", "text")
"""Cut off in the middle; no byte at all; words under the name of an image."""

SHORTCUTS = ("size", "quality", "format", "border")
"""A quarter larger; JPEG of quality 40; JPEG instead of PNG or the reverse; a light frame."""

SHORTCUT_QUALITY = 40

_FRAME = 0.05  # of the width
_FRAME_GREY = 200
_SIZE_FACTOR = 1.25


def faulty_mask(mask: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    """Return the values to store, uint8 in [0, 255], of a mask (H, W) in {0, 1} with a fault.

    Raises:
        ValueError: If ``kind`` is not one of `MASK_FAULTS`.
    """
    white = (mask * 255).astype(np.uint8)
    ways: dict[str, Callable[[], NDArray[np.uint8]]] = {
        "empty": lambda: np.zeros_like(white),
        "full": lambda: np.full_like(white, 255),
        "inverted": lambda: 255 - white,
        "grey": lambda: np.asarray(cv2.GaussianBlur(white, (0, 0), len(mask) / 20), np.uint8),
        "size": lambda: np.pad(white, ((0, 1), (0, 1)), "edge"),
        "values": lambda: _three_values(mask),
    }
    if kind not in ways:
        raise ValueError(f"expected a fault of {', '.join(MASK_FAULTS)}, got {kind}")
    return ways[kind]()


def corrupted(data: bytes, kind: str) -> bytes:
    """Return the bytes of an image file after the damage.

    Raises:
        ValueError: If ``kind`` is not one of `CORRUPTIONS`.
    """
    ways = {"truncated": data[: len(data) // 2], "no_bytes": b"", "text": b"moved to the archive\n"}
    if kind not in ways:
        raise ValueError(f"expected a damage of {', '.join(CORRUPTIONS)}, got {kind}")
    return ways[kind]


def shortcut_size_px(size_px: int) -> int:
    """Height and width of the images that the shortcut ``size`` makes larger."""
    return round(_SIZE_FACTOR * size_px)


def framed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image with a light frame over its border."""
    wide = max(1, round(_FRAME * image.shape[1]))
    painted = np.full_like(image, _FRAME_GREY)
    painted[wide:-wide, wide:-wide] = image[wide:-wide, wide:-wide]
    return painted


def _three_values(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """0 and 1 as they are, and 2 for the lower half of the foreground."""
    stored = mask.copy()
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows):
        lower = stored[rows[len(rows) // 2] :]
        lower[lower == 1] = 2
    return stored
