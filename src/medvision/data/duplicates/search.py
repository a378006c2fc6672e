"""Find images that show the same picture, so that a split keeps them together.

Similarity is the normalised cross-correlation of grey thumbnails of 48 px,

    r(a, b) = <a - mean(a), b - mean(b)> / (|a - mean(a)| |b - mean(b)|)

which is invariant to brightness, contrast and image size. Two images are near-duplicates if it
reaches the threshold for the unchanged images or with one of them mirrored or rotated by multiples
of 90 degrees, or if they match, as a whole and in every part, after a crop of up to a tenth of each
side and a change of tone are undone (`medvision.data.duplicates.registration`). Images with equal
pixels are always near-duplicates. Groups are transitive.

Unchanged, mirrored and rotated pairs are found exhaustively; crops and clipped tones only among the
sixteen nearest candidates of each image.

Candidate search among a hundred thousand images: thumbnails become unit vectors with zero mean. The
distance of their lowest cosine coefficients (DCT-II, orthonormal) is a lower bound of the distance
of the vectors. Absolute coefficients are invariant to mirroring and, once sorted across the
diagonal, to rotations by 90 degrees. One pass of blocked matrix products therefore finds every pair
that is near in any of the eight orientations.

Crops displace the content and clipping changes it, so plain distances grow quickly. The metric for
both is therefore learned from the data set by linear discriminant analysis on thousands of
generated copies: it weights directions that differ between images but not between an image and its
copies.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medvision.data.duplicates.registration import overlay, warped
from medvision.data.validation.properties import ImageProperties
from medvision.data.validation.properties_cache import recall, store
from medvision.files import own_folder

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

COEFFICIENTS = 16
"""Number of cosine coefficients along each axis."""

MAX_CUT = 0.1
"""Largest share of each side that a crop removes."""

_NO_PAIRS: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64))
_BLOCK = 1024  # rows compared at once, with 8 times as many others: 32 MiB
_INVARIANT = 10  # coefficients along each axis compared in any orientation
_METRIC_SIZE = 32
_REACH = 1.6  # tolerance factor on the distance of the training crops
_LEARNT_FROM = 1500
_SPREAD_FROM = 4000
_CUTS = 4500  # training crops; must exceed the number of coefficients


Pairs = tuple[Rows, Rows]
"""Row numbers of pairs, (P,) each, the first smaller than the second."""


def unit_vectors(thumbnails: NDArray[np.uint8]) -> Floats:
    """Return unit vectors (N, S, S) of mean 0 and norm 1; constant thumbnails become 0."""
    vectors = thumbnails.astype(np.float32)
    vectors -= vectors.mean(axis=(1, 2), keepdims=True)
    norms = np.sqrt(np.einsum("nij,nij->n", vectors, vectors))[:, None, None]
    norms[norms < 1e-3] = np.inf
    return vectors / norms


def coefficients(thumbnails: NDArray[np.uint8]) -> Floats:
    """Compute the lowest cosine coefficients (N, 16, 16) of thumbnails (N, S, S) as unit vectors.

    Thumbnails smaller than 16 px keep all coefficients, (N, S, S).
    """
    size = thumbnails.shape[1]
    kept = min(COEFFICIENTS, size)
    steps = np.arange(kept)[:, None] * (2 * np.arange(size) + 1)
    basis = np.cos(np.pi * steps / (2 * size)) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    basis = basis.astype(np.float32)
    found = np.empty((len(thumbnails), kept, kept), np.float32)
    for start in range(0, len(thumbnails), _BLOCK):
        rows = slice(start, start + _BLOCK)
        found[rows] = basis @ unit_vectors(thumbnails[rows]) @ basis.T
    return found


def near_in_any_position(waves: Floats, *, squared: float, most: int = 64) -> Pairs:
    """Return candidate pairs within a squared distance in one of the eight orientations.

    No such pair is missed, unless an image has more than ``most`` in a block of 8192: then the
    nearest are kept, and groups still connect through chains of near-duplicates.

    Args:
        waves: Result of `coefficients`, without constant thumbnails.
        squared: Squared distance of unit vectors, 2 - 2 r for a correlation r.
        most: Largest number of pairs of one image with the images of a block.
    """
    size = np.abs(waves[:, :_INVARIANT, :_INVARIANT])
    turned = size.transpose(0, 2, 1)
    upper, lower = np.triu_indices(size.shape[1]), np.triu_indices(size.shape[1], 1)
    features = np.concatenate(
        (
            np.maximum(size, turned)[:, upper[0], upper[1]],
            np.minimum(size, turned)[:, lower[0], lower[1]],
        ),
        axis=1,
    )
    norms = np.einsum("nd,nd->n", features, features)
    found = [_NO_PAIRS]
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK]
        for other in range(start, len(features), 8 * _BLOCK):
            columns = features[other : other + 8 * _BLOCK]
            distance = block @ columns.T
            distance *= -2
            distance += norms[start : start + _BLOCK, None]
            distance += norms[other : other + 8 * _BLOCK]
            i, j = np.nonzero(distance <= squared + 1e-5)  # rounding
            ahead = j + other > i + start
            i, j = i[ahead], j[ahead]
            order = _closest(i, distance[i, j], most=most)
            found.append((i[order] + start, j[order] + other))
    return _together(found)


def perhaps_cut(thumbnails: NDArray[np.uint8], waves: Floats, *, most: int = 8) -> Pairs:
    """Return pairs of which one may be a crop of the other: the nearest of each image within reach.

    Args:
        thumbnails: uint8 (N, S, S), none constant.
        waves: Result of `coefficients`.
        most: Largest number of candidates per image.
    """
    if len(thumbnails) <= 64:  # too few to learn from, and few enough to compare all
        return np.triu_indices(len(thumbnails), 1)
    metric, reach = _metric(thumbnails, waves)
    full = waves.reshape(len(waves), -1) @ metric
    place = np.tile(np.array([1 - MAX_CUT / 2, 0] * 2, np.float32), (len(thumbnails), 1))
    middles = _cut_waves(thumbnails, place).astype(np.float32) @ metric
    pairs = []
    for query in (full, middles):  # the centre of an image is nearer to its crops than the whole
        first, second = _nearest(query, full, reach, most)
        pairs.append(np.stack((np.minimum(first, second), np.maximum(first, second))))
    first, second = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return first, second


def _metric(thumbnails: NDArray[np.uint8], waves: Floats) -> tuple[Floats, float]:
    """Return directions (256, D) in which crops have variance 1, and their largest distance."""
    rng = np.random.default_rng(0)
    rows = rng.choice(len(waves), min(_LEARNT_FROM, len(waves)), replace=False)
    spread = rng.choice(len(waves), min(_SPREAD_FROM, len(waves)), replace=False)
    flat = waves.reshape(len(waves), -1).astype(np.float64)
    moves = []
    for _ in range(max(3, _CUTS // len(rows))):
        removed = rng.uniform(0, MAX_CUT, (len(rows), 2))
        place = np.empty((len(rows), 4), np.float32)
        place[:, ::2] = 1 - removed
        place[:, 1::2] = removed * rng.uniform(-1, 1, removed.shape)
        tones = _tones(rng, len(rows))
        moves.append(_cut_waves(thumbnails[rows], place, tones) - flat[rows])
    move = np.concatenate(moves)
    within = move.T @ move / len(move)
    size = len(within)
    within[np.diag_indices(size)] += 0.02 * np.trace(within) / size
    between = np.cov(flat[spread].T)
    root = np.linalg.inv(np.linalg.cholesky(within))
    directions = np.linalg.eigh(root @ between @ root.T)[1][:, ::-1][:, :_METRIC_SIZE]
    metric = root.T @ directions
    lengths = np.sqrt(((move @ metric) ** 2).sum(axis=1))
    return metric.astype(np.float32), _REACH * float(np.quantile(lengths, 0.995))


def _tones(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Draw tone curves (N, 256): brighter, darker or with gamma; half of them are the identity."""
    levels = np.arange(256) / 255
    gain, gamma = rng.uniform(0.7, 1.3, (count, 1)), rng.uniform(0.75, 1.35, (count, 1))
    changed = 255 * (levels**gamma * gain + rng.uniform(-0.1, 0.1, (count, 1)))
    changed[rng.random(count) < 0.5] = np.arange(256)
    return np.rint(changed.clip(0, 255)).astype(np.uint8)


def _cut_waves(
    thumbnails: NDArray[np.uint8], place: Floats, tones: NDArray[np.uint8] | None = None
) -> NDArray[np.floating]:
    """Compute coefficients (N, 256) of crops of the thumbnails with the given tone curves."""
    found = []
    for start in range(0, len(thumbnails), _BLOCK):
        rows = slice(start, start + _BLOCK)
        cut = np.rint(warped(thumbnails[rows].astype(np.float32), place[rows])[0])
        levels = cut.clip(0, 255).astype(np.uint8)
        if tones is not None:
            flat = levels.reshape(len(levels), -1)
            levels = np.take_along_axis(tones[rows], flat.astype(np.intp), 1).reshape(cut.shape)
        found.append(coefficients(levels).reshape(len(cut), -1))
    return np.concatenate(found)


def _nearest(queries: Floats, features: Floats, reach: float, most: int) -> Pairs:
    """Return the nearest other rows of each query, at most ``most`` and within ``reach``."""
    norms = np.einsum("nd,nd->n", features, features)
    found = [_NO_PAIRS]
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        own = np.einsum("nd,nd->n", block, block)
        limit = np.full(len(block), reach**2, np.float32)
        rows, columns = np.empty(0, np.int64), np.empty(0, np.int64)
        distances = np.empty(0, np.float32)
        for other in range(0, len(features), 8 * _BLOCK):
            distance = block @ features[other : other + 8 * _BLOCK].T
            distance *= -2
            distance += norms[other : other + 8 * _BLOCK]
            reached = limit - own
            if other == 0 and distance.shape[1] > most + 1:  # includes its own row
                reached = np.minimum(reached, np.partition(distance, most, axis=1)[:, most])
            i, j = np.nonzero(distance <= reached[:, None])
            value = distance[i, j] + own[i]
            kept = i + start != j + other
            rows, columns = np.append(rows, i[kept]), np.append(columns, j[kept] + other)
            distances = np.append(distances, value[kept])
            order = _closest(rows, distances, most=most)
            rows, columns, distances = rows[order], columns[order], distances[order]
            full = np.flatnonzero(np.bincount(rows, minlength=len(block)) == most)
            farthest = np.full(len(block), -np.inf, np.float32)
            np.maximum.at(farthest, rows, distances)
            limit[full] = farthest[full]
        found.append((rows + start, columns))
    return _together(found)


def _closest(rows: Rows, *keys: NDArray[Any], most: int) -> NDArray[np.intp]:
    """Return indices of the ``most`` smallest keys of each row; the last key is the primary one."""
    order = np.lexsort((*keys, rows))
    ranked = rows[order]
    rank = np.arange(len(ranked)) - np.searchsorted(ranked, ranked)
    return order[rank < most]


def _together(parts: Iterable[Pairs]) -> Pairs:
    first, second = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    return first, second


THRESHOLD = 0.99
"""Smallest correlation at which two thumbnails show the same picture."""

MISFIT = 10
"""Largest misfit of a registered crop in units of ``1 - threshold``: three times (1 - similarity)
plus (1 - detail), see `Overlay`."""

RELATIONS = ("identical", "same", "mirrored", "rotated", "cropped")
"""Equal pixels, visually the same, or the transform that must be undone."""

_POSITIONS = tuple((t, y, x) for t in (False, True) for y in (False, True) for x in (False, True))
# Flags of each orientation: transposed, then flipped vertically, then horizontally.
_IDENTICAL, _SAME, _MIRRORED, _ROTATED, _CROPPED = range(len(RELATIONS))
_RELATION_OF = {  # odd number of transpositions and flips: mirrored; even: rotated
    position: _SAME if not any(position) else _MIRRORED if sum(position) % 2 else _ROTATED
    for position in _POSITIONS
}
_WHOLE = 3  # weight of the overall similarity relative to the windows
_CUT = 0.02  # smallest scaling or shift that counts as a crop
_CHUNK = 8192
_MOST = 16  # pairs kept per image with later ones


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Near-duplicate pairs and groups.

    Attributes:
        groups: int64 (N,), group of each image, exact and near duplicates joined, counted from 0
            in the order of first images; an image without near-duplicates is a group of its own.
        first: int64 (P,), lower row of each directly found pair; limited to the most similar few
            per image.
        second: int64 (P,), higher row of each pair.
        similarity: (P,) similarity after undoing the relation, [0, 1]; 1 for equal pixels.
        relation: uint8 (P,), index into ``RELATIONS``.
    """

    groups: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float32]
    relation: NDArray[np.uint8]


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
    """Find the near-duplicates in a data set.

    A constant thumbnail has no correlation: it is a near-duplicate only of images with equal
    pixels.

    Args:
        thumbnails: Grey, uint8 (N, S, S), downsampled by averaging; S a multiple of 4.
        pixel_hashes: Equal for images with equal pixels, (N,).
        threshold: Smallest similarity of near-duplicates, in (0, 1].
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
    original = shown[which]  # first image with these pixels
    copies = np.flatnonzero(original != np.arange(len(thumbnails)))
    alike = _Found(
        original[copies],
        copies,
        np.ones(len(copies), np.float32),
        np.full(len(copies), _IDENTICAL, np.uint8),
    )
    rows = np.unique(original)
    waves = coefficients(thumbnails[rows])
    alive = np.einsum("nij,nij->n", waves, waves) > 0
    rows, waves = rows[alive], waves[alive]
    near = _in_some_position(thumbnails[rows], waves, threshold)
    cut = _cut(thumbnails[rows], waves, near, threshold)
    placed = (f._replace(first=rows[f.first], second=rows[f.second]) for f in (near, cut))
    found = _all_of(alike, *placed)
    kept = _closest(found.first, found.second, -found.similarity, most=_MOST)
    kept = kept[np.lexsort((found.second[kept], found.first[kept]))]
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
    """Return the groups (N,) after joining the pairs of groups in ``one`` and ``other``."""
    if not len(one):
        return groups
    size = int(groups.max()) + 1
    pairs = coo_array((np.ones(len(one), bool), (one, other)), shape=(size, size))
    joined: NDArray[Any] = connected_components(pairs, directed=False)[1]
    return joined.astype(np.int64)[groups]


def count_crossing(components: ArrayLike, splits: Sequence[str]) -> tuple[int, int]:
    """Count the groups divided between train and test, and their test images.

    Args:
        components: Group of each image, integers (N,).
        splits: Split of each image.
    """
    numbers, names = np.asarray(components), np.asarray(splits)
    if numbers.shape != names.shape:
        raise ValueError(f"expected {numbers.shape} splits, got {names.shape}")
    tested = numbers[names == "test"]
    torn = np.isin(tested, numbers[names == "train"])
    return len(np.unique(tested[torn])), int(torn.sum())


def _in_some_position(
    thumbnails: NDArray[np.uint8], waves: NDArray[np.float32], threshold: float
) -> _Found:
    """Return unchanged, mirrored and rotated near-duplicates."""
    squared = 2 - 2 * threshold
    parts = []
    for first, second in _chunks(near_in_any_position(waves, squared=squared)):
        similarity = np.full(len(first), -1, np.float32)
        relation = np.ones(len(first), np.uint8)
        for position in _POSITIONS:
            distance = waves[first] - _turned_waves(waves[second], position)
            near = np.flatnonzero(np.einsum("nij,nij->n", distance, distance) <= squared + 1e-5)
            a = unit_vectors(thumbnails[first[near]])
            b = unit_vectors(_turned(thumbnails[second[near]], position))
            found = np.einsum("nij,nij->n", a, b)
            better = found > similarity[near] + 1e-6  # prefer the simplest of equal ones
            similarity[near[better]] = found[better]
            relation[near[better]] = _RELATION_OF[position]
        kept = similarity >= np.float32(threshold - 1e-6)  # rounding
        parts.append(_Found(first[kept], second[kept], similarity[kept].clip(0, 1), relation[kept]))
    return _all_of(*parts)


def _cut(
    thumbnails: NDArray[np.uint8], waves: NDArray[np.float32], known: _Found, threshold: float
) -> _Found:
    """Return near-duplicates of which one is a crop of the other, among pairs not yet found."""
    lower, higher = perhaps_cut(thumbnails, waves)
    size = len(thumbnails)
    new = ~np.isin(lower * size + higher, known.first * size + known.second)
    parts = []
    for first, second in _chunks((lower[new], higher[new])):
        fit = overlay(thumbnails[first], thumbnails[second])
        moved = (np.abs(fit.stretch - 1) > _CUT) | (np.abs(fit.shift) > _CUT)
        relation = np.where(moved.any(axis=1), _CROPPED, _SAME).astype(np.uint8)
        misfit = _WHOLE * (1 - fit.similarity) + (1 - fit.detail)
        kept = misfit <= MISFIT * (1 - threshold)
        parts.append(
            _Found(first[kept], second[kept], fit.similarity[kept].clip(0, 1), relation[kept])
        )
    return _all_of(*parts)


def _chunks(pairs: Pairs) -> Iterator[Pairs]:
    """Yield a few thousand pairs at a time, to limit the memory of their thumbnails."""
    first, second = pairs
    for start in range(0, len(first), _CHUNK):
        yield first[start : start + _CHUNK], second[start : start + _CHUNK]


def _all_of(*parts: _Found) -> _Found:
    empty = _Found(*_NO_PAIRS, np.empty(0, np.float32), np.empty(0, np.uint8))
    return _Found(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


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
    """Return coefficients of the reoriented images: a flip negates the odd ones."""
    transpose, upside_down, left_right = position
    signs = np.where(np.arange(waves.shape[1]) % 2, -1, 1).astype(np.float32)
    if transpose:
        waves = waves.transpose(0, 2, 1)
    if upside_down:
        waves = waves * signs[:, None]
    return waves * signs if left_right else waves


FORMAT = 1
"""Version of the search; increment it to invalidate cached results."""

_WORTH_KEEPING = 500  # fewer images are searched as fast as a file is read


def near_duplicates_of(facts: ImageProperties) -> NearDuplicates:
    """Find the near-duplicates of a data set, or load them from the cache.

    If they cannot be cached, they are searched again the next time; the properties cache reports
    why.
    """
    path, names = None, {field.name for field in fields(NearDuplicates)}
    if len(facts) >= _WORTH_KEEPING:
        digest = hashlib.sha256(f"{FORMAT} {THRESHOLD} {MISFIT}".encode())
        digest.update(facts.thumbnail.tobytes())
        digest.update("".join(facts.pixel_hash).encode())
        with contextlib.suppress(RuntimeError):  # no home folder
            path = own_folder("cache") / f"twins-{digest.hexdigest()[:24]}.npz"
    columns = {} if path is None else recall(path)
    if columns.keys() == names and len(columns["groups"]) == len(facts):
        return NearDuplicates(**columns)
    found = find_near_duplicates(facts.thumbnail, facts.pixel_hash)
    if path is not None:
        with contextlib.suppress(OSError):
            store(path, {name: getattr(found, name) for name in names})
    return found
