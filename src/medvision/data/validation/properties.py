"""Properties of the files of a data set, collected in a single decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, get_args, get_type_hints

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from medvision.data.readers.decode import Picture, samples
from medvision.data.readers.images import as_bytes, remarks_on
from medvision.errors import MedvisionError
from medvision.types import IGNORE_INDEX

THUMBNAIL_PX = 48
"""Height and width of thumbnails, sufficient to distinguish near-duplicates from similar images."""

BORDER = 0.04
"""Share of height and width that counts as border."""

_LUMINANCE_SUM = 3679
"""Sum of the luminance table of the JPEG standard (Annex K), which libjpeg scales by quality."""


@dataclass(frozen=True, kw_only=True)
class MaskProperties:
    """Properties of the masks as columns, one row per image.

    Attributes:
        mask_hash: (N,) SHA-256 of the class indices and their shape.
        thumbnail: uint8 (N, 48, 48), share of foreground in each cell, 255 being all of it.
        foreground: (N,) share of the pixels that are not background, [0, 1].
        grey: (N,) share of the pixels near neither class of a thresholded mask, by `grey_share`,
            [0, 1]: edge pixels of JPEG masks; 0 for binary masks and for more than two classes.
        frame: (N,) share of the outermost pixels that are not background, [0, 1].
        turned: (N,) True if the EXIF orientations of image and mask differ.
    """

    mask_hash: NDArray[np.str_]
    thumbnail: NDArray[np.uint8]
    foreground: NDArray[np.float32]
    grey: NDArray[np.float32]
    frame: NDArray[np.float32]
    turned: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ImageProperties:
    """Properties of the images as columns, one row per image.

    Attributes:
        pixel_hash: (N,) SHA-256 of the decoded samples and their shape: equal for every lossless
            encoding of the same pixels; a colour file with equal channels counts as grey.
        thumbnail: uint8 (N, 48, 48), grey, downsampled by averaging (OpenCV's ``INTER_AREA``).
        content: uint8 (N, 48, 48), the same without plain borders; equal to ``thumbnail`` where
            there are none.
        height: (N,) height of the upright image, pixels.
        width: (N,) width of the upright image, pixels.
        num_bytes: (N,) file size, bytes.
        file_format: (N,) Name of the format, such as ``JPEG``.
        bits: (N,) bits per sample in the file.
        colour: (N,) True if the channels differ anywhere.
        jpeg_quality: (N,) nearest libjpeg quality, 1 to 100; -1 for other formats.
        mean: (N,) mean of the grey 8-bit image, [0, 255].
        std: (N,) standard deviation of the grey 8-bit image.
        low: (N,) smallest value of the grey 8-bit image.
        high: (N,) largest value of the grey 8-bit image.
        remark: (N,) lines of `remarks_on` the file; empty if there are none.
        border: (N, 4) mean grey value of the outermost 4 % at top, bottom, left and right.
        mask: Properties of the masks; None for classification.
    """

    pixel_hash: NDArray[np.str_]
    thumbnail: NDArray[np.uint8]
    content: NDArray[np.uint8]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    num_bytes: NDArray[np.int64]
    file_format: NDArray[np.str_]
    bits: NDArray[np.uint8]
    colour: NDArray[np.bool_]
    jpeg_quality: NDArray[np.int16]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    low: NDArray[np.uint8]
    high: NDArray[np.uint8]
    border: NDArray[np.float32]
    remark: NDArray[np.str_]
    mask: MaskProperties | None = None

    def __len__(self) -> int:
        return len(self.pixel_hash)

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Self:
        """Select rows, in the given order."""
        return self._of({name: column[rows] for name, column in self.to_columns().items()})

    def to_columns(self) -> dict[str, NDArray[Any]]:
        """Return plain arrays, which load without unpickling."""
        columns = {f"image_{name}": getattr(self, name) for name in IMAGE_TYPES}
        if self.mask is not None:
            columns |= {f"mask_{name}": getattr(self.mask, name) for name in MASK_TYPES}
        return columns

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, NDArray[Any]], *, num_rows: int, with_masks: bool
    ) -> Self:
        """Create properties from the result of `to_columns`.

        Raises:
            ValueError: If a column has another length, shape or type.
            KeyError: If a column is missing.
        """
        names = [name for name in _TYPES if with_masks or name.startswith("image_")]
        # missing in older shards: there plain borders are not cut off
        later = {
            "image_remark": np.full(num_rows, ""),
            "image_content": columns["image_thumbnail"],
        }
        found = {name: _checked((later | {**columns})[name], name) for name in names}
        if {len(column) for column in found.values()} != {num_rows}:
            raise ValueError("columns of different lengths")
        return cls._of(found)

    @classmethod
    def joined(cls, tables: Sequence[Self]) -> Self:
        """Concatenate several tables.

        Raises:
            ValueError: If there are no tables, or only some have masks.
        """
        parts = [table.to_columns() for table in tables]
        if len({len(columns) for columns in parts}) != 1:
            raise ValueError(f"expected masks in all or none of {len(tables)} tables")
        return cls._of({n: np.concatenate([columns[n] for columns in parts]) for n in parts[0]})

    @classmethod
    def stack(cls, rows: Sequence[Row]) -> Self:
        """Create columns from one row per file.

        Raises:
            ValueError: If there are no rows, or only some have a mask.
        """
        if len({len(row) for row in rows}) != 1:
            raise ValueError(f"expected masks for all or none of {len(rows)} files")
        return cls._of({name: np.array([r[name] for r in rows], _TYPES[name]) for name in rows[0]})

    @classmethod
    def _of(cls, columns: Mapping[str, NDArray[Any]]) -> Self:
        image, mask = (
            {n.removeprefix(start): c for n, c in columns.items() if n.startswith(start)}
            for start in ("image_", "mask_")
        )
        return cls(**image, mask=MaskProperties(**mask) if mask else None)


def _checked(column: NDArray[Any], name: str) -> NDArray[Any]:
    kind, own = np.dtype(_TYPES[name]).kind, name.partition("_")[2]
    square = (THUMBNAIL_PX, THUMBNAIL_PX)
    inside = {"thumbnail": square, "content": square, "border": (4,)}.get(own, ())
    if column.dtype.kind != kind or column.shape[1:] != inside:
        raise ValueError(f"the column {own} has another type or shape")
    return np.asarray(column)


Row = Mapping[str, Any]
"""Properties of the files of a sample, with the keys of `ImageProperties.to_columns`."""


def row_of(image: Mapping[str, Any], mask: Mapping[str, Any] | None = None) -> Row:
    """Combine the results of `image_properties` and, if there is a mask, `mask_properties`."""
    named = {f"image_{name}": value for name, value in image.items()}
    return named | {f"mask_{name}": value for name, value in (mask or {}).items()}


def _types(columns: type) -> dict[str, Any]:
    """Return the value type of each column, by name."""
    hints = {name: kind for name, kind in get_type_hints(columns).items() if name != "mask"}
    return {name: get_args(get_args(kind)[1])[0] for name, kind in hints.items()}


IMAGE_TYPES, MASK_TYPES = _types(ImageProperties), _types(MaskProperties)
_TYPES = row_of(IMAGE_TYPES, MASK_TYPES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """Properties of the files of a sample, or the reason why it cannot be used.

    Attributes:
        content: End of its fingerprint line: a NUL and the SHA-256 of each file, or its size.
        properties: Properties of its files; None if only headers were read.
        fault: Error of its files; None if there is none.
    """

    content: str = ""
    properties: Row | None = None
    fault: MedvisionError | None = None


def image_properties(
    picture: Picture, *, value_range: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Compute the properties of a decoded image, with the keys of `ImageProperties`.

    Args:
        picture: Decoded file.
        value_range: As for `read_image`.

    Raises:
        MedvisionError: If its values cannot be converted to 8 bits.
    """
    values = samples(picture)
    colour = values.ndim == 3 and not (values == values[..., :1]).all()
    if values.ndim == 3 and not colour:
        values = np.ascontiguousarray(values[..., 0])
    image = as_bytes(values, picture, value_range)
    grey: NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    height, width = grey.shape
    rows, columns = max(1, round(BORDER * height)), max(1, round(BORDER * width))
    edges = (grey[:rows], grey[-rows:], grey[:, :columns], grey[:, -columns:])
    mean, std = cv2.meanStdDev(grey)
    low, high = cv2.minMaxLoc(grey)[:2]
    return {
        "pixel_hash": _hash(values),
        "thumbnail": _shrunk(grey),
        "content": _shrunk(grey[content_box(grey)]),
        "height": height,
        "width": width,
        "num_bytes": len(picture.data),
        "file_format": picture.file_format,
        "bits": picture.bits,
        "colour": colour,
        "jpeg_quality": _jpeg_quality(picture),
        "mean": float(mean[0, 0]),
        "std": float(std[0, 0]),
        "low": int(low),
        "high": int(high),
        "border": [float(edge.mean()) for edge in edges],
        "remark": "\n".join(remarks_on(picture, value_range)),
    }


PLAIN = 14
"""Largest distance from the median of a row or column of a plain border, grey levels."""

MAX_WRITTEN = 0.15
"""Largest share of a border's row or column that may lie farther: burned-in text."""

UNIFORM = 2
"""The same distance in a border of one colour, such as the margin of a screenshot."""

EXTREME = 40
"""Largest distance from black or white of a border that is not of one colour.

Film, surrounds and paper are dark or white; skin and tissue are plain as well and are no border.
"""

_SEARCHED_PX = 128
_MIN_CONTENT = 0.25  # of height or width


def content_box(grey: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Return rows and columns without plain borders: dark surrounds, frames, margins, letterboxes.

    Borders of one colour are cut off first, then other plain ones of what remains, as far as a
    quarter of each of its sides is kept: a lesion on plain skin has the same box whether the
    picture has a margin or not. Everything is kept if less than 3 % of each side is plain.

    Args:
        grey: (H, W).
    """
    box = slice(0, grey.shape[0]), slice(0, grey.shape[1])
    for tolerance in (UNIFORM, PLAIN):
        inner = grey[box]
        scale = _SEARCHED_PX / max(inner.shape)
        small = inner
        if scale < 1:
            size = [max(8, round(side * scale)) for side in inner.shape[::-1]]
            small = np.asarray(cv2.resize(inner, size, interpolation=cv2.INTER_AREA), np.uint8)
        found = _without_plain(small, tolerance)
        kept = (found[:, 1] - found[:, 0]) / small.shape
        if not _MIN_CONTENT <= kept.min() <= 0.97:
            continue
        rows, columns = (
            slice(outer.start + round(a * side / tiny), outer.start + round(b * side / tiny))
            for outer, (a, b), side, tiny in zip(box, found, inner.shape, small.shape, strict=True)
        )
        box = rows, columns
    return box


def _without_plain(image: NDArray[np.uint8], tolerance: int) -> NDArray[np.int64]:
    """Return the first and last row and column of the content (2, 2), empty if all is plain.

    A line of text in a margin has plain lines on its inner side: up to the innermost plain line in
    the outer third of a side, everything is border.
    """
    box = np.array([[0, image.shape[0]], [0, image.shape[1]]])
    for _ in range(2):  # a second time: with the borders at the sides, those above are plain too
        for axis in (0, 1):
            inner = image[box[0, 0] : box[0, 1], box[1, 0] : box[1, 1]].astype(np.int16)
            lines = inner if axis == 0 else inner.T
            middle = np.sort(lines, axis=1)[:, lines.shape[1] // 2, None]
            plain = (np.abs(lines - middle) > tolerance).mean(axis=1) <= MAX_WRITTEN
            if tolerance > UNIFORM:
                plain &= np.abs(middle[:, 0] - 127.5) > 127.5 - EXTREME
            third = -(-len(plain) // 3)
            written = np.flatnonzero(~plain)
            if not len(written):
                return np.zeros((2, 2), np.int64)
            outer = [np.flatnonzero(side[:third]) for side in (plain, plain[::-1])]
            first, end = (places[-1] + 1 if len(places) else 0 for places in outer)
            written = written[(written >= first) & (written < len(plain) - end)]
            if not len(written):
                return np.zeros((2, 2), np.int64)
            box[axis] = box[axis, 0] + written[0], box[axis, 0] + written[-1] + 1
    return box


def mask_properties(
    indices: NDArray[np.uint8], *, grey: float = 0.0, turned: bool = False
) -> dict[str, Any]:
    """Compute the properties of a mask, with the keys of `MaskProperties`.

    Args:
        indices: Class indices, or ``IGNORE_INDEX``, (H, W).
        grey: As in `MaskProperties`.
        turned: As in `MaskProperties`.
    """
    foreground = ((indices > 0) & (indices != IGNORE_INDEX)).astype(np.uint8)
    frame = np.concatenate((foreground[0], foreground[-1], foreground[1:-1, [0, -1]].ravel()))
    return {
        "mask_hash": _hash(indices),
        "thumbnail": _shrunk(foreground * np.uint8(255)),
        "foreground": np.count_nonzero(foreground) / foreground.size,
        "grey": grey,
        "frame": float(frame.mean()),
        "turned": turned,
    }


def _hash(values: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{values.shape} {values.dtype}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _shrunk(grey: NDArray[Any]) -> NDArray[np.uint8]:
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg_quality(picture: Picture) -> int:
    """Return the quality whose luminance table sum is nearest to that of the file."""
    if not isinstance(picture.image, JpegImageFile):
        return -1
    tables: dict[int, Sequence[int]] = getattr(picture.image, "quantization", {})
    if not tables:
        return -1
    total = sum(tables[min(tables)])
    scale = 100 * total / _LUMINANCE_SUM  # libjpeg: 5000 / q below 50, 200 - 2 q from 50
    return round(min(100, max(1, (200 - scale) / 2 if scale <= 100 else 5000 / scale)))
