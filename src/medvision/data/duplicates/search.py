"""Find images that show the same picture, so that a split keeps them together.

Candidates come from two searches of grey thumbnails of 48 px. Both are verified by aligning the
two thumbnails and comparing them part by part (`medvision.data.duplicates.alignment`).

- Unchanged, mirrored and rotated images are found exhaustively: their thumbnails have a normalised
  cross-correlation of 0.99,

      r(a, b) = <a - mean(a), b - mean(b)> / (|a - mean(a)| |b - mean(b)|)

  which is invariant to brightness, contrast and image size, in one of the eight orientations. A
  high correlation alone proves nothing where all images share a frame.
- Crops, halves, screenshots, slightly turned or inverted copies and other tones are found among the
  nearest neighbours of each image (`medvision.data.duplicates.candidates`), with and without its
  plain borders.

Images with equal pixels are always near-duplicates. Groups are transitive, because a split must not
separate any pair; the pairs are those whose two images were compared with each other.

Exhaustive search among a hundred thousand images: thumbnails become unit vectors with zero mean.
The distance of their lowest cosine coefficients (DCT-II, orthonormal) is a lower bound of the
distance of the vectors. Absolute coefficients are invariant to mirroring and, once sorted across
the diagonal, to rotations by 90 degrees. One pass of blocked matrix products therefore finds every
pair that is near in any of the eight orientations.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medvision.data.duplicates.alignment import (
    COARSE,
    IDENTITY,
    NO_MATCH,
    ORDERED,
    STRICT,
    Limits,
    Match,
    View,
    aligned,
    aligned_pair,
    compare,
    is_confirmed,
    is_same,
    limits_from,
    shared_structure,
    shift_between,
    view_of,
)
from medvision.data.duplicates.candidates import (
    EXHAUSTIVE,
    QUERIES,
    find_candidates,
    resampled,
    structures,
)
from medvision.data.validation.properties import ImageProperties
from medvision.data.validation.properties_cache import recall, store
from medvision.files import own_folder

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

COEFFICIENTS = 16
"""Number of cosine coefficients along each axis."""

_NO_PAIRS: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64))
_BLOCK = 1024  # rows compared at once, with 8 times as many others: 32 MiB
_INVARIANT = 10  # coefficients along each axis compared in any orientation


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

RELATIONS = ("identical", "same", "mirrored", "rotated", "cropped", "turned", "inverted")
"""Equal pixels, visually the same, or the transform that must be undone."""

POSITIONS = tuple((t, y, x) for t in (False, True) for y in (False, True) for x in (False, True))
# Flags of each orientation: transposed, then flipped vertically, then horizontally.
_IDENTICAL, _SAME, _MIRRORED, _ROTATED, _CROPPED, _TURNED, _INVERTED = range(len(RELATIONS))
_RELATION_OF = {  # odd number of transpositions and flips: mirrored; even: rotated
    position: _SAME if not any(position) else _MIRRORED if sum(position) % 2 else _ROTATED
    for position in POSITIONS
}
_MOVED = 0.025  # smallest scaling or shift that counts as a crop
_TURN = 0.03  # smallest angle that counts as turned, radians
_VERIFIED = 16  # pairs of high correlation verified per image
_LOOK_ALIKE = 1  # from this rank among the candidates of an image on, most are look-alikes
_FRAMES = 20  # images before and after one in the list that may be of the same video
_AT_ONCE = 128  # pairs aligned at once
_SAMPLED = 10  # of so many batches one is compared in full, in sets above ``EXHAUSTIVE``
_MOST_OF = 0.75  # quantile of different pictures: 0.53 in drawn heads, most copies reach 0.67
_VIEWS_KEPT = 2000  # 60 MB
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
        limits: (3,) smallest agreement of the same picture in this set, see `Limits`.
        shared: (2, S, S) mean structure of the thumbnails and of their content.
    """

    groups: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float32]
    relation: NDArray[np.uint8]
    limits: NDArray[np.float32] = field(
        default_factory=lambda: np.array(Limits(), np.float32), repr=False
    )
    shared: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((2, 48, 48), np.float32), repr=False
    )

    def match_of(
        self, one: NDArray[np.uint8], other: NDArray[np.uint8], *, content: bool = False
    ) -> Match | None:
        """Align two thumbnails of the set, or of the content; None if they show different pictures.

        Args:
            one: uint8 (S, S).
            other: uint8 (S, S); the map of the match leads from its pixels to those of ``one``.
            content: If True, the thumbnails are without plain borders.
        """
        shared = self.shared[int(content)]
        if shared.shape != other.shape:
            shared = np.zeros(other.shape, np.float32)
        first, second = (view_of(thumbnail, shared=shared) for thumbnail in (one, other))
        return _same_or_none(first, second, Limits(*self.limits.tolist()))


def _same_or_none(one: View, other: View, limits: Limits) -> Match | None:
    """Compare two thumbnails as they are, then aligned, then aligned after a larger shift."""
    found = compare(one, other, np.eye(2, 3))
    for start in (IDENTITY, None):
        if is_same(found, limits):
            return found
        found = aligned_pair(one, other, start or shift_between(one, other))
    return found if is_same(found, limits) else None


class _Found(NamedTuple):
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float32]
    relation: NDArray[np.uint8]
    position: NDArray[np.uint8]  # index into ``POSITIONS``

    def select(self, rows: NDArray[Any]) -> _Found:
        """Return some of the pairs."""
        first, second, similarity, relation, position = (column[rows] for column in self)
        return _Found(first, second, similarity, relation, position)


def find_near_duplicates(
    thumbnails: NDArray[np.uint8],
    pixel_hashes: Sequence[str] | NDArray[np.str_],
    *,
    contents: NDArray[np.uint8] | None = None,
    threshold: float = THRESHOLD,
) -> NearDuplicates:
    """Find the near-duplicates in a data set.

    A constant thumbnail has no correlation: it is a near-duplicate only of images with equal
    pixels.

    Args:
        thumbnails: Grey, uint8 (N, S, S), downsampled by averaging; S a multiple of 4.
        pixel_hashes: Equal for images with equal pixels, (N,).
        contents: The thumbnails without plain borders, uint8 (N, S, S); None for the same.
        threshold: Smallest correlation of unchanged, mirrored and rotated images, in (0, 1].
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
        np.zeros(len(copies), np.uint8),
    )
    rows = np.unique(original)
    waves = coefficients(thumbnails[rows])
    alive = np.einsum("nij,nij->n", waves, waves) > 0
    rows, waves = rows[alive], waves[alive]
    seen = _Views.of(thumbnails[rows], (thumbnails if contents is None else contents)[rows])
    changed, limits = _changed(seen)
    near = _in_some_position(seen.thumbnails[: len(rows)], waves, threshold)
    near, changed = _verified(seen, near, changed, limits)
    placed = (f._replace(first=rows[f.first], second=rows[f.second]) for f in (near, changed))
    found = _all_of(alike, *placed)
    kept = _closest(found.first, found.second, -found.similarity, most=_MOST)
    kept = kept[np.lexsort((found.second[kept], found.first[kept]))]
    return NearDuplicates(
        groups=join(np.arange(len(thumbnails)), found.first, found.second),
        first=found.first[kept],
        second=found.second[kept],
        similarity=found.similarity[kept],
        relation=found.relation[kept],
        limits=np.array(limits, np.float32),
        shared=seen.shared,
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
        place = np.zeros(len(first), np.uint8)
        for number, position in enumerate(POSITIONS):
            distance = waves[first] - turned_waves(waves[second], position)
            near = np.flatnonzero(np.einsum("nij,nij->n", distance, distance) <= squared + 1e-5)
            a = unit_vectors(thumbnails[first[near]])
            b = unit_vectors(_turned(thumbnails[second[near]], position))
            found = np.einsum("nij,nij->n", a, b)
            better = found > similarity[near] + 1e-6  # prefer the simplest of equal ones
            similarity[near[better]] = found[better]
            place[near[better]] = number
        kept = similarity >= np.float32(threshold - 1e-6)  # rounding
        relation = np.array([_RELATION_OF[position] for position in POSITIONS], np.uint8)[place]
        every = _Found(first, second, similarity.clip(0, 1), relation, place)
        parts.append(every.select(np.flatnonzero(kept)))
    return _all_of(*parts)


def _verified(seen: _Views, found: _Found, known: _Found, limits: Limits) -> tuple[_Found, _Found]:
    """Return the pairs of high correlation that agree in every part, and other known pairs."""
    kept = _closest(found.first, found.second, -found.similarity, most=_VERIFIED)
    found = found.select(kept)
    size = len(seen.thumbnails)
    key, known_key = (pairs.first * size + pairs.second for pairs in (found, known))
    is_known = np.isin(key, known_key)

    def agree(pair: int) -> bool:
        if is_known[pair]:
            return True
        other = seen.thumbnails[found.second[pair]]
        turned = _turned(other[None], POSITIONS[found.position[pair]])[0]
        view = view_of(np.ascontiguousarray(turned), shared=seen.shared[0])
        return _same_or_none(view, seen.view(int(found.first[pair])), limits) is not None

    same = np.array([agree(pair) for pair in range(len(found.first))], bool)
    others = ~np.isin(known_key, key)
    return found.select(same), known.select(others)


def _changed(seen: _Views) -> tuple[_Found, Limits]:
    """Return near-duplicates among the candidates, and the limits of this set."""
    described = structures(seen.thumbnails)
    whole, part, query, rank, in_place = find_candidates(seen.thumbnails, described, seen.owner)
    ends = np.sort(np.stack([seen.owner[whole], seen.owner[part]]), axis=0)
    coarse = resampled(described, COARSE)

    matches = [NO_MATCH] * len(whole)
    starts = np.arange(0, len(whole), _AT_ONCE)
    large = len(seen.thumbnails) > EXHAUSTIVE
    in_full = starts % (_SAMPLED * _AT_ONCE) == 0 if large else np.ones(len(starts), bool)

    def measure(starts: Rows, *, least: float = 0.0) -> None:
        for start in starts.tolist():
            rows = slice(start, start + _AT_ONCE)
            pairs = whole[rows], part[rows], query[rows]
            matches[rows] = aligned(seen.view, coarse, *pairs, least=least)

    measure(starts[in_full])
    if large:
        measure(starts[~in_full], least=_usual(matches))
    size = int(seen.owner.max()) + 1 if len(seen.owner) else 0
    # left out: sure copies, and neighbours in the list, as frames of a video are no look-alikes
    sure = np.flatnonzero([is_same(found, STRICT) for found in matches])
    groups = join(np.arange(size), *ends[:, sure])
    position = np.unique(groups, return_index=True)[1][groups]
    between = np.abs(np.diff(position[ends], axis=0)[0])
    apart = (rank >= _LOOK_ALIKE) & (between > max(_FRAMES, 0.02 * size))
    apart &= np.repeat(in_full, _AT_ONCE)[: len(whole)]
    limits = limits_from([matches[row] for row in np.flatnonzero(apart)])

    trimmed = np.maximum(whole, part) >= size

    def confirmed(row: int) -> bool:
        inverted, found = QUERIES[query[row]].inverted, matches[row]
        views = seen.view(int(whole[row])), seen.view(int(part[row]))
        if not is_same(found, limits):
            # most copies keep their place, which alignment misses by part of a pixel
            views = seen.view(int(ends[0, row])), seen.view(int(ends[1, row]))
            found = compare(*views, np.eye(2, 3), sign=-1 if inverted else 1)
            matches[row], trimmed[row] = found, False
        return is_same(found, limits) and is_confirmed(*views, found, limits, inverted=inverted)

    near = np.array([m.detail >= ORDERED or is_same(m, limits) for m in matches], bool)
    # dark parts that are clipped, or whose noise is amplified, hide that the blocks match
    tried = np.flatnonzero(near | in_place)
    kept = [row for row in tried.tolist() if confirmed(row)]
    similarity = [max(matches[row][: len(limits)]) for row in kept]
    relation = [
        _INVERTED if QUERIES[query[row]].inverted else _relation(matches[row], trimmed=trimmed[row])
        for row in kept
    ]
    found = _Found(
        ends[0, kept],
        ends[1, kept],
        np.array(similarity, np.float32).clip(0, 1),
        np.array(relation, np.uint8),
        np.zeros(len(kept), np.uint8),
    )
    return found, limits


def _usual(matches: Sequence[Match]) -> float:
    """Return the correlation of blocks that most pairs of different pictures do not exceed."""
    different = [m.blocks for m in matches if m.blocks and not is_same(m, STRICT)]
    return float(np.quantile(different, _MOST_OF)) if different else 0.0


def _relation(match: Match, *, trimmed: bool) -> int:
    """Return the relation of a pair from the map that aligns it."""
    linear = match.pixels[:, :2]
    if abs(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])) > _TURN:
        return _TURNED
    side = 48
    shift = match.pixels[:, 2] + (linear.sum(axis=1) - 1) * (side / 2 - 0.5)
    moved = np.abs(np.linalg.norm(linear, axis=0) - 1).max() > _MOVED
    return _CROPPED if trimmed or moved or np.abs(shift).max() > _MOVED * side else _SAME


@dataclass(frozen=True)
class _Views:
    """Thumbnails of a set, then those without plain borders that differ from them.

    Attributes:
        thumbnails: uint8 (M, S, S).
        owner: (M,) image of each.
        shared: (2, S, S) mean structure of both kinds.
        view: Function that prepares the thumbnail of a row for comparison, and keeps the latest.
    """

    thumbnails: NDArray[np.uint8]
    owner: Rows
    shared: Floats

    @cached_property
    def view(self) -> Callable[[int], View]:
        @lru_cache(_VIEWS_KEPT)
        def view(row: int) -> View:
            kind = int(row > self.owner[row])
            return view_of(self.thumbnails[row], shared=self.shared[kind])

        return view

    @classmethod
    def of(cls, thumbnails: NDArray[np.uint8], contents: NDArray[np.uint8]) -> _Views:
        count = len(thumbnails)
        trimmed = np.flatnonzero((contents != thumbnails).any(axis=(1, 2)))
        inner = contents[trimmed]
        trimmed = trimmed[inner.max(axis=(1, 2)) > inner.min(axis=(1, 2))]
        shared = np.stack([shared_structure(thumbnails), shared_structure(contents[trimmed])])
        both = np.concatenate([thumbnails, contents[trimmed]])
        owner = np.concatenate([np.arange(count), trimmed])
        return cls(both, owner, shared)


def _chunks(pairs: Pairs) -> Iterator[Pairs]:
    """Yield a few thousand pairs at a time, to limit the memory of their thumbnails."""
    first, second = pairs
    for start in range(0, len(first), _CHUNK):
        yield first[start : start + _CHUNK], second[start : start + _CHUNK]


def _all_of(*parts: _Found) -> _Found:
    none = np.empty(0, np.uint8)
    empty = _Found(*_NO_PAIRS, np.empty(0, np.float32), none, none)
    return _Found(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


def _turned(images: NDArray[Any], position: tuple[bool, bool, bool]) -> NDArray[Any]:
    transpose, upside_down, left_right = position
    if transpose:
        images = images.transpose(0, 2, 1)
    if upside_down:
        images = images[:, ::-1]
    return images[:, :, ::-1] if left_right else images


def turned_waves(
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


FORMAT = 6
"""Version of the search; increment it to invalidate cached results."""

_WORTH_KEEPING = 500  # fewer images are searched as fast as a file is read


def near_duplicates_of(facts: ImageProperties) -> NearDuplicates:
    """Find the near-duplicates of a data set, or load them from the cache.

    If they cannot be cached, they are searched again the next time; the properties cache reports
    why.
    """
    path, names = None, {field.name for field in fields(NearDuplicates)}
    if len(facts) >= _WORTH_KEEPING:
        digest = hashlib.sha256(f"{FORMAT} {THRESHOLD}".encode())
        digest.update(facts.thumbnail.tobytes())
        digest.update(facts.content.tobytes())
        digest.update("".join(facts.pixel_hash).encode())
        with contextlib.suppress(RuntimeError):  # no home folder
            path = own_folder("cache") / f"twins-{digest.hexdigest()[:24]}.npz"
    columns = {} if path is None else recall(path)
    if columns.keys() == names and len(columns["groups"]) == len(facts):
        return NearDuplicates(**columns)
    found = find_near_duplicates(facts.thumbnail, facts.pixel_hash, contents=facts.content)
    if path is not None:
        with contextlib.suppress(OSError):
            store(path, {name: getattr(found, name) for name in names})
    return found
