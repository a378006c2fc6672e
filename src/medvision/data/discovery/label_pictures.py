"""Tell pictures of labels, such as masks, from photographs and scans by their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvision.data.readers.decode import decode, read_bytes, samples
from medvision.data.readers.dicom import DicomPixels
from medvision.errors import MedvisionError

_FEW = 16
"""Most distinct values of a picture of labels: the classes of masks, and no photograph."""

_AT_ENDS = 0.97
"""Least share of pixels at both ends of the range of a mask with soft or JPEG edges; in
Kvasir-SEG, whose masks are JPEG, it is 0.99 on average."""

_NEAR = 0.1  # of the range, at each end
_CHROMA_NOISE = 24  # grey levels by which JPEG separates the channels of a grey picture
_SAMPLED = 8
"""Pictures that are opened to decide about a folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Properties of sampled pictures of a folder.

    Attributes:
        labels: True if all have few values, or only very dark and very bright pixels, and some
            more than one; False if not; None if none can be opened.
        pictures: True if more than half have many values; None if none can be opened.
    """

    labels: bool | None
    pictures: bool | None


def shown_in(paths: Sequence[Path]) -> Shown:
    """Open some of the pictures and describe what they show."""
    known = [value for path in _sampled(paths) if (value := _values(path)) is not None]
    if not known:
        return Shown(labels=None, pictures=None)
    are_labels = all(few or at_ends for few, at_ends, _ in known)
    some_drawn = any(not blank for _, _, blank in known)
    many = sum(not few for few, _, _ in known)
    return Shown(labels=are_labels and some_drawn, pictures=many * 2 > len(known))


def show_labels(labels: Sequence[Path], pictures: Sequence[Path]) -> bool | None:
    """Compare two lists of files, the second with the images that the first may be masks of.

    Returns:
        True if the first show labels and the others do not; None if too few can be opened.
    """
    first = shown_in(labels).labels
    if not first:
        return first
    return shown_in(pictures).pictures


def _sampled(paths: Sequence[Path]) -> list[Path]:
    rows = np.unique(np.linspace(0, max(0, len(paths) - 1), _SAMPLED).round().astype(int))
    return [paths[row] for row in rows.tolist()] if paths else []


def _values(path: Path) -> tuple[bool, bool, bool] | None:
    """Return if a picture has few values, only extreme ones, and one; None if unreadable."""
    try:
        picture = decode(read_bytes(path), where=str(path))
        if isinstance(picture.image, DicomPixels):
            return False, False, False
        values = samples(picture)
    except MedvisionError:  # a damaged file says nothing, and is reported when it is read
        return None
    if values.ndim == 3:
        if int(np.ptp(values, axis=2).max()) > _CHROMA_NOISE:
            colours = values.reshape(-1, values.shape[2]).astype(np.int64) @ (1 << 32, 1 << 16, 1)
            number = len(np.unique(colours))
            return number <= _FEW, False, number == 1
        values = values[..., 0]
    number = len(np.unique(values))
    low, high = float(values.min()), float(values.max())
    dark, bright = values <= low + _NEAR * (high - low), values >= high - _NEAR * (high - low)
    at_ends = float((dark | bright).mean()) >= _AT_ENDS and min(dark.mean(), bright.mean()) > 0
    return number <= _FEW, bool(at_ends), number == 1
