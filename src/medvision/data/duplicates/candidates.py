"""Find pairs of thumbnails that may show the same picture, for `alignment` to verify.

A thumbnail is described by its structure: what remains after brightness and contrast of the
surroundings of each pixel are removed. Tone curves, local equalisation and colour maps hardly
change it, and inversion negates it. What all images share, such as a frame, is the mean structure
of the set, which is subtracted.

The metric is learned from the set itself by linear discriminant analysis on generated copies: it
weights directions that differ between images but not between an image and its copies (Fisher 1936).
Larger changes are undone before the comparison: each image is also compared as a crop of its
centre, as each of its halves, turned, and inverted. The pairs (A, B) and (B, A) are both compared,
so one direction of each change is enough.

The nearest few of each image are returned. All images are compared with all in sets up to
``EXHAUSTIVE`` thumbnails, with those of the nearest clusters in larger ones (Sivic and Zisserman,
ICCV 2003).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

EXHAUSTIVE = 20_000
"""Largest number of thumbnails of which all pairs are compared.

Of more, each is compared with those of the nearest clusters, and fewer candidates are verified:
among so many, some image is near by chance for each change.
"""

FEW = 40
"""Largest number of thumbnails of which all pairs are candidates: too few to learn from."""

NEAREST = 3
"""Candidates of each image."""

_NEAREST_OF_QUERY = 3
_MIN_COSINE = 0.35  # of whitened vectors: copies of all kinds reach 0.4, unrelated images 0.15
_CLEAR = 0.42  # of the nearest for each change: turned copies among look-alikes reach 0.45
_OUTSTANDING = 0.9  # share of the best pairs of an image that another one must exceed
_WAVES = 16  # cosine coefficients along each axis
_SIDE = 32  # pixels of a described structure
_DIRECTIONS = 48
_COPIES = 1500  # generated to learn the metric
_LEARNT_FROM = 1500
_BLOCK = 1024
_NONE = -2  # below each cosine
_PROBED = 0.04  # share of the clusters that a query is compared with


def place(
    scale_y: float = 1, scale_x: float = 1, y: float = 0, x: float = 0, *, degrees: float = 0
) -> NDArray[np.float64]:
    """Return the affine map (2, 3) from a part of a picture to the picture, for `warped`.

    Coordinates are (x, y) in [-1, 1]; scales below 1 enlarge a part around (x, y).
    """
    angle = np.deg2rad(degrees)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[scale_x * c, scale_x * s, x], [-scale_y * s, scale_y * c, y]])


class Query(NamedTuple):
    """Change that is undone before images are compared."""

    place: NDArray[np.float64]
    inverted: bool = False

    @property
    def is_whole(self) -> bool:
        """True if no part is cut off, except by turning."""
        return bool(abs(np.linalg.det(self.place[:, :2]) - 1) < 1e-6)


QUERIES = (
    Query(place()),
    Query(place(), inverted=True),
    Query(place(0.88, 0.88)),
    Query(place(0.78, 0.78)),
    Query(place(0.69, 0.69)),
    Query(place(degrees=5)),
    Query(place(degrees=10)),
    Query(place(1, 0.5, 0, -0.5)),
    Query(place(1, 0.5, 0, 0.5)),
    Query(place(0.5, 1, -0.5, 0)),
    Query(place(0.5, 1, 0.5, 0)),
)
"""Whole image, inverted, centres, turned, halves."""


class Candidates(NamedTuple):
    """Pairs to verify, by row.

    Attributes:
        whole: (P,) row of the thumbnail of which a part is compared.
        part: (P,) row of the thumbnail that may be this part.
        query: (P,) index into `QUERIES`.
        rank: (P,) place of the pair among those of either image, the better one, from 0.
        in_place: (P,) True if the pair is worth comparing without alignment as well.
    """

    whole: Rows
    part: Rows
    query: Rows
    rank: Rows
    in_place: NDArray[np.bool_]


def structure(thumbnail: NDArray[np.uint8] | Floats) -> Floats:
    """Remove the local mean and divide by the local contrast, in windows of an eighth of the side.

    A share of the contrast of the whole thumbnail, and two grey levels, are added to the local one,
    so that noise in flat parts stays small.
    """
    levels, sigma = thumbnail.astype(np.float32), thumbnail.shape[0] / 16
    detail = levels - cv2.GaussianBlur(levels, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    power = detail * detail
    local = np.sqrt(cv2.GaussianBlur(power, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))
    return np.asarray(detail / (local + 0.2 * np.sqrt(power.mean()) + 2), np.float32)


def in_pixels(places: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Convert an affine map of coordinates in [-1, 1] to one of pixels, as OpenCV takes it."""
    half, middle = side / 2, side / 2 - 0.5
    found = places.copy()
    found[:, 2] = places[:, 2] * half + middle - places[:, :2].sum(axis=1) * middle
    return found


def warped(image: NDArray[np.float32], pixels: NDArray[np.float64]) -> Floats:
    """Sample an image with an affine map in pixels; edge pixels are repeated outside."""
    return np.asarray(
        cv2.warpAffine(
            image,
            pixels,
            image.shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        np.float32,
    )


def resampled(maps: Floats, side: int) -> Floats:
    """Downsample structures (N, S, S) to another side by averaging."""
    identity = np.eye(maps.shape[1], dtype=np.float32)
    narrow = cv2.resize(identity, (maps.shape[1], side), interpolation=cv2.INTER_AREA)
    return np.asarray(narrow @ maps @ narrow.T, np.float32)


def structures(thumbnails: NDArray[np.uint8]) -> Floats:
    """Return the structure of each thumbnail, downsampled, (N, 32, 32)."""
    maps = np.empty((len(thumbnails), _SIDE, _SIDE), np.float32)
    for row, thumbnail in enumerate(thumbnails):
        maps[row] = cv2.resize(structure(thumbnail), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return maps


def find_candidates(thumbnails: NDArray[np.uint8], described: Floats, owner: Rows) -> Candidates:
    """Return pairs of thumbnails of different images that may show the same picture.

    Args:
        thumbnails: uint8 (N, S, S), none constant.
        described: Result of `structures`.
        owner: (N,) image that each thumbnail shows, first 0, 1, ... for whole images, then those of
            their content; pairs of one image are left out.
    """
    maps = described.reshape(len(described), _SIDE * _SIDE)
    if len(np.unique(owner)) < 2:
        none = np.empty(0, np.int64)
        return Candidates(none, none, none, none, none.astype(bool))
    few = len(thumbnails) <= FEW
    metric = _metric(thumbnails, maps, between=not few)
    features = _vectors(maps, 0, metric, centred=not few)
    parts = []
    for number in range(len(QUERIES)):
        # of the content of an image, without its borders, no further part is asked for
        asked = slice(None) if QUERIES[number].is_whole else slice(int(owner.max()) + 1)
        queries = features if number == 0 else _vectors(maps, number, metric, centred=not few)
        for whole, part, cosine in _nearest(queries[asked], features, everything=few):
            kept = owner[whole] != owner[part]
            tagged = np.full(int(kept.sum()), number, np.int64)
            parts.append((whole[kept], part[kept], cosine[kept], tagged))
    whole, part, cosine, query = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _best(
        whole,
        part,
        cosine,
        query,
        owner,
        most=len(thumbnails) if few else NEAREST,
        of_each_change=len(thumbnails) <= EXHAUSTIVE,
    )


def _best(
    whole: Rows,
    part: Rows,
    cosine: Floats,
    query: Rows,
    owner: Rows,
    *,
    most: int,
    of_each_change: bool,
) -> Candidates:
    """Keep the best query of each pair of images, and the best pairs of each image.

    Args:
        whole: (P,) row of the thumbnail.
        part: (P,) row of the other.
        cosine: (P,) of their vectors.
        query: (P,) an index into ``QUERIES``.
        owner: (N,) image that each thumbnail shows.
        most: Pairs kept of each image, of all changes together.
        of_each_change: Keep the nearest one for each change too, if it is clear. Otherwise, of the
            pairs that are not the best of an image, keep those nearer than nearly all that are,
            and compare no others without alignment.
    """
    ends = np.sort(np.stack([owner[whole], owner[part]]), axis=0)
    key = ends[0] * (int(owner.max()) + 1) + ends[1]
    order = np.lexsort((query, -cosine, key))
    order = order[np.unique(key[order], return_index=True)[1]]
    order = order[np.argsort(-cosine[order], kind="stable")]
    best = np.full(len(order), len(order), np.int64)
    for side in ends[:, order]:
        by_row = np.argsort(side, kind="stable")
        rank = np.arange(len(side)) - np.searchsorted(side[by_row], side[by_row])
        best[by_row] = np.minimum(best[by_row], rank)
    kept = best < most
    if of_each_change:  # of two screenshots a frame is most alike, not the picture
        for side in ends[:, order]:
            _, nearest = np.unique(np.stack([side, query[order]]), axis=1, return_index=True)
            kept[nearest] |= cosine[order][nearest] > _CLEAR
    in_place = (best == 0) & (query[order] == 0)
    if len(order) and not of_each_change:
        outstanding = cosine[order] > np.quantile(cosine[order][best == 0], _OUTSTANDING)
        kept &= (best == 0) | outstanding
        in_place &= outstanding
    by_row = np.flatnonzero(kept)[np.argsort(whole[order[kept]], kind="stable")]
    order, best, in_place = order[by_row], best[by_row], in_place[by_row]
    return Candidates(whole[order], part[order], query[order], best, in_place)


def _vectors(maps: Floats, number: int, metric: Floats, *, centred: bool) -> Floats:
    """Return unit vectors (N, D) of the structures with one change undone."""
    sign = -1 if QUERIES[number].inverted else 1
    through = sign * (_operator(number) @ metric)
    found = maps @ through
    if centred:
        # the mean of the structures that the others are compared with
        found -= (maps.mean(axis=0) @ through) * sign
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(norms, 1e-6), np.float32)


@cache
def _operator(number: int) -> Floats:
    """Return the matrix (S * S, 256) from a structure to the cosine coefficients of its part."""
    pixels = in_pixels(QUERIES[number].place, _SIDE)
    steps = np.arange(_WAVES)[:, None] * (2 * np.arange(_SIDE) + 1)
    basis = np.cos(np.pi * steps / (2 * _SIDE)) * np.sqrt(2 / _SIDE)
    basis[0] /= np.sqrt(2)
    basis = basis.astype(np.float32)
    single = np.zeros((_SIDE, _SIDE), np.float32)
    rows = np.empty((_SIDE * _SIDE, _WAVES * _WAVES), np.float32)
    for index in range(len(rows)):
        single.flat[index] = 1
        rows[index] = (basis @ warped(single, pixels) @ basis.T).ravel()
        single.flat[index] = 0
    return rows


def _metric(thumbnails: NDArray[np.uint8], maps: Floats, *, between: bool) -> Floats:
    """Return directions (256, D) in which an image and its copies differ little."""
    rng = np.random.default_rng(0)
    rows = rng.choice(len(maps), min(_LEARNT_FROM, len(maps)), replace=False)
    count = min(_COPIES, 30 * len(rows))
    whole = _operator(0)
    moves = np.empty((count, whole.shape[1]))
    for number in range(count):
        row = rows[number % len(rows)]
        copy = structure(_copied(thumbnails[row], rng))
        small = cv2.resize(copy, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        moves[number] = (small.ravel() - maps[row]) @ whole
    within = moves.T @ moves / count
    within[np.diag_indices(len(within))] += 0.03 * np.trace(within) / len(within) + 1e-6
    root = np.linalg.inv(np.linalg.cholesky(within))
    if not between:
        return np.asarray(root.T, np.float32)
    spread = maps[rng.choice(len(maps), min(4000, len(maps)), replace=False)] @ whole
    gain, directions = np.linalg.eigh(root @ np.cov(spread.T.astype(np.float64)) @ root.T)
    gain, directions = gain[:-_DIRECTIONS:-1].clip(0), directions[:, :-_DIRECTIONS:-1]
    weight = np.sqrt(gain) / (1 + gain)  # whitened, and damped where copies differ as much
    return np.asarray(root.T @ directions * weight, np.float32)


def _copied(thumbnail: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a slightly moved copy, half of them with another tone, some blurred or written on."""
    side = len(thumbnail)
    moved = place(*(1 + rng.uniform(-0.06, 0.06, 2)), *rng.uniform(-0.05, 0.05, 2),
                  degrees=rng.uniform(-3.5, 3.5))  # fmt: skip
    copy = warped(thumbnail.astype(np.float32), in_pixels(moved, side))
    if rng.random() < 0.5:
        toned = 255 * (copy / 255) ** rng.uniform(0.5, 2) * rng.uniform(0.7, 1.3)
        copy = np.asarray(toned + rng.uniform(-30, 30), np.float32)
    if rng.random() < 0.3:
        copy = np.asarray(cv2.GaussianBlur(copy, (0, 0), rng.uniform(0.3, 1)), np.float32)
    if rng.random() < 0.3:
        top, left = rng.integers(0, max(1, side - 12), 2)
        height, width = rng.integers(side // 10, side // 5), rng.integers(side // 6, side // 2)
        copy[top : top + height, left : left + width] = rng.choice([0, 255])
    return np.rint(copy.clip(0, 255)).astype(np.uint8)


def _nearest(
    queries: Floats, features: Floats, *, everything: bool
) -> Iterator[tuple[Rows, Rows, Floats]]:
    """Yield the nearest other rows of each query, and the cosines."""
    if everything:
        cosines = queries @ features.T
        first, second = np.nonzero(np.eye(*cosines.shape) == 0)
        yield first, second, cosines[first, second]
    elif len(features) <= EXHAUSTIVE:
        rows = np.arange(len(features))
        for start in range(0, len(queries), _BLOCK):
            own = rows[start : min(start + _BLOCK, len(queries))]
            yield _above(own, *_top(queries[own], own, features, rows))
    else:
        yield _nearest_in_clusters(queries, features)


def _top(queries: Floats, own: Rows, features: Floats, rows: Rows) -> tuple[Rows, Floats]:
    """Return the nearest other rows of each query, the nearest first, and their cosines.

    Args:
        queries: (Q, D).
        own: (Q,) number of each query.
        features: (F, D).
        rows: (F,) number of each feature, rising.

    Returns:
        (Q, 3) each; a cosine of -2 stands for no further row.
    """
    cosines = queries @ features.T
    place = np.searchsorted(rows, own).clip(max=len(rows) - 1)
    itself = np.flatnonzero(rows[place] == own)
    cosines[itself, place[itself]] = _NONE
    every = np.arange(len(own))
    nearest = np.empty((len(own), _NEAREST_OF_QUERY), np.int64)
    values = np.empty((len(own), _NEAREST_OF_QUERY), np.float32)
    for k in range(_NEAREST_OF_QUERY):  # faster than sorting the many that are above a limit
        best = cosines.argmax(axis=1)
        nearest[:, k], values[:, k] = rows[best], cosines[every, best]
        cosines[every, best] = _NONE
    return nearest, values


def _above(own: Rows, nearest: Rows, values: Floats) -> tuple[Rows, Rows, Floats]:
    """Return the pairs above the smallest cosine."""
    kept = values > _MIN_COSINE
    return np.broadcast_to(own[:, None], kept.shape)[kept], nearest[kept], values[kept]


def _nearest_in_clusters(queries: Floats, features: Floats) -> tuple[Rows, Rows, Floats]:
    """Compare each query with the members of the nearest clusters only."""
    rng = np.random.default_rng(0)
    count = int(np.sqrt(len(features)))
    centres = features[rng.choice(len(features), count, replace=False)]
    sample = features[rng.choice(len(features), min(len(features), 64 * count), replace=False)]
    for _ in range(4):
        sums = np.zeros_like(centres)
        np.add.at(sums, _closest_centres(sample, centres, 1)[:, 0], sample)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-6), centres)
    member_of = _closest_centres(features, centres, 1)[:, 0]
    probed = _closest_centres(queries, centres, max(1, round(_PROBED * count)))
    by_cluster = np.argsort(member_of, kind="stable")
    bounds = np.searchsorted(member_of[by_cluster], np.arange(count + 1))
    asking = np.argsort(probed.ravel(), kind="stable")
    asked = np.searchsorted(probed.ravel()[asking], np.arange(count + 1))
    nearest = np.zeros((len(queries), _NEAREST_OF_QUERY), np.int64)
    values = np.full(nearest.shape, _NONE, np.float32)
    for cluster in range(count):
        members = by_cluster[bounds[cluster] : bounds[cluster + 1]]
        asks = asking[asked[cluster] : asked[cluster + 1]] // probed.shape[1]
        for start in range(0, len(asks) if len(members) else 0, _BLOCK):
            own = asks[start : start + _BLOCK]
            others, cosines = _top(queries[own], own, features[members], members)
            others = np.hstack([nearest[own], others])
            cosines = np.hstack([values[own], cosines])
            order = np.argsort(-cosines, axis=1, kind="stable")[:, :_NEAREST_OF_QUERY]
            nearest[own] = np.take_along_axis(others, order, axis=1)
            values[own] = np.take_along_axis(cosines, order, axis=1)
    return _above(np.arange(len(queries)), nearest, values)


def _closest_centres(vectors: Floats, centres: Floats, most: int) -> NDArray[np.intp]:
    found = np.empty((len(vectors), most), np.intp)
    for start in range(0, len(vectors), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ centres.T
        if most == 1:
            found[start : start + _BLOCK, 0] = cosines.argmax(axis=1)
        else:
            found[start : start + _BLOCK] = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
    return found
