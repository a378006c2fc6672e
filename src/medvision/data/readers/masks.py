"""Convert the values of a mask file to class indices.

Supported masks are 0/1, 0/255, with grey JPEG edges, with palettes and with colours. A file is
rejected if it is ambiguous and one interpretation would silently lose the foreground.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.readers.decode import Picture, samples, upright
from medvision.data.readers.dicom import DicomPixels
from medvision.errors import MedvisionError
from medvision.types import IGNORE_INDEX

_CHROMA_NOISE = 24  # grey levels by which JPEG separates the channels of a grey picture
_MAX_NAMED = 6
_THIN = 0.005  # share of the pixels
_FEW_LEVELS = 6
_EDGE_PX = 9  # more than a block of JPEG
_EDGE = 0.05  # share of height or width, beyond the edges of a mask that was enlarged eightfold


def class_indices(
    picture: Picture,
    *,
    num_classes: int,
    color_map: Sequence[Sequence[int]] | None,
    ignore_index: int | None = None,
    instances: bool = False,
) -> NDArray[np.uint8]:
    """Return class indices in [0, K), uint8 (H, W), by the rules of `read_mask`.

    Args:
        picture: Decoded file.
        num_classes: Number of classes K.
        color_map: Colour of each class.
        ignore_index: Value in the file that becomes ``IGNORE_INDEX``; not used with colours.
        instances: If True, values are numbers of objects: of two classes, all above 0 are
            foreground.

    Raises:
        MedvisionError: If the values are not valid for these classes.
    """
    if isinstance(picture.image, DicomPixels):
        raise MedvisionError(
            "DICOM masks are not supported", where=picture.where, hint="store the mask as PNG"
        )
    if picture.stored.white_is_zero:
        raise MedvisionError(
            f"a mask of {picture.bits} bits in which 0 is white is not supported",
            where=picture.where,
            hint="store the mask as PNG",
        )
    if color_map is not None:
        return _by_colour(picture, _checked_map(color_map, num_classes))
    if num_classes > 2 and picture.lossy:
        raise MedvisionError(
            "JPEG changes class indices",
            where=picture.where,
            hint="store masks of more than two classes as PNG, or set data.color_map",
        )
    indices = _palette_indices(picture, num_classes)
    if indices is not None:
        indices, ignored = _without_ignored(indices, ignore_index)
        if instances and num_classes == 2:
            return _with_ignored((indices > 0).astype(np.uint8), ignored)
        return _with_ignored(_in_range(indices, num_classes, picture.where), ignored)
    values, full = _grey_levels(picture, num_classes)
    values, ignored = _without_ignored(values, ignore_index)
    if num_classes > 2:
        return _with_ignored(_in_range(values, num_classes, picture.where), ignored)
    if instances and not picture.lossy:
        return _with_ignored((values > 0).astype(np.uint8), ignored)
    return _with_ignored(_foreground(values, full, picture), ignored)


def grey_share(
    picture: Picture, *, ignore_index: int | None = None, instances: bool = False
) -> float:
    """Return the share of pixels of a two-class mask that lie near neither class.

    Levels within a sixteenth of their range from an end, or from the most frequent level on their
    side of the threshold, belong to a class. The share is 0 where nothing is thresholded: for 0 and
    1, for coloured palettes and for instances.

    Args:
        picture: Decoded file, without a colour map.
        ignore_index: As for `class_indices`.
        instances: As for `class_indices`.
    """
    if _palette_indices(picture, 2) is not None or (instances and not picture.lossy):
        return 0.0
    values, full = _grey_levels(picture, 2)
    levels, counts = _histogram(values)
    if levels[-1] <= 1:
        return 0.0
    if ignore_index is not None:
        counts = np.where(levels == ignore_index, 0, counts)
    between = (levels > full / 16) & (levels < full - full / 16)
    others = between & _far_from_usual(levels, counts, full)
    return float(counts[others].sum() / values.size)


def _without_ignored(
    values: NDArray[Any], ignore_index: int | None
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return the values with 0 where they are ignored, and where that is; None if nowhere."""
    if ignore_index is None:
        return values, None
    ignored = values == ignore_index
    return (np.where(ignored, 0, values), ignored) if ignored.any() else (values, None)


def _with_ignored(
    indices: NDArray[np.uint8], ignored: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    if ignored is not None:
        indices[ignored] = IGNORE_INDEX
    return indices


def _palette_indices(picture: Picture, num_classes: int) -> NDArray[Any] | None:
    """Return palette indices, or None if two classes are distinguished by grey colours."""
    if picture.pillow.mode != "P":
        return None
    indices = np.asarray(picture.pillow)
    colours = np.asarray(picture.pillow.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = np.unique(indices)
    if num_classes == 2 and used[-1] < len(colours) and not np.ptp(colours[used], axis=1).any():
        return None
    return upright(indices, picture.orientation)


def _grey_levels(picture: Picture, num_classes: int) -> tuple[NDArray[Any], int]:
    """Return the integers (H, W) in the file, and the largest value of its bit depth."""
    values = samples(picture)
    if picture.stored.signed and picture.bits == 8:
        values = values.astype(np.int16) - 128  # as stored
    if values.ndim == 3:
        values = _one_channel(values, picture, num_classes)
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.rint(values)).all()):
            raise MedvisionError(
                "the mask contains values that are not integers",
                where=picture.where,
                hint="store class indices, or 0 and 255",
            )
        values = values.astype(np.int64)
    if picture.bits < 8 and picture.pillow.mode in ("1", "L"):
        full = 2**picture.bits - 1
        return values // (255 // full), full
    top = int(values.max())
    return values, next(full for full in (255, 4095, 65535, 2**63) if top <= full)


def _one_channel(values: NDArray[Any], picture: Picture, num_classes: int) -> NDArray[Any]:
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return red
    spread = int(np.ptp(values, axis=2).max())
    noise = spread <= _CHROMA_NOISE and int(values.max()) > 127 and picture.bits <= 8
    if num_classes == 2 and noise:
        return np.asarray(cv2.cvtColor(values, cv2.COLOR_RGB2GRAY))
    raise MedvisionError(
        f"the mask is coloured: its channels differ by up to {spread}",
        where=picture.where,
        hint="set data.color_map to the colour of each class, and data.class_names to their names",
    )


def _foreground(values: NDArray[Any], full: int, picture: Picture) -> NDArray[np.uint8]:
    levels, counts = _histogram(values)
    low, top, half = int(levels[0]), int(levels[-1]), full // 2
    if low >= 0 and top <= 1:
        return values.astype(np.uint8)
    indices = not picture.lossy and _are_indices(levels, full)
    if (
        low < 0
        or top <= half
        or indices
        or _merges_levels(values, levels, counts, full, lossy=picture.lossy)
    ):
        raise MedvisionError(
            f"a mask of two classes contains the values {_named(values)}",
            where=picture.where,
            hint="use 0/1 or 0/255; for class indices set data.class_names"
            + (f", and data.ignore_index={full} if those pixels are left out" if indices else ""),
        )
    return (values > half).view(np.uint8)


def _histogram(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the levels in ascending order, and the number of pixels of each."""
    if values.dtype != np.uint8:
        return np.unique(values, return_counts=True)
    ends = np.unique([values.min(), values.max()])
    counts = np.array([np.count_nonzero(values == level) for level in ends])
    if counts.sum() == values.size:  # most masks have two levels, and this is quick to see
        return ends, counts
    counts = cv2.calcHist([np.ascontiguousarray(values)], [0], None, [256], [0, 256]).ravel()
    levels = np.flatnonzero(counts)
    return levels, counts[levels]


def _are_indices(levels: NDArray[Any], full: int) -> bool:
    """Return True for small integers beside the largest value, or 0 and 1 that were inverted.

    The noise of a JPEG file that was saved again without loss lies near both ends instead.
    """
    between = levels[(levels != 0) & (levels != full)]
    if not between.size or levels[-1] != full:
        return False
    return int(between[-1]) <= full // 4 or int(levels[0]) == full - 1


def _merges_levels(
    values: NDArray[Any], levels: NDArray[Any], counts: NDArray[Any], full: int, *, lossy: bool
) -> bool:
    """Return True if a threshold would merge a third level, or a gradient, into two classes.

    Examples are 0, 128 (uncertain) and 255, and probabilities. The most frequent levels on both
    sides of the threshold are the classes. Smooth edges and the noise of JPEG are thin areas of
    other levels, whereas areas of another class are wide. In files without loss they may be thin,
    if they are flat and have few levels: edges that were averaged and enlarged have more.
    """
    least, others = _THIN * values.size, _far_from_usual(levels, counts, full)
    if counts[others].sum() <= least:
        return False
    far = np.isin(values, levels[others])
    width = max(_EDGE_PX, round(_EDGE * min(values.shape)))
    if np.count_nonzero(_opened(far, width)) > least:
        return True
    if lossy or np.count_nonzero(others) > _FEW_LEVELS:
        return False
    exact, near = values.astype(np.float32), np.ones((3, 3), np.uint8)
    flat = far & (cv2.dilate(exact, near) == cv2.erode(exact, near))
    return np.count_nonzero(others) == 1 or bool(np.count_nonzero(flat) > least)


def _far_from_usual(levels: NDArray[Any], counts: NDArray[Any], full: int) -> NDArray[np.bool_]:
    """Return which levels are far from the most frequent level on both sides of the threshold."""
    others = np.ones(levels.shape, bool)
    for side in (levels <= full // 2, levels > full // 2):
        if side.any():
            usual = levels[side][np.argmax(counts[side])]
            others &= np.abs(levels - float(usual)) > full / 16
    return others


def _opened(area: NDArray[np.bool_], width: int) -> NDArray[Any]:
    """Keep the parts of an area that hold a square of this width."""
    square = np.ones((width, width), np.uint8)
    grey = area.astype(np.uint8)
    return np.asarray(
        cv2.morphologyEx(
            grey, cv2.MORPH_OPEN, square, borderType=cv2.BORDER_CONSTANT, borderValue=0
        )
    )


def _in_range(values: NDArray[Any], num_classes: int, where: str) -> NDArray[np.uint8]:
    outside = (values < 0) | (values >= num_classes)
    if outside.any():
        found = np.unique(values[outside])
        raise MedvisionError(
            f"the mask contains the value{'s' if len(found) > 1 else ''} {_named(found)},"
            f" expected class indices 0 to {num_classes - 1}",
            where=where,
            hint="check data.class_names, or set data.color_map",
        )
    return values.astype(np.uint8)


def _by_colour(picture: Picture, colours: NDArray[np.int32]) -> NDArray[np.uint8]:
    if picture.bits > 8:
        raise MedvisionError(
            f"data.color_map is for masks of 8 bits, this mask has {picture.bits}",
            where=picture.where,
            hint="store the mask with 8 bits",
        )
    values = samples(picture)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    wide = values.astype(np.int32)
    if picture.lossy:
        distances = [((wide - colour) ** 2).sum(axis=2) for colour in colours]
        return np.argmin(distances, axis=0).astype(np.uint8)
    codes, wanted = wide @ _PLACES, colours @ _PLACES
    order = np.argsort(wanted)
    place = np.searchsorted(wanted[order], codes).clip(max=len(wanted) - 1)
    classes = order[place]
    unknown = wanted[classes] != codes
    if unknown.any():
        colour = tuple(int(level) for level in values[unknown][0])
        raise MedvisionError(
            f"the mask contains the colour {colour}, which data.color_map does not list",
            where=picture.where,
            hint="add it to data.color_map or fix the mask",
        )
    return classes.astype(np.uint8)


_PLACES = np.array([65536, 256, 1], np.int32)  # weights that encode a colour as one number


def _checked_map(color_map: Sequence[Sequence[int]], num_classes: int) -> NDArray[np.int32]:
    colours = [tuple(colour) for colour in color_map]
    right = all(
        len(colour) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in colour)
        for colour in colours
    )
    if not right or len(colours) != num_classes or len(set(colours)) != num_classes:
        raise MedvisionError(
            f"expected {num_classes} different colours of three values in 0 to 255, got {colours}",
            where="data.color_map",
            hint="give one [red, green, blue] per class, in their order",
        )
    return np.array(colours, np.int32)


def _named(values: NDArray[Any]) -> str:
    found = [str(value) for value in np.unique(values)]
    more = ["..."] if len(found) > _MAX_NAMED else []
    return ", ".join(found[:_MAX_NAMED] + more)
