"""Read images and masks as arrays that mean the same for every kind of file.

Images become uint8 (H, W, C) in [0, 255], masks uint8 (H, W) class indices in [0, K). What cannot
be read faithfully is an error that names the file; nothing is guessed and nothing half read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.readers.decode import Picture, decode, read_bytes, samples
from medvision.data.readers.dicom import DicomPixels
from medvision.data.readers.masks import class_indices
from medvision.errors import MedvisionError


def read_image(
    path: Path, *, channels: int, value_range: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Return an image file as uint8 (H, W, C) in [0, 255].

    EXIF orientation is applied and transparent pixels are laid over black. Colours become grey
    by their luma, 0.299 R + 0.587 G + 0.114 B; grey becomes three equal channels.

    Args:
        path: A JPEG, PNG, BMP, TIFF or DICOM file, whatever its extension.
        channels: 1 (grey) or 3 (red, green, blue).
        value_range: Values of files deeper than 8 bits that become 0 and 255; those between are
            mapped linearly, those outside are clipped. None takes the smallest and the largest
            value of this image, and a constant image becomes 0; of DICOM its first VOI window or
            table where it has one. Files of 8 bits ignore it, unless they are DICOM.

    Raises:
        MedvisionError: If the file cannot be read whole, or holds values that are not finite.
    """
    return decode_image(
        read_bytes(path), where=str(path), channels=channels, value_range=value_range
    )


def read_mask(
    path: Path, *, num_classes: int = 2, color_map: Sequence[tuple[int, int, int]] | None = None
) -> NDArray[np.uint8]:
    """Return a mask file as uint8 (H, W) class indices in [0, K).

    Two classes: values 0 and 1 are taken as they are, any others are foreground above half of
    the file's range (127 for 8 bits), so that the grey edges of a JPEG mask fall to one side.
    More classes: the values, or the indices of a palette, are the class indices. EXIF
    orientation is applied, as it is to images.

    Args:
        path: A JPEG, PNG, BMP or TIFF file, whatever its extension.
        num_classes: K, 2 to 255, the background included.
        color_map: The colour of each class, which must then match exactly; in a JPEG file each
            pixel gets the class of the nearest colour.

    Raises:
        MedvisionError: If the file cannot be read whole, or its values are not those of a mask
            with these classes.
    """
    data = read_bytes(path)
    return decode_mask(data, where=str(path), num_classes=num_classes, color_map=color_map)


def decode_image(
    data: bytes, *, where: str, channels: int, value_range: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Return the bytes of an image file as `read_image` does."""
    if channels not in (1, 3):
        raise ValueError(f"expected channels to be 1 or 3, got {channels}")
    picture = decode(data, where=where)
    values: NDArray[Any] = as_bytes(samples(picture), picture, value_range)
    if values.ndim == 2 and channels == 3:
        values = cv2.cvtColor(values, cv2.COLOR_GRAY2RGB)
    elif values.ndim == 3 and channels == 1:
        values = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)
    # Pillow lends its memory for reading only, which torch warns about
    return np.require(values.reshape(*values.shape[:2], channels), requirements=["C", "W"])


def as_bytes(
    values: NDArray[Any], picture: Picture, value_range: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """Return the samples of a picture, (H, W) or (H, W, 3), in [0, 255] as `read_image` does."""
    if value_range is not None and not value_range[0] < value_range[1]:
        raise MedvisionError(
            f"expected low < high, got {value_range}",
            where="data.value_range",
            hint="give the values that become black and white",
        )
    image = picture.image
    if isinstance(image, DicomPixels):
        return _shown(values, image, value_range, picture.where)
    return _stretched(values, value_range, picture.where) if picture.bits > 8 else values


def _shown(
    values: NDArray[Any], pixels: DicomPixels, value_range: tuple[float, float] | None, where: str
) -> NDArray[np.uint8]:
    """As a viewer shows them, unless the user says which values are black and white."""
    if value_range is None and pixels.display is not None:
        shown = pixels.display
    elif value_range is None and pixels.window is None:
        shown = values
    else:
        shown = _stretched(values, value_range or pixels.window, where)
    return 255 - shown if pixels.inverted else shown


def decode_mask(
    data: bytes,
    *,
    where: str,
    num_classes: int = 2,
    color_map: Sequence[tuple[int, int, int]] | None = None,
) -> NDArray[np.uint8]:
    """Return the bytes of a mask file as `read_mask` does."""
    if not 2 <= num_classes <= 255:
        raise ValueError(f"expected num_classes in 2 to 255, got {num_classes}")
    return class_indices(decode(data, where=where), num_classes=num_classes, color_map=color_map)


def _stretched(
    values: NDArray[Any], value_range: tuple[float, float] | None, where: str
) -> NDArray[np.uint8]:
    floats: NDArray[Any] = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    low, high = value_range or (float(floats.min()), float(floats.max()))
    if not np.isfinite(floats).all():
        raise MedvisionError(
            "the image holds values that are not finite", where=where, hint="mend or remove it"
        )
    if low == high:
        return np.zeros(values.shape, np.uint8)
    levels = (floats - low) * (255 / (high - low))
    return np.rint(levels.clip(0, 255)).astype(np.uint8)
