"""Align two thumbnails and measure, part by part, if they show the same picture.

The alignment is an affine map that maximises the enhanced correlation coefficient of the two
structures (Evangelidis and Psarakis, TPAMI 2008; OpenCV's ``findTransformECC``), from coarse to
fine. Then the grey levels are correlated in windows of a fifth of the side, in two bands: details
of about four pixels, and shapes up to a quarter of the side. Local correlation ignores brightness,
contrast and smooth changes of both.

- Different pictures of one kind agree in shapes (two chests, two heads) and not in details. Copies
  agree in both; noise and strong compression hide only details.
- A window counts less the more it resembles what all images share (`shared_structure`): a frame,
  a ruler or the dark surround of an eye agrees between all images and shows nothing. Plain borders
  do not count at all.
- The agreement is the weighted median over the windows, so that text, arrows and markers on a part
  of a picture do not matter, and a minimum share of 16 blocks must agree.

The smallest agreement of the same picture is derived from the set (`limits_from`), because drawn
heads resemble each other more than photographs do: four standard deviations above look-alikes,
between fixed bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.duplicates.candidates import Query, in_pixels, place, structure
from medvision.data.validation.properties import MAX_WRITTEN, PLAIN

Floats = NDArray[np.float32]

MIN_DETAIL = 0.88
"""Smallest agreement in details: slices of one head reach 0.87, different chests 0.8."""

MIN_SHAPE = 0.97
"""Smallest agreement in shapes, for copies with noise: 0.95 in look-alikes of all kinds."""

MIN_SHARE = 0.6
"""Smallest share of the blocks that agree: text, arrows and markers touch up to a third."""

MAX_DETAIL, MAX_SHAPE = 0.94, 0.985
"""Largest limits derived from a set: plain copies reach 0.96 and 0.99."""

MIN_OVERLAP = 0.6
"""Smallest share of the smaller picture that the larger one must contain."""

_FEWEST = 20  # look-alikes: fewer tell too little about the set
_DEVIATIONS = 4  # above typical look-alikes, in standard deviations of Fisher's z
_HOPELESS = 0.55  # structures that correlate less are different pictures
_COARSE = 24
_WINDOW = 9 / 48
_BLOCKS = 4  # along each axis
_FRAME_SCALES = (1.0, 1.2, 1.4)  # of the frame relative to that in a copy with a margin
_FAR = 0.45  # agreement in details below which no noise explains the difference
_SCALES = (0.35, 1.35)  # smallest and largest scaling of an axis that counts as a copy


class Match(NamedTuple):
    """Agreement of two thumbnails after alignment.

    Attributes:
        detail: Weighted median of the local correlation of details, [-1, 1].
        shape: The same for shapes; not measured, and that of details, where those decide.
        share: Share of the 16 blocks that agree, in the better band.
        pixels: Affine map (2, 3) from pixels of the part to pixels of the whole.
    """

    detail: float
    shape: float
    share: float
    pixels: NDArray[np.float64]


class Limits(NamedTuple):
    """Smallest agreement of the same picture in a set of images."""

    detail: float = MIN_DETAIL
    shape: float = MIN_SHAPE


NO_MATCH = Match(0.0, 0.0, 0.0, np.eye(2, 3))


def is_same(match: Match, limits: Limits) -> bool:
    """Return True if two thumbnails show the same picture."""
    agree = match.detail >= limits.detail or match.shape >= limits.shape
    return agree and match.share >= MIN_SHARE


def shared_structure(thumbnails: NDArray[np.uint8]) -> Floats:
    """Return the mean structure (S, S) of up to 500 thumbnails; 0 for fewer than ten."""
    rows = np.linspace(0, len(thumbnails) - 1, min(500, len(thumbnails))).astype(np.intp)
    if len(rows) < 10:
        return np.zeros(thumbnails.shape[1:], np.float32)
    return np.asarray(np.mean([structure(thumbnails[row]) for row in rows], axis=0), np.float32)


class View(NamedTuple):
    """Thumbnail prepared for comparison.

    Attributes:
        levels: Grey levels (S, S).
        structure: (S, S).
        box: First and last row and column of the content, ends excluded.
        shared: Result of `shared_structure` for thumbnails like this one.
    """

    levels: Floats
    structure: Floats
    box: tuple[int, int, int, int]
    shared: Floats

    @property
    def inside(self) -> Floats:
        """(S, S), 0 in plain borders and beside them, else 1."""
        side = len(self.levels)
        top, bottom, left, right = self.box
        known = np.zeros((side, side), np.float32)
        known[
            top + (top > 0) : bottom - (bottom < side), left + (left > 0) : right - (right < side)
        ] = 1
        return known

    @property
    def own(self) -> Floats:
        """(S, S), 1 where it resembles nothing that all images share, down to 0."""
        everywhere = np.ones_like(self.levels)
        if not self.shared.any():
            return everywhere
        common, _ = _window_correlation(self.structure, self.shared, everywhere, floor=0.02)
        return np.asarray(1 - common.clip(-1, 1) ** 2, np.float32)

    def with_aligned_frame(self) -> View:
        """Align what all images share with this one: in a screenshot a frame lies elsewhere."""
        if not self.shared.any():
            return self
        found = [
            _improved(
                self.shared, self.structure, in_pixels(place(scale, scale), _side(self)), steps=6
            )
            for scale in _FRAME_SCALES
        ]
        correlation, pixels = max(found, key=lambda pair: pair[0])
        if correlation < _HOPELESS:
            return self
        return self._replace(shared=_moved(self.shared, pixels))


def view_of(
    thumbnail: NDArray[np.uint8],
    *,
    shared: Floats,
    box: tuple[int, int, int, int] | None = None,
) -> View:
    """Prepare a thumbnail for comparison.

    Args:
        thumbnail: uint8 (S, S).
        shared: Result of `shared_structure` for thumbnails like this one.
        box: Its content, if it is known; see `content_boxes`.
    """
    found = box or tuple(content_boxes(thumbnail[None])[0].tolist())
    return View(thumbnail.astype(np.float32), structure(thumbnail), found, shared)


def content_boxes(thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return rows and columns of the content (N, 4), as `content_box` finds them in one picture."""
    count, side = thumbnails.shape[:2]
    plain = np.empty((2, count, side), bool)
    for start in range(0, count, 4096):
        part = thumbnails[start : start + 4096]
        for axis, lines in enumerate((part, part.transpose(0, 2, 1))):
            middle = np.sort(lines, axis=2)[:, :, side // 2, None].astype(np.int16)
            written = (np.abs(lines - middle) > PLAIN).mean(axis=2)
            plain[axis, start : start + 4096] = written <= MAX_WRITTEN
    first, last = (~plain).argmax(axis=2), side - (~plain[:, :, ::-1]).argmax(axis=2)
    blank = (plain.all(axis=2) | (last - first < side / 4)).any(axis=0)
    first[:, blank], last[:, blank] = 0, side
    return np.stack([first[0], last[0], first[1], last[1]], axis=1)


def aligned(whole: View, part: View, query: Query) -> Match:
    """Align a thumbnail with one that may be a part of it, and measure their agreement.

    Args:
        whole: View of the thumbnail (S, S).
        part: View of the other, of the same size.
        query: Start of the alignment.
    """
    sign = -1 if query.inverted else 1
    pixels = _aligned(sign * whole.structure, part.structure, query.place)
    return NO_MATCH if pixels is None else compare(whole, part, pixels, sign=sign)


def compare(whole: View, part: View, pixels: NDArray[np.float64], *, sign: int = 1) -> Match:
    """Measure the agreement of two thumbnails in a given position.

    Args:
        whole: View of the thumbnail (S, S).
        part: View of the other, of the same size.
        pixels: Affine map (2, 3) from pixels of the part to pixels of the whole.
        sign: -1 if one is inverted.
    """
    sizes = np.linalg.svd(pixels[:, :2], compute_uv=False)
    if not _SCALES[0] <= sizes[1] <= sizes[0] <= _SCALES[1]:
        return NO_MATCH
    side = _side(part)
    inside = part.inside
    known = (_moved(whole.inside, pixels, cv2.BORDER_CONSTANT) > 0.99).astype(np.float32) * inside
    if known.sum() < MIN_OVERLAP * inside.sum():
        return NO_MATCH
    own = np.minimum(_moved(whole.own, pixels), part.own) * known
    first, second = _moved(whole.levels, pixels), part.levels
    # the one that is enlarged has the lower resolution; compare at that of both
    zoom = 1 / np.sqrt(sizes.prod())
    if zoom > 1.05:
        second = _blurred(second, 0.45 * np.sqrt(zoom**2 - 1))
    elif zoom < 0.95:
        first = _blurred(first, 0.45 * np.sqrt(zoom**-2 - 1))

    def agreement(sigma: float) -> tuple[float, float]:
        share = _blurred(known, sigma).clip(1e-3)
        a, b = (v - _blurred(v * known, sigma) / share for v in (first, second))
        local, contrast = _window_correlation(sign * a, b, known, floor=0.05)
        typical = float(np.sqrt(contrast).sum() / known.sum()) ** 2
        return _agreement(local, contrast / (contrast + 0.15 * typical + 1) * own)

    detail, share = agreement(max(1.0, zoom) * side / 24)
    if detail >= MAX_DETAIL or detail < _FAR:
        return Match(detail, max(detail, 0.0), share, pixels)
    shape, share_of_shape = agreement(side / 8)
    return Match(detail, shape, max(share, share_of_shape), pixels)


def limits_from(look_alikes: Sequence[Match]) -> Limits:
    """Derive the smallest agreement of the same picture from pairs that only look alike.

    Args:
        look_alikes: Matches of images with others that are among the most similar of the set, but
            not the most similar.
    """
    if len(look_alikes) < _FEWEST:
        return Limits()
    limits = []
    look_alikes = [match for match in look_alikes if match.share]  # those that can be aligned
    for values, least, most in (
        ([match.detail for match in look_alikes], MIN_DETAIL, MAX_DETAIL),
        ([m.shape for m in look_alikes if m.shape != m.detail], MIN_SHAPE, MAX_SHAPE),
    ):
        if len(values) < _FEWEST:
            limits.append(least)
            continue
        z = np.arctanh(np.clip(values, 0, 0.999))
        middle = float(np.median(z))
        spread = 1.4826 * float(np.median(np.abs(z - middle)))
        limits.append(float(np.clip(np.tanh(middle + _DEVIATIONS * spread), least, most)))
    return Limits(*limits)


def confirmed(whole: View, part: View, match: Match, limits: Limits, *, sign: int = 1) -> bool:
    """Return True if two thumbnails also agree apart from a frame that lies elsewhere."""
    if not is_same(match, limits):
        return False
    if not (whole.shared.any() or part.shared.any()):
        return True
    views = whole.with_aligned_frame(), part.with_aligned_frame()
    return is_same(compare(*views, match.pixels, sign=sign), limits)


def _side(view: View) -> int:
    return len(view.levels)


def _moved(
    values: Floats, pixels: NDArray[np.float64], border: int = cv2.BORDER_REPLICATE
) -> Floats:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = values.shape[::-1]
    warp = cv2.warpAffine(values, pixels, size, flags=flags, borderMode=border)
    return np.asarray(warp, np.float32)


def _aligned(whole: Floats, part: Floats, start: NDArray[np.float64]) -> NDArray[np.float64] | None:
    side = len(part)
    first, second = (
        np.asarray(cv2.resize(m, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA), np.float32)
        for m in (whole, part)
    )
    correlation, pixels = _improved(first, second, in_pixels(start, _COARSE), steps=8)
    if correlation < _HOPELESS:
        return None
    factor = side / _COARSE
    pixels[:, 2] = factor * pixels[:, 2] + (factor - 1) / 2 * (1 - pixels[:, :2].sum(axis=1))
    correlation, pixels = _improved(whole, part, pixels, steps=6)
    return None if correlation < _HOPELESS else pixels


def _improved(
    whole: Floats, part: Floats, pixels: NDArray[np.float64], *, steps: int
) -> tuple[float, NDArray[np.float64]]:
    rule = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, steps, 1e-3)
    try:
        correlation, found = cv2.findTransformECC(
            np.ascontiguousarray(part),
            np.ascontiguousarray(whole),
            pixels.astype(np.float32),
            cv2.MOTION_AFFINE,
            rule,
            np.full(part.shape, 1, np.uint8),
            3,
        )
    except cv2.error:  # it does not converge: not the same picture
        return -1.0, pixels
    return float(correlation), np.asarray(found, np.float64)


def _blurred(image: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(float(sigma), 0.05)), np.float32)


def _window_correlation(
    a: Floats, b: Floats, known: Floats, *, floor: float
) -> tuple[Floats, Floats]:
    """Return correlation, and product of contrasts, in the window around each pixel."""
    window = max(3, round(_WINDOW * len(a)))

    def mean(values: Floats) -> Floats:
        return np.asarray(
            cv2.blur(values, (window, window), borderType=cv2.BORDER_CONSTANT), np.float32
        )

    share = mean(known).clip(1e-3)
    a, b = a * known, b * known
    contrast = np.sqrt((mean(a * a) / share).clip(0) * (mean(b * b) / share).clip(0)) * known
    return mean(a * b) / share / (contrast + floor), contrast


def _agreement(local: Floats, weight: Floats) -> tuple[float, float]:
    """Return the weighted median, and the share of the blocks that agree.

    A block counts if it holds a tenth of its area by weight, and agrees if most of that has a local
    correlation of 0.6 or more.
    """
    total = float(weight.sum())
    if total < 1:
        return 0.0, 0.0
    order = np.argsort(local, axis=None)
    sums = np.cumsum(weight.ravel()[order])
    middle = float(local.ravel()[order[np.searchsorted(sums, total / 2)]])
    side = len(local) // _BLOCKS
    held, agreeing = (
        values[: side * _BLOCKS, : side * _BLOCKS]
        .reshape(_BLOCKS, side, _BLOCKS, side)
        .sum(axis=(1, 3))
        for values in (weight, weight * (local >= 0.6))
    )
    counted = held > 0.1 * side**2
    if not counted.any():
        return middle, float(agreeing.sum() / total)
    return middle, float((2 * agreeing > held)[counted].mean())


IDENTITY = Query(place())


def shift_between(whole: View, part: View) -> Query:
    """Return the shift of a part as the start of an alignment, by phase correlation."""
    side = _side(part)
    window = cv2.createHanningWindow((side, side), cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(part.structure, whole.structure, window)
    return Query(place(y=2 * y / side, x=2 * x / side))
