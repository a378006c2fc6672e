"""Register pairs of thumbnails to detect slightly different crops of the same picture.

The model is a scaling and a shift along each axis, and a change of brightness and contrast:

    a(s_y y + t_y, s_x x + t_x) = g b(y, x) + o        with y, x in [-1, 1]

fitted from coarse to fine. Crops of up to a tenth of each side converge reliably.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SCALES = (0.86, 1.17)
"""Range of scaling accepted as a crop: a side of 0.9 with tolerance, and its inverse."""

MAX_SHIFT = 0.16
"""Largest shift accepted as a crop, in halves of a side."""

_PAIRS = 256  # registered at once: a dozen arrays of 14 MiB
_STEPS = (1, 2, 3)  # at full, half and quarter resolution
_STEP = 0.06
_SMOOTH = 0.5  # pixels: compensates for different sampling; larger values blur edges
_HOPELESS = (0.9, 0.95)  # correlation at 12 and 24 px that nearly all true crops exceed
_WINDOW = 13  # pixels, a quarter of a thumbnail: the size of an organ or a lesion
_FLAT = 0.12  # share of a window's mean variance: noise in a black background
_CLIPPED = (2, 253)  # grey levels beyond which pixels are ignored
_ENOUGH = 0.15  # share of the pixels that must lie between these levels
_LEAST = 0.05  # share of the windows that may fit worse


class Overlay(NamedTuple):
    """Registration result of pairs of thumbnails.

    Attributes:
        similarity: (P,) normalised cross-correlation in the overlap, [-1, 1].
        detail: (P,) 5 % quantile of the same in windows of 13 px: low if the outline of a head or a
            chest matches and the interior does not. -1 if not computed.
        stretch: (P, 2) scaling of the first along y and x.
        shift: (P, 2) shift of the first along y and x, in halves of a side.
    """

    similarity: Floats
    detail: Floats
    stretch: Floats
    shift: Floats


def overlay(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> Overlay:
    """Register the first of each pair to the second.

    Args:
        one: (P, S, S) grey, S a multiple of 4.
        other: (P, S, S).
    """
    starts = range(0, len(one), _PAIRS)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # NumPy releases the GIL
        parts = list(
            pool.map(lambda k: _overlay(one[k : k + _PAIRS], other[k : k + _PAIRS]), starts)
        )
    if not parts:
        none, empty = np.zeros(0, np.float32), np.zeros((0, 2), np.float32)
        return Overlay(none, none, empty, empty)
    return Overlay(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def warped(images: Floats, place: Floats) -> tuple[Floats, Floats]:
    """Sample images (P, S, S) with transforms (P, 4): scaling and shift of y, then of x.

    Returns:
        The samples, and 1 where they lie inside the image.
    """
    size = images.shape[1]
    grid = _grid(size)
    inside, blended = [], images
    for axis, (stretch, shift) in enumerate(((0, 1), (2, 3)), start=1):
        at = (place[:, stretch, None] * grid + place[:, shift, None] + 1) * (size / 2) - 0.5
        inside.append(((at >= -0.5) & (at <= size - 0.5)).astype(np.float32))
        at = at.clip(0, size - 1.0001)
        low = at.astype(np.int64)
        share = (at - low).astype(np.float32)
        if axis == 1:
            low, share = low[:, :, None], share[:, :, None]
        else:
            low, share = low[:, None, :], share[:, None, :]
        below = np.take_along_axis(blended, low, axis)
        blended = below + share * (np.take_along_axis(blended, low + 1, axis) - below)
    return blended, inside[0][:, :, None] * inside[1][:, None, :]


def _overlay(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> Overlay:
    a, b = (_pyramid(images.astype(np.float32)) for images in (one, other))
    start = np.tile(np.array([1, 0, 1, 0], np.float32), (len(one), 1))
    place, similarity = _fitted(a, b, start, level=2)[:2]
    other_way, better = _fitted(b, a, start, level=2)[:2]
    detail = np.full(len(one), -1, np.float32)
    # continue with the better fit
    turned = better > similarity
    _exchange(a, b, turned)
    place[turned], similarity[turned] = other_way[turned], better[turned]
    rows = np.flatnonzero(similarity >= _HOPELESS[0])
    place[rows], similarity[rows], _ = _fitted(a, b, place, level=1, rows=rows)
    rows = rows[similarity[rows] >= _HOPELESS[1]]
    # the one that shows less has the finer resolution: sampling it loses nothing
    place[rows] = _fitted(a, b, place, level=0, rows=rows, judge=False)[0]
    coarse = np.zeros(len(one), bool)
    coarse[rows] = place[rows, ::2].mean(axis=1) < 1
    _exchange(a, b, coarse)
    place[coarse] = _inverse(place[coarse])
    turned ^= coarse
    place[rows], similarity[rows], detail[rows] = _fitted(a, b, place, level=0, rows=rows)
    place[turned] = _inverse(place[turned])
    return Overlay(similarity, detail, place[:, ::2], place[:, 1::2])


def _fitted(
    a: list[Floats],
    b: list[Floats],
    place: Floats,
    *,
    level: int,
    rows: NDArray[np.intp] | None = None,
    judge: bool = True,
) -> tuple[Floats, Floats, Floats]:
    """Optimise transforms at one resolution; return them, similarity and, at the finest, detail."""
    first, second, found = a[level], b[level], place
    if rows is not None:
        first, second, found = first[rows], second[rows], found[rows]
    none = np.full(len(found), -1, np.float32)
    if not len(found):
        return found, none, none
    for _ in range(_STEPS[level]):
        found = _improved(first, second, found)
    if not judge:
        return found, none, none
    first, second = _smooth(first), _smooth(second)
    sample, inside = warped(first, found)
    sample, second = _in_one_tone(sample, second, inside)
    detail = _detail(sample, second, inside) if level == 0 else none
    return found, _correlation(sample, second, inside), detail


def _pyramid(images: Floats) -> list[Floats]:
    """Return the images at full, half and quarter resolution."""
    half = _halved(images)
    return [images, half, _halved(half)]


def _exchange(a: list[Floats], b: list[Floats], rows: NDArray[np.bool_]) -> None:
    for first, second in zip(a, b, strict=True):
        first[rows], second[rows] = second[rows], first[rows]


def _inverse(place: Floats) -> Floats:
    """Return the transforms that register the second to the first."""
    found = place.copy()
    found[:, ::2] = 1 / place[:, ::2]
    found[:, 1::2] = -place[:, 1::2] / place[:, ::2]
    return found


def _improved(a: Floats, b: Floats, place: Floats) -> Floats:
    """Update each transform by one step, solving for brightness and contrast as well.

    Gradients of both images are averaged, which doubles the range of convergence (efficient
    second-order minimisation, Benhimane and Malis, IROS 2004).
    """
    size = a.shape[1]
    sample, inside = warped(a, place)
    contrast = _contrast(sample, b, inside)
    both = (sample + contrast * b) / 2
    # gradients in the coordinates of the unscaled image
    slope_y = np.gradient(both, axis=1) * (size / 2) / place[:, 0, None, None]
    slope_x = np.gradient(both, axis=2) * (size / 2) / place[:, 2, None, None]
    grid = _grid(size)
    unknowns = np.stack(
        (slope_y * grid[:, None], slope_y, slope_x * grid, slope_x, np.ones_like(b), -b), axis=1
    )
    unknowns *= inside[:, None]
    flat = unknowns.reshape(len(a), 6, -1)
    normal = flat @ flat.transpose(0, 2, 1)
    diagonal = np.arange(6)
    normal[:, diagonal, diagonal] = normal[:, diagonal, diagonal] * 1.001 + 1e-3  # flat images
    right = -(flat @ ((sample - contrast * b) * inside).reshape(len(a), -1, 1))
    step = np.linalg.solve(normal.astype(np.float64), right)[:, :4, 0]
    moved = place + step.clip(-_STEP, _STEP).astype(np.float32)
    moved[:, ::2] = moved[:, ::2].clip(*SCALES)
    moved[:, 1::2] = moved[:, 1::2].clip(-MAX_SHIFT, MAX_SHIFT)
    return moved


def _contrast(sample: Floats, b: Floats, inside: Floats) -> Floats:
    """Return the contrast of the samples relative to ``b``, (P, 1, 1)."""
    first, second = _centred(sample, inside), _centred(b, inside)
    power = (second**2).sum((1, 2), keepdims=True)
    found: Floats = (first * second).sum((1, 2), keepdims=True) / power.clip(1e-6)
    return found.clip(0.2, 5)


def _centred(values: Floats, inside: Floats) -> Floats:
    """Subtract the mean; 0 outside."""
    count = inside.sum((1, 2), keepdims=True).clip(1)
    centred: Floats = (values - (values * inside).sum((1, 2), keepdims=True) / count) * inside
    return centred


def _in_one_tone(a: Floats, b: Floats, inside: Floats) -> tuple[Floats, Floats]:
    """Match brightness and contrast of the first to the second; clip both where either was clipped.

    A picture brightened until its highlights are clipped is still the same picture, so the same
    values are clipped in both.
    """
    low, high = _CLIPPED
    kept = inside * ((a > low) & (a < high) & (b > low) & (b < high))
    count = kept.sum((1, 2))
    known = count >= _ENOUGH * inside.sum((1, 2))  # otherwise nearly all is clipped: unchanged
    count = count.clip(1)[:, None, None]
    mean_a = (a * kept).sum((1, 2), keepdims=True) / count
    mean_b = (b * kept).sum((1, 2), keepdims=True) / count
    spread_a = (((a - mean_a) * kept) ** 2).sum((1, 2), keepdims=True)
    spread_b = (((b - mean_b) * kept) ** 2).sum((1, 2), keepdims=True)
    gain = np.sqrt(spread_b / spread_a.clip(1e-6)).clip(0.1, 10)
    gain = np.where(known[:, None, None], gain, 1)
    offset = np.where(known[:, None, None], mean_b - gain * mean_a, 0)
    toned = (gain * a + offset).clip(0, 255).astype(np.float32)
    limited = b.clip(offset, gain * 255 + offset).astype(np.float32)
    known = known[:, None, None]
    return np.where(known, toned, a), np.where(known, limited, b)


def _correlation(sample: Floats, b: Floats, inside: Floats) -> Floats:
    first, second = _centred(sample, inside), _centred(b, inside)
    power = (first**2).sum((1, 2)) * (second**2).sum((1, 2))
    found: Floats = (first * second).sum((1, 2)) / np.sqrt(power.clip(1e-6))
    return found


def _detail(sample: Floats, b: Floats, inside: Floats) -> Floats:
    found = np.empty(len(b), np.float32)
    for row, (first, second, known) in enumerate(zip(sample, b, inside, strict=True)):
        share = _windows(known).clip(1e-3)  # normalise windows at the edge
        mean_a, mean_b = _windows(first * known) / share, _windows(second * known) / share
        spread_a = (_windows(first**2 * known) / share - mean_a**2).clip(0)
        spread_b = (_windows(second**2 * known) / share - mean_b**2).clip(0)
        shared = _windows(first * second * known) / share - mean_a * mean_b
        # flat windows have no defined correlation: they count as equal
        floor = _FLAT * np.sqrt(spread_a.mean() * spread_b.mean()) + 1e-6
        local = (shared + floor) / (np.sqrt(spread_a * spread_b) + floor)
        found[row] = np.quantile(local[known > 0], _LEAST)
    return found


def _windows(image: Floats) -> Floats:
    """Return the mean of the window around each pixel."""
    return np.asarray(
        cv2.blur(image, (_WINDOW, _WINDOW), borderType=cv2.BORDER_REFLECT), np.float32
    )


def _grid(size: int) -> Floats:
    grid: Floats = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    return grid


def _halved(images: Floats) -> Floats:
    rows = images[:, ::2] + images[:, 1::2]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) / 2**2, np.float32)


def _smooth(images: Floats) -> Floats:
    smooth: Floats = np.empty_like(images)
    for row, image in enumerate(images):
        smooth[row] = cv2.GaussianBlur(image, (0, 0), _SMOOTH)
    return smooth
