"""Read images and masks as arrays that are independent of the file format.

Images become uint8 (H, W, C) in [0, 255], masks uint8 (H, W) class indices in [0, K). A file that
cannot be read faithfully raises an error with its name; nothing is guessed or partially read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.readers.decode import Picture, damage_named, decode, read_bytes, samples
from medvision.data.readers.dicom import DicomPixels
from medvision.data.readers.masks import class_indices
from medvision.errors import MedvisionError


def read_image(
    path: Path, *, channels: int | None, value_range: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Return an image file as uint8 (H, W, C) in [0, 255].

    EXIF orientation is applied and transparent pixels are composited over black. Colours are
    converted to grey by luma, 0.299 R + 0.587 G + 0.114 B; grey to three equal channels.

    Args:
        path: A JPEG, PNG, BMP, TIFF, GIF, WebP, JPEG 2000, PNM or DICOM file, whatever its
            extension.
        channels: 1 (grey) or 3 (red, green, blue); None for those of the file.
        value_range: Values that map to 0 and 255, for files deeper than 8 bits; values between are
            mapped linearly, values outside are clipped. None uses the smallest and the largest
            value of the image, and a constant image becomes 0; for DICOM, the first VOI window or
            table if present. Ignored for files of 8 bits, except DICOM.

    Raises:
        MedvisionError: If the file cannot be read completely, or contains values that are not
            finite.
    """
    return decode_image(
        read_bytes(path), where=str(path), channels=channels, value_range=value_range
    )


def read_mask(
    path: Path, *, num_classes: int = 2, color_map: Sequence[tuple[int, int, int]] | None = None
) -> NDArray[np.uint8]:
    """Return a mask file as uint8 (H, W) class indices in [0, K).

    Two classes: values 0 and 1 are class indices; other values are thresholded at half of the
    file's range (foreground above 127 for 8 bits), so that each grey edge pixel of a JPEG mask is
    assigned to a class. More classes: the values, or the palette indices, are the class indices.
    EXIF orientation is applied, as for images.

    Args:
        path: A file as for `read_image`, except DICOM.
        num_classes: Number of classes K, 2 to 255, including the background.
        color_map: Colour of each class, which must match exactly; in a JPEG file, each pixel gets
            the class of the nearest colour.

    Raises:
        MedvisionError: If the file cannot be read completely, or its values are not valid for these
            classes.
    """
    data = read_bytes(path)
    return decode_mask(data, where=str(path), num_classes=num_classes, color_map=color_map)


def decode_image(
    data: bytes,
    *,
    where: str,
    channels: int | None,
    value_range: tuple[float, float] | None = None,
    remark: Callable[[str], object] | None = None,
) -> NDArray[np.uint8]:
    """Decode the bytes of an image file as `read_image` does.

    Args:
        data: Content of the file.
        where: Name of the file, for messages.
        channels: As for `read_image`.
        value_range: As for `read_image`.
        remark: Called with each of `remarks_on` the file.
    """
    picture = decode(data, where=where)
    return image_of(picture, channels=channels, value_range=value_range, remark=remark)


def image_of(
    picture: Picture,
    *,
    channels: int | None,
    value_range: tuple[float, float] | None = None,
    remark: Callable[[str], object] | None = None,
) -> NDArray[np.uint8]:
    """Return a decoded picture as `decode_image` does."""
    if channels not in (1, 3, None):
        raise ValueError(f"expected channels to be 1, 3 or None, got {channels}")
    with damage_named(picture.where):
        values: NDArray[Any] = as_bytes(samples(picture), picture, value_range)
        if values.dtype != np.uint8:
            raise TypeError(f"expected values of uint8, got {values.dtype}")
        if remark is not None:
            for said in remarks_on(picture, value_range):
                remark(said.removesuffix(_FOR_ALL))  # which is a key of trainings
        if values.ndim == 2 and channels == 3:
            values = cv2.cvtColor(values, cv2.COLOR_GRAY2RGB)
        elif values.ndim == 3 and channels == 1:
            values = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)
        # memory of Pillow is read-only, which torch warns about
        return np.require(values.reshape(*values.shape[:2], -1), requirements=["C", "W"])


def as_bytes(
    values: NDArray[Any], picture: Picture, value_range: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """Convert the samples of a picture, (H, W) or (H, W, 3), to [0, 255] as `read_image` does."""
    if value_range is not None and not value_range[0] < value_range[1]:
        raise MedvisionError(
            f"expected low < high, got {value_range}",
            where="data.value_range",
            hint="give the values of black and white",
        )
    image = picture.image
    if isinstance(image, DicomPixels):
        return _shown(values, image, value_range, picture.where)
    if picture.bits <= 8:
        return values
    shown = _stretched(values, value_range, picture.where)
    return 255 - shown if picture.stored.white_is_zero else shown


_SHOWN_BY = {
    "window": "DICOM, shown by the first window of each",
    "table": "DICOM, shown by the VOI table of each",
    "bits": "DICOM without a window, shown in the range of the stored bits",
    "values": "DICOM without a window, the smallest and largest value of each became black and"
    " white",
}
_OWN_RANGE = "more than 8 bits, the smallest and largest value of each became black and white"
_FOR_ALL = " (data.value_range sets both for all)"


def remarks_on(picture: Picture, value_range: tuple[float, float] | None) -> list[str]:
    """Return how the samples of a picture became 8-bit grey or RGB, where that is a choice."""
    found = [picture.stored.remark] if picture.stored.remark else []
    image = picture.image
    own = _SHOWN_BY.get(image.shown_by) if isinstance(image, DicomPixels) else None
    if own is None and picture.bits > 8:
        own = _OWN_RANGE
    if own is not None and value_range is not None:
        low, high = value_range
        found.append(f"{low:g} became black and {high:g} white (data.value_range)")
    elif own is not None:
        found.append(own + _FOR_ALL)
    return found


def count_remarks(remarks: Iterable[str], *, of: int) -> list[str]:
    """Return one note for each remark, with the number of images it applies to."""
    counts = Counter(remarks)
    return [f"{count} of {of} images: {said}" for said, count in sorted(counts.items())]


def _shown(
    values: NDArray[Any], pixels: DicomPixels, value_range: tuple[float, float] | None, where: str
) -> NDArray[np.uint8]:
    """Map DICOM values as a viewer does, unless the user defines black and white."""
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
    """Decode the bytes of a mask file as `read_mask` does."""
    if not 2 <= num_classes <= 255:
        raise ValueError(f"expected num_classes in 2 to 255, got {num_classes}")
    with damage_named(where):
        picture = decode(data, where=where)
        return class_indices(picture, num_classes=num_classes, color_map=color_map)


def _stretched(
    values: NDArray[Any], value_range: tuple[float, float] | None, where: str
) -> NDArray[np.uint8]:
    floats: NDArray[Any] = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    low, high = value_range or (float(floats.min()), float(floats.max()))
    if not np.isfinite(floats).all():
        raise MedvisionError(
            "the image contains values that are not finite", where=where, hint="fix or remove it"
        )
    if low == high:
        return np.zeros(values.shape, np.uint8)
    levels = (floats - low) * (255 / (high - low))
    return np.rint(levels.clip(0, 255)).astype(np.uint8)
