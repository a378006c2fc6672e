"""Find sequences, such as videos and series of slices, from the pictures along the order of files.

Two neighbouring files are in one sequence if a picture just before the gap between them, and one
just after it, resemble each other more than pictures far apart in the list do. The resemblance is
the correlation of small thumbnails after the best small shift of one of them, without what all
images share, so that a moving camera does not end a sequence. It is compared at two ranges: among a
few neighbours, and, with a stricter limit, among more, which bridges frames that show something
else. A sequence found too long only makes groups larger; one that is cut puts frames of a video
into train and test. Both limits therefore prefer longer sequences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from medvision.console import counted
from medvision.data.samples import SampleTable
from medvision.errors import MedvisionError

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]

MIN_NEIGHBOURS = 0.15
"""Smallest share of images whose nearest image is a neighbour in the list, in sequences."""

BEYOND_CHANCE = 10
"""Smallest ratio of this share to that expected by chance."""

_MIN_LISTED = 40  # images: fewer tell too little
_MAX_LISTED = 20_000  # of more, the share is that of the first
_SIDE = 12  # pixels of the compared thumbnails
_SHIFT = 2  # of them, in both directions
_RANGES = ((8, 0.8), (30, 0.98))  # images on both sides together, quantile of far ones to exceed
_SHORTEST = 3  # images of a sequence in a longer list
_FAR_PLACES = 300


def file_order(paths: Sequence[str]) -> list[int]:
    """Return the positions of paths sorted by folder, then by the numbers in their names."""
    return sorted(range(len(paths)), key=lambda row: _by_numbers(paths[row]))


def _by_numbers(path: str) -> tuple[str, list[tuple[int, str]]]:
    place = PurePosixPath(path)
    parts = re.split(r"(\d+)", place.name)
    keys = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return str(place.parent), keys


def neighbour_share(
    thumbnails: NDArray[np.uint8], pixel_hashes: NDArray[np.str_], paths: Sequence[str]
) -> tuple[float, float] | None:
    """Return the share of images whose nearest image is a neighbour in the list, and by chance.

    Pictures are compared as thumbnails of 12 px, without what all images share; images with equal
    pixels count once. None for too few images.

    Args:
        thumbnails: uint8 (N, S, S), S a multiple of 12.
        pixel_hashes: Equal for images with equal pixels, (N,).
        paths: Path of each image.
    """
    _, first = np.unique(pixel_hashes, return_index=True)
    rows = sorted(first.tolist(), key=lambda row: _by_numbers(paths[row]))[:_MAX_LISTED]
    if len(rows) < _MIN_LISTED:
        return None
    small = _small(thumbnails[rows]).reshape(len(rows), -1)
    small -= small.mean(axis=1, keepdims=True)
    vectors = _unit(small - small.mean(axis=0))
    beside = 0
    for start in range(0, len(rows), 1024):
        alike = vectors[start : start + 1024] @ vectors.T
        own = np.arange(start, start + len(alike))
        alike[np.arange(len(alike)), own] = -np.inf
        beside += int((np.abs(alike.argmax(axis=1) - own) == 1).sum())
    return beside / len(rows), 2 / (len(rows) - 1)


def is_in_sequences(share: float, chance: float) -> bool:
    """Return True if neighbours in the list show neighbouring pictures far beyond chance."""
    return share >= max(MIN_NEIGHBOURS, BEYOND_CHANCE * chance)


def group_by_sequence(
    samples: SampleTable,
    thumbnails: NDArray[np.uint8],
    pixel_hashes: NDArray[np.str_],
    *,
    where: str,
    name: str = "sequence",
) -> tuple[SampleTable, list[str]]:
    """Return the samples with sequences as groups, and notes; known groups are kept.

    Args:
        samples: N samples.
        thumbnails: Of their images, uint8 (N, S, S).
        pixel_hashes: Equal for images with equal pixels, (N,).
        where: Data set, for errors.
        name: First word of the names of groups.

    Raises:
        MedvisionError: If neighbours in the list do not show neighbouring pictures.
    """
    paths = list(samples.paths)
    shares = neighbour_share(thumbnails, pixel_hashes, paths)
    if shares is None or not is_in_sequences(*shares):
        found = (
            f"{len(samples)} images are too few"
            if shares is None
            else f"the most similar image is a neighbour in the list for {100 * shares[0]:.0f} % of"
            f" the images, by chance for {100 * shares[1]:.1f} %"
        )
        raise MedvisionError(
            f"no sequences found: {found}",
            where=f"data.group_by=sequence, {where}",
            hint="leave the key out, or name the videos or series with data.group_pattern",
        )
    number = find_sequences(thumbnails, paths)
    groups = [
        known or f"{name} {place}"
        for known, place in zip(samples.groups, number.tolist(), strict=True)
    ]
    sizes = np.bincount(number)
    return samples.with_column(groups=groups), [
        f"data.group_by=sequence: {counted(len(sizes), 'sequence')} of {sizes.min()} to"
        f" {sizes.max()} images found from the pictures, in the order of the files"
    ]


def find_sequences(thumbnails: NDArray[np.uint8], paths: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of the sequence of each image, (N,), counted in the order of the files.

    A folder is never continued in the next one.

    Args:
        thumbnails: uint8 (N, S, S), S a multiple of 12; N of at least 12.
        paths: Path of each image.
    """
    order = np.array(file_order(paths))
    folders = [str(PurePosixPath(paths[row]).parent) for row in order.tolist()]
    new_folder = np.array([a != b for a, b in pairwise(folders)], np.bool_)
    shifted = _Shifted(thumbnails[order])
    spans = [min(span, max(2, len(order) // 6)) for span, _ in _RANGES]
    links = [_links(shifted, span, new_folder) for span in spans]
    cut = np.ones(len(order) - 1, np.bool_)
    for span, reached, (_, quantile) in zip(spans, links, _RANGES, strict=True):
        cut &= reached <= np.quantile(_far_links(shifted, span), quantile)
    cut = _without_short(cut, links[0], new_folder)
    number = np.empty(len(order), np.int64)
    number[order] = np.concatenate([[0], np.cumsum(cut | new_folder)])
    return number


class _Shifted:
    """Thumbnails of N images, to be compared after small shifts."""

    def __init__(self, thumbnails: NDArray[np.uint8]) -> None:
        small = _small(thumbnails)
        small -= small.mean(axis=0)
        self.size = len(small)
        side = _SIDE - 2 * _SHIFT
        starts = range(2 * _SHIFT + 1)
        self.parts = [
            _unit_centred(small[:, y : y + side, x : x + side]) for y in starts for x in starts
        ]
        self.centre = self.parts[len(self.parts) // 2]

    def apart(self, offset: int) -> Floats:
        """Return the largest correlation over the shifts of each image and a later one, (N - k,).

        Args:
            offset: The number k of places between them in the list.
        """
        found = np.full(self.size - offset, -1.0, np.float32)
        early, late = slice(self.size - offset), slice(offset, self.size)
        for part in self.parts:
            for one, other in ((early, late), (late, early)):
                alike = np.einsum("nd,nd->n", self.centre[one], part[other])
                np.maximum(found, alike, out=found)
        return np.asarray(np.round(found, 3), np.float32)  # equal on every machine

    def across(self, before: Rows, after: Rows) -> Floats:
        """Return the same for all pairs of two blocks of images, (P, K, K).

        Args:
            before: Rows of the first blocks, (P, K).
            after: Rows of the second blocks, (P, K).
        """
        found = np.full((*before.shape, after.shape[1]), -1.0, np.float32)
        for part in self.parts:
            for one, other in ((self.centre, part), (part, self.centre)):
                alike = one[before] @ other[after].transpose(0, 2, 1)
                np.maximum(found, alike, out=found)
        return np.asarray(np.round(found, 3), np.float32)


def _links(shifted: _Shifted, span: int, new_folder: NDArray[np.bool_]) -> Floats:
    """Return the resemblance across each gap between neighbours, (N - 1,)."""
    reached = np.full(shifted.size - 1, -1.0, np.float32)
    folder = np.concatenate([[0], np.cumsum(new_folder)])
    for offset in range(1, min(span, shifted.size - 1) + 1):
        alike = shifted.apart(offset)
        alike[folder[:-offset] != folder[offset:]] = -1
        for passed in range(offset):
            crossed = reached[passed : passed + len(alike)]
            np.maximum(crossed, alike, out=crossed)
    return reached


def _far_links(shifted: _Shifted, span: int) -> Floats:
    """Return the resemblance of pictures before one place and after another one far away."""
    rng = np.random.default_rng(0)
    far = max(span, shifted.size // 4)
    end = rng.integers(span - 1, shifted.size - far, _FAR_PLACES)
    start = rng.integers(end + far, shifted.size)
    steps = np.arange(span)
    after = np.minimum(start[:, None] + steps, shifted.size - 1)
    alike = shifted.across(end[:, None] - steps, after)
    alike[:, steps[:, None] + steps >= span] = -1  # as far from each other as in `_links`
    return np.asarray(alike.max(axis=(1, 2)), np.float32)


def _without_short(
    cut: NDArray[np.bool_], links: Floats, new_folder: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Join sequences of fewer than three images to the neighbour that resembles them more."""
    cut = cut & ~new_folder
    while True:
        ends = np.concatenate([[-1], np.flatnonzero(cut | new_folder), [len(cut)]])
        short = np.flatnonzero(np.diff(ends) < _SHORTEST)
        sides = (
            [e for e in ends[k : k + 2].tolist() if 0 <= e < len(cut) and cut[e]] for k in short
        )
        joined = [max(gaps, key=links.__getitem__) for gaps in sides if gaps]
        if not joined:
            return cut
        cut[joined] = False


def _small(thumbnails: NDArray[np.uint8]) -> Floats:
    count, side = thumbnails.shape[:2]
    cells = side // _SIDE
    blocks = thumbnails.reshape(count, _SIDE, cells, _SIDE, cells)
    return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float32), np.float32)


def _unit_centred(values: Floats) -> Floats:
    flat = values.reshape(len(values), -1)
    return _unit(flat - flat.mean(axis=1, keepdims=True))


def _unit(vectors: Floats) -> Floats:
    return np.asarray(
        vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6), np.float32
    )
