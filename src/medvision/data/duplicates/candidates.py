"""Which of a hundred thousand images are worth a second look: pairs that may be twins.

Thumbnails become unit vectors: mean 0, norm 1. Their lowest cosine coefficients (DCT-II,
orthonormal) keep the distance of two vectors or shorten it, so near vectors have near coefficients,
and absolute coefficients forget mirroring and, once sorted across the diagonal, quarter turns. So
one pass of blocked matrix products finds every pair that any of the eight positions brings near.

A cut moves what it shows, and clipped lights change it: plain distances grow quickly. The metric
for both is therefore learnt from the set itself by linear discriminant analysis: it stresses what
differs from image to image and not between an image and its copies, of which it makes thousands.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvision.data.duplicates.registration import warped

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

COEFFICIENTS = 16
"""Cosine coefficients along each axis."""

MAX_CUT = 0.1
"""Share of each side that a cut may remove."""

_BLOCK = 1024  # rows compared at once, with 8 times as many others: 32 MiB of distances
_INVARIANT = 10  # coefficients along each axis that are compared in any position
_METRIC_SIZE = 32
_REACH = 1.6  # how much farther than those learnt from a cut may lie
_LEARNT_FROM = 1500
_SPREAD_FROM = 4000
_CUTS = 4500  # learnt from: fewer than there are coefficients would fit anything


class Pairs(NamedTuple):
    """Rows of pairs, (P,) each, the first smaller than the second."""

    first: Rows
    second: Rows


def unit_vectors(thumbnails: NDArray[np.uint8]) -> Floats:
    """Return (N, S, S) of mean 0 and norm 1; constant ones become 0, which is like nothing."""
    vectors = thumbnails.astype(np.float32)
    vectors -= vectors.mean(axis=(1, 2), keepdims=True)
    norms = np.sqrt(np.einsum("nij,nij->n", vectors, vectors))[:, None, None]
    norms[norms < 1e-3] = np.inf
    return vectors / norms


def coefficients(thumbnails: NDArray[np.uint8]) -> Floats:
    """Lowest cosine coefficients (N, 16, 16) of the unit vectors of thumbnails (N, S, S).

    Of thumbnails below 16 px all of them, (N, S, S).
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
    """Pairs that are perhaps within a squared distance in one of the eight positions.

    No pair nearer than that is missed, unless an image has more than ``most`` in a block of
    8192: then the nearest are kept, which chains of twins connect all the same.

    Args:
        waves: From `coefficients`.
        squared: Of the distance of unit vectors: 2 - 2 r for a correlation r.
        most: Pairs of one image with those of a block.
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
    alive = np.flatnonzero(np.einsum("nij,nij->n", waves, waves) > 0)
    if not len(alive):
        return Pairs(alive, alive)
    first, second = _within(features[alive], squared, most)
    return Pairs(alive[first], alive[second])


def perhaps_cut(thumbnails: NDArray[np.uint8], waves: Floats, *, most: int = 8) -> Pairs:
    """Pairs of which one may be a cut of the other: the nearest of each image that are near enough.

    Args:
        thumbnails: uint8 (N, S, S).
        waves: Their `coefficients`.
        most: Candidates of one image.
    """
    alive = np.flatnonzero(np.einsum("nij,nij->n", waves, waves) > 0)
    if len(alive) <= 64:  # too few to learn from, and few enough to look at all
        rows = np.triu_indices(len(alive), 1)
        return Pairs(alive[rows[0]], alive[rows[1]])
    metric, reach = _metric(thumbnails[alive], waves[alive])
    full = waves[alive].reshape(len(alive), -1) @ metric
    pairs = []
    # the middle of an image is nearer to its cuts than all of it is
    for query in (full, _middles(thumbnails[alive]) @ metric):
        first, second = _nearest(query, full, reach, most)
        pairs.append(np.stack((np.minimum(first, second), np.maximum(first, second))))
    found = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return Pairs(alive[found[0]], alive[found[1]])


def _metric(thumbnails: NDArray[np.uint8], waves: Floats) -> tuple[Floats, float]:
    """Directions (256, D) in which cuts differ with variance 1, and how far they get."""
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


def _middles(thumbnails: NDArray[np.uint8]) -> Floats:
    place = np.tile(np.array([1 - MAX_CUT / 2, 0] * 2, np.float32), (len(thumbnails), 1))
    return _cut_waves(thumbnails, place).astype(np.float32)


def _tones(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Grey levels (N, 256) that replace 0 to 255: brighter, darker, bent, half of them as is."""
    levels = np.arange(256) / 255
    gain, gamma = rng.uniform(0.7, 1.3, (count, 1)), rng.uniform(0.75, 1.35, (count, 1))
    changed = 255 * (levels**gamma * gain + rng.uniform(-0.1, 0.1, (count, 1)))
    changed[rng.random(count) < 0.5] = np.arange(256)
    return np.rint(changed.clip(0, 255)).astype(np.uint8)


def _cut_waves(
    thumbnails: NDArray[np.uint8], place: Floats, tones: NDArray[np.uint8] | None = None
) -> NDArray[np.floating]:
    """Coefficients (N, 256) of what lies at these places of the thumbnails, in these tones."""
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


def _within(features: Floats, squared: float, most: int) -> Pairs:
    """Pairs of rows within a squared distance."""
    norms = np.einsum("nd,nd->n", features, features)
    found: list[tuple[Rows, Rows]] = []
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
            i, j = _closest(i, j, distance[i, j], most)
            found.append((i + start, j + other))
    return Pairs(*(np.concatenate(rows) for rows in zip(*found, strict=True)))


def _nearest(queries: Floats, features: Floats, reach: float, most: int) -> Pairs:
    """For each query the nearest rows but its own, at most ``most`` and within ``reach``."""
    norms = np.einsum("nd,nd->n", features, features)
    found: list[tuple[Rows, Rows]] = []
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
            if other == 0 and distance.shape[1] > most + 1:  # its own row is among them
                reached = np.minimum(reached, np.partition(distance, most, axis=1)[:, most])
            i, j = np.nonzero(distance <= reached[:, None])
            value = distance[i, j] + own[i]
            kept = i + start != j + other
            rows, columns = np.append(rows, i[kept]), np.append(columns, j[kept] + other)
            distances = np.append(distances, value[kept])
            order = _order_of_closest(rows, distances, most)
            rows, columns, distances = rows[order], columns[order], distances[order]
            full = np.flatnonzero(np.bincount(rows, minlength=len(block)) == most)
            farthest = np.full(len(block), -np.inf, np.float32)
            np.maximum.at(farthest, rows, distances)
            limit[full] = farthest[full]
        found.append((rows + start, columns))
    return Pairs(*(np.concatenate(rows) for rows in zip(*found, strict=True)))


def _closest(i: Rows, j: Rows, distance: Floats, most: int) -> Pairs:
    order = _order_of_closest(i, distance, most)
    return Pairs(i[order], j[order])


def _order_of_closest(rows: Rows, distances: Floats, most: int) -> Rows:
    """Places of the ``most`` smallest distances of each row."""
    order = np.lexsort((distances, rows))
    ranked = rows[order]
    rank = np.arange(len(ranked)) - np.searchsorted(ranked, ranked)
    return order[rank < most]
