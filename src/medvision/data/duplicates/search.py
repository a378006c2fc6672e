"""Find images that show the same picture, so that they are not split apart.

Similarity is the normalised cross-correlation of grey thumbnails of 48 px,

    r(a, b) = <a - mean(a), b - mean(b)> / (|a - mean(a)| |b - mean(b)|)

so that brightness and contrast do not count, nor does the size of the file. Two images are
near-duplicates (twins for short) if it reaches the threshold as they are, or with one of them
mirrored or turned by quarter turns, or if they agree, as a whole and in every part, with a cut of
up to a tenth of each side and a change of tone undone (`medvision.data.duplicates.registration`).
Equal pixels are twins whatever they show. Twins of twins share a group.

Pairs as they are, mirrored or turned are found without exception; cuts and clipped tones among
the sixteen nearest look-alikes of each image only.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medvision.data.duplicates.candidates import (
    Pairs,
    coefficients,
    near_in_any_position,
    perhaps_cut,
    unit_vectors,
)
from medvision.data.duplicates.registration import overlay
from medvision.data.validation.properties import ImageProperties
from medvision.data.validation.properties_cache import cache_folder, store

THRESHOLD = 0.99
"""Correlation from which on two thumbnails show the same picture."""

MISFIT = 10
"""Three times what an overlaid cut lacks of a correlation of 1, and what its windows lack of it
(see `Overlay`), may come to this often ``1 - threshold``."""

RELATIONS = ("identical", "same", "mirrored", "rotated", "cropped")
"""Equal pixels; the same to the eye; and what must be undone to see it."""

_POSITIONS = tuple((t, y, x) for t in (False, True) for y in (False, True) for x in (False, True))
# Whether a thumbnail is transposed, then turned upside down, then left and right exchanged.
_IDENTICAL, _SAME, _MIRRORED, _ROTATED, _CROPPED = range(len(RELATIONS))
_RELATION_OF = {  # an odd number of exchanges is a mirror image, an even one a turn
    position: _SAME if not any(position) else _MIRRORED if sum(position) % 2 else _ROTATED
    for position in _POSITIONS
}
_WHOLE = 3  # weight of the whole overlay beside its windows
_CUT = 0.02  # stretch or shift from which on a picture counts as cut
_CHUNK = 8192  # pairs whose thumbnails are held at once
_MOST = 16  # pairs kept of one image with later ones


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Near-duplicate pairs and groups.

    Attributes:
        groups: int64 (N,), group of each image, exact and near duplicates joined, counted from 0
            in the order of first images; an image without twins is a group of its own.
        first: int64 (P,), rows of the pairs found directly, the lower one; at most a few of one
            image: the most similar ones.
        second: int64 (P,), the higher one.
        similarity: (P,) of the pair once their relation is undone, [0, 1]; 1 for equal pixels.
        relation: uint8 (P,), index into ``RELATIONS``.
    """

    groups: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float32]
    relation: NDArray[np.uint8]


class Crossing(NamedTuple):
    """Groups and images on both sides of a split.

    Attributes:
        groups: Groups with images in train and in test.
        test_images: Images of test that belong to one of them.
    """

    groups: int
    test_images: int


class _Found(NamedTuple):
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float32]
    relation: NDArray[np.uint8]


def find_near_duplicates(
    thumbnails: NDArray[np.uint8],
    pixel_hashes: Sequence[str] | NDArray[np.str_],
    *,
    threshold: float = THRESHOLD,
) -> NearDuplicates:
    """Find the near-duplicates in a set.

    A constant thumbnail has no correlation: it is the twin of images with equal pixels only.

    Args:
        thumbnails: Grey, uint8 (N, S, S), shrunk by averaging; S a multiple of 4.
        pixel_hashes: Equal for images with equal pixels, (N,).
        threshold: Smallest similarity of twins, in (0, 1].
    """
    if thumbnails.ndim != 3 or thumbnails.dtype != np.uint8:
        raise ValueError(
            f"expected thumbnails uint8 (N, S, S), got {thumbnails.dtype} {thumbnails.shape}"
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold in (0, 1], got {threshold}")
    if len(pixel_hashes) != len(thumbnails):
        raise ValueError(f"expected {len(thumbnails)} hashes, got {len(pixel_hashes)}")
    _, shown, which = np.unique(np.asarray(pixel_hashes), return_index=True, return_inverse=True)
    original = shown[which]  # the first image with these pixels
    copies = np.flatnonzero(original != np.arange(len(thumbnails)))
    alike = _Found(
        original[copies],
        copies,
        np.ones(len(copies), np.float32),
        np.full(len(copies), _IDENTICAL, np.uint8),
    )
    rows = np.unique(original)
    waves = coefficients(thumbnails[rows])
    near = _in_some_position(thumbnails[rows], waves, threshold)
    cut = _cut(thumbnails[rows], waves, near, threshold)
    found = _together(
        alike, *(f._replace(first=rows[f.first], second=rows[f.second]) for f in (near, cut))
    )
    kept = _strongest(found)
    return NearDuplicates(
        groups=join(np.arange(len(thumbnails)), found.first, found.second),
        first=found.first[kept],
        second=found.second[kept],
        similarity=found.similarity[kept],
        relation=found.relation[kept],
    )


def join(
    groups: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the groups (N,) after those numbered in ``one`` and ``other`` are joined pairwise."""
    if not len(one):
        return groups
    size = int(groups.max()) + 1
    pairs = coo_array((np.ones(len(one), bool), (one, other)), shape=(size, size))
    joined: NDArray[Any] = connected_components(pairs, directed=False)[1]
    return joined.astype(np.int64)[groups]


def count_crossing(components: ArrayLike, splits: Sequence[str]) -> Crossing:
    """Count the groups, and their test images, that a split has torn between train and test.

    Args:
        components: Group of each image, integers (N,).
        splits: Split of each image.
    """
    numbers, names = np.asarray(components), np.asarray(splits)
    if numbers.shape != names.shape:
        raise ValueError(f"expected {numbers.shape} splits, got {names.shape}")
    tested = numbers[names == "test"]
    torn = np.isin(tested, numbers[names == "train"])
    return Crossing(groups=len(np.unique(tested[torn])), test_images=int(torn.sum()))


def _in_some_position(
    thumbnails: NDArray[np.uint8], waves: NDArray[np.float32], threshold: float
) -> _Found:
    """Twins as they are, mirrored or turned."""
    squared = 2 - 2 * threshold
    candidates = near_in_any_position(waves, squared=squared)
    parts = []
    for start in range(0, len(candidates.first), _CHUNK):
        first = candidates.first[start : start + _CHUNK]
        second = candidates.second[start : start + _CHUNK]
        similarity = np.full(len(first), -1, np.float32)
        relation = np.ones(len(first), np.uint8)
        for position in _POSITIONS:
            distance = waves[first] - _turned_waves(waves[second], position)
            near = np.flatnonzero(np.einsum("nij,nij->n", distance, distance) <= squared + 1e-5)
            a = unit_vectors(thumbnails[first[near]])
            b = unit_vectors(_turned(thumbnails[second[near]], position))
            found = np.einsum("nij,nij->n", a, b)
            better = found > similarity[near] + 1e-6  # of equal ones the plainest
            similarity[near[better]] = found[better]
            relation[near[better]] = _RELATION_OF[position]
        kept = similarity >= np.float32(threshold - 1e-6)  # rounding
        parts.append(_Found(first[kept], second[kept], similarity[kept].clip(0, 1), relation[kept]))
    return _together(*parts)


def _cut(
    thumbnails: NDArray[np.uint8], waves: NDArray[np.float32], known: _Found, threshold: float
) -> _Found:
    """Twins of which one is a cut of the other, among those not known to be twins."""
    candidates = perhaps_cut(thumbnails, waves)
    size = len(thumbnails)
    new = ~np.isin(candidates.first * size + candidates.second, known.first * size + known.second)
    candidates = Pairs(candidates.first[new], candidates.second[new])
    parts = []
    for start in range(0, len(candidates.first), _CHUNK):
        first = candidates.first[start : start + _CHUNK]
        second = candidates.second[start : start + _CHUNK]
        fit = overlay(thumbnails[first], thumbnails[second])
        moved = (np.abs(fit.stretch - 1) > _CUT) | (np.abs(fit.shift) > _CUT)
        relation = np.where(moved.any(axis=1), _CROPPED, _SAME).astype(np.uint8)
        misfit = _WHOLE * (1 - fit.similarity) + (1 - fit.detail)
        kept = misfit <= MISFIT * (1 - threshold)
        parts.append(
            _Found(first[kept], second[kept], fit.similarity[kept].clip(0, 1), relation[kept])
        )
    return _together(*parts)


def _together(*parts: _Found) -> _Found:
    empty = _Found(
        np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.uint8)
    )
    return _Found(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


def _strongest(found: _Found) -> NDArray[np.intp]:
    """Places of the most similar pairs of each first image, in the order of the images."""
    order = np.lexsort((found.second, -found.similarity, found.first))
    ranked = found.first[order]
    kept = order[np.arange(len(order)) - np.searchsorted(ranked, ranked) < _MOST]
    return kept[np.lexsort((found.second[kept], found.first[kept]))]


def _turned(images: NDArray[Any], position: tuple[bool, bool, bool]) -> NDArray[Any]:
    transpose, upside_down, left_right = position
    if transpose:
        images = images.transpose(0, 2, 1)
    if upside_down:
        images = images[:, ::-1]
    return images[:, :, ::-1] if left_right else images


def _turned_waves(
    waves: NDArray[np.float32], position: tuple[bool, bool, bool]
) -> NDArray[np.float32]:
    """Coefficients of the turned images: exchanging ends changes the sign of the odd ones."""
    transpose, upside_down, left_right = position
    signs = np.where(np.arange(waves.shape[1]) % 2, -1, 1).astype(np.float32)
    if transpose:
        waves = waves.transpose(0, 2, 1)
    if upside_down:
        waves = waves * signs[:, None]
    return waves * signs if left_right else waves


FORMAT = 1
"""Grows when the search changes: what older ones found is then found again."""

_WORTH_KEEPING = 500  # fewer images are searched in the time that a file takes


def near_duplicates_of(facts: ImageProperties) -> NearDuplicates:
    """Find the near-duplicates of a data set, or recall them.

    Where they cannot be kept they are found again the next time; the cache of facts says why.
    """
    if len(facts) < _WORTH_KEEPING:
        return find_near_duplicates(facts.thumbnail, facts.pixel_hash)
    try:
        path = cache_folder() / f"twins-{_identity(facts)}.npz"
    except RuntimeError:  # no home folder
        return find_near_duplicates(facts.thumbnail, facts.pixel_hash)
    known = _read(path)
    if known is None or len(known.groups) != len(facts):
        known = find_near_duplicates(facts.thumbnail, facts.pixel_hash)
        with contextlib.suppress(OSError):
            store(path, {field.name: getattr(known, field.name) for field in fields(known)})
    return known


def _identity(facts: ImageProperties) -> str:
    digest = hashlib.sha256(f"{FORMAT} {THRESHOLD} {MISFIT}".encode())
    digest.update(facts.thumbnail.tobytes())
    digest.update("".join(facts.pixel_hash).encode())
    return digest.hexdigest()[:24]


def _read(path: Path) -> NearDuplicates | None:
    """Nothing where nothing is kept, or what is kept is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return NearDuplicates(
                **{field.name: stored[field.name] for field in fields(NearDuplicates)}
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
