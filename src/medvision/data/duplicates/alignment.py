"""Align two thumbnails and measure, part by part, if they show the same picture.

The alignment is an affine map, found by block matching from coarse to fine: blocks of one structure
are compared with the other at a few shifts, by normalised cross-correlation, and the map is fitted
to the shifts by iteratively reweighted least squares. Blocks that match nowhere, or elsewhere than
the others, such as text or the margin of a screenshot, have no weight. Then the grey levels are
correlated in windows of a fifth of the side, in two bands: details of about four pixels, and shapes
up to a quarter of the side. Local correlation ignores brightness, contrast and smooth changes of
both. Where details nearly agree, the order of the grey levels around each pixel is correlated as
well, which no tone curve changes, not even one for each part (rank transform, Zabih and Woodfill,
ECCV 1994).

- Different pictures of one kind agree in shapes (two chests, two heads) and not in details. Copies
  agree in both; noise and strong compression hide only details and order, and strong local
  equalisation changes all but the order.
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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.duplicates.candidates import (
    QUERIES,
    Query,
    in_pixels,
    place,
    resampled,
    structure,
)
from medvision.data.validation.properties import MAX_WRITTEN

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Maps = NDArray[np.float64]
"""Affine maps (P, 2, 3)."""

MIN_DETAIL = 0.9
"""Smallest agreement in details: slices of one head reach 0.87, different chests 0.9."""

MIN_SHAPE = 0.97
"""Smallest agreement in shapes, for copies with noise: 0.95 in look-alikes of all kinds."""

MIN_ORDER = 0.85
"""Smallest agreement in the order of grey levels: different chests reach 0.83, others 0.8."""

MIN_ORDER_OF_DETAIL = 0.6
"""The same where details agree: below it they do by a few strong edges, such as those of a frame.

Different screenshots of one program reach 0.5, copies of low quality 0.62.
"""

MIN_SHARE = 0.6
"""Smallest share of the blocks that agree: text, arrows and markers touch up to a third."""

MIN_CENTRE = 0.85
"""Smallest agreement in the inner half, where no frame lies."""

MIN_EVIDENCE = 0.2
"""Smallest evidence; below it pictures are the same only if they agree as plain copies do."""

MAX_DETAIL, MAX_SHAPE, MAX_ORDER = 0.95, 0.985, 0.95
"""Largest limits derived from a set: plain copies reach 0.96 and 0.99."""

MIN_OVERLAP = 0.6
"""Smallest share of the smaller picture that the larger one must contain."""

_FRAME_SCALES = (1.0, 1.2, 1.4)  # of the frame relative to that in a copy with a margin
_OVERLAY = 5  # standard deviations of the difference
_LEAST_OVERLAY = 20  # grey levels
_BOTH_SIGNS = 0.1
_MOST_OVERLAID = 0.25  # share of the picture
_FEWEST_PIXELS = 0.1  # share of the thumbnail
_FEWEST = 20  # look-alikes: fewer tell too little about the set
_TYPICAL = 0.05  # share of the look-alikes that can be aligned where pictures resemble each other
_DEVIATIONS = 4  # above typical look-alikes, in standard deviations of Fisher's z
ORDERED = 0.75
"""Agreement in details below which no tone curve explains the difference, not even a local one."""

COARSE = 24
"""Side of the structures that are aligned first."""

_PROMISING = 0.32  # smallest match of the blocks of two coarse structures
_ALIGNED = 0.38  # the same of two fine ones; half of the unrelated candidates do not reach it
_WINDOW = 9 / 48
_PLAIN = 5  # grey levels from the median of a row in a plain border
_BLOCKS = 4  # along each axis
_FAR = 0.45  # agreement in details below which no noise explains the difference
_AROUND = ((2, 0), (0, 2), (3, 3), (3, -3), (4, 0), (0, 4))  # of a pixel, and the opposite ones
_SCALES = (0.35, 1.35)  # smallest and largest scaling of an axis that counts as a copy


class Match(NamedTuple):
    """Agreement of two thumbnails after alignment.

    Attributes:
        detail: Weighted median of the local correlation of details, [-1, 1].
        shape: The same for shapes; not measured, and that of details, where those decide.
        order: The same for the order of grey levels; 0 where it is not measured.
        share: Share of the 16 blocks that agree, in the better band.
        centre: Agreement in the inner half of what both show, in the better band.
        evidence: Mean weight of the windows, [0, 1]; small if all images share what they agree in.
        pixels: Affine map (2, 3) from pixels of the part to pixels of the whole.
        blocks: Mean correlation of the blocks that were matched, [0, 1]; 0 if none were.
    """

    detail: float
    shape: float
    order: float
    share: float
    centre: float
    evidence: float
    pixels: NDArray[np.float64]
    blocks: float = 0.0


class Limits(NamedTuple):
    """Smallest agreement of the same picture in a set of images."""

    detail: float = MIN_DETAIL
    shape: float = MIN_SHAPE
    order: float = MIN_ORDER


STRICT = Limits(MAX_DETAIL, MAX_SHAPE, MAX_ORDER)
NO_MATCH = Match(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, np.eye(2, 3))


def is_same(match: Match, limits: Limits) -> bool:
    """Return True if two thumbnails show the same picture."""
    if match.evidence < MIN_EVIDENCE:
        limits = STRICT
    if match.detail >= limits.detail:
        agree = match.order >= MIN_ORDER_OF_DETAIL
    else:
        agree = match.shape >= limits.shape or match.order >= limits.order
    return agree and match.share >= MIN_SHARE and match.centre >= MIN_CENTRE


def shared_structure(thumbnails: NDArray[np.uint8]) -> Floats:
    """Return the mean structure (S, S) of up to 500 thumbnails; 0 for fewer than ten."""
    rows = np.linspace(0, len(thumbnails) - 1, min(500, len(thumbnails))).astype(np.intp)
    if len(rows) < 10:
        return np.zeros(thumbnails.shape[1:], np.float32)
    return np.asarray(np.mean([structure(thumbnails[row]) for row in rows], axis=0), np.float32)


@dataclass(frozen=True)
class View:
    """Thumbnail prepared for comparison.

    Attributes:
        thumbnail: uint8 (S, S).
        structure: (S, S).
        shared: Result of `shared_structure` for thumbnails like this one.
    """

    thumbnail: NDArray[np.uint8]
    structure: Floats
    shared: Floats

    @cached_property
    def inside(self) -> Floats:
        """(S, S), 0 in plain borders and beside them, else 1."""
        known = np.ones(self.thumbnail.shape, np.float32)
        for side in range(4):  # views: the first row is that of each side in turn
            levels, inside = np.rot90(self.thumbnail, side), np.rot90(known, side)
            first = _border(levels, inside)
            inside[: first + (first > 0)] = 0
        return known

    @cached_property
    def own(self) -> Floats:
        """(S, S), 1 where it resembles nothing that all images share, down to 0."""
        everywhere = np.ones_like(self.structure)
        if not self.shared.any():
            return everywhere
        common, _ = _window_correlation(self.structure, self.shared, everywhere, floor=0.02)
        return np.asarray(1 - common.clip(-1, 1) ** 2, np.float32)


def _border(levels: NDArray[np.uint8], inside: Floats) -> int:
    """Count the first rows of one grey level, as far as they are inside; 0 if too many are."""
    columns = np.flatnonzero(inside[len(inside) // 2])
    rows = levels[:, columns[0] : columns[-1] + 1].astype(np.int16)
    count = 0
    while count < len(rows) // 3:
        level = np.sort(rows[count])[rows.shape[1] // 2]
        other = (np.abs(rows[count:] - level) > _PLAIN).mean(axis=1) > MAX_WRITTEN
        if other[0]:
            return count
        count += int(other.argmax()) if other.any() else len(rows)
    return 0


def view_of(thumbnail: NDArray[np.uint8], *, shared: Floats) -> View:
    """Prepare a thumbnail for comparison.

    Args:
        thumbnail: uint8 (S, S).
        shared: Result of `shared_structure` for thumbnails like this one.
    """
    return View(thumbnail, structure(thumbnail), shared)


def aligned(
    view: Callable[[int], View],
    coarse: Floats,
    whole: Rows,
    part: Rows,
    query: Rows,
    queries: Sequence[Query] = QUERIES,
    *,
    least: float = 0.0,
) -> list[Match]:
    """Align pairs of thumbnails, and measure their agreement.

    Args:
        view: Returns the view of a thumbnail (S, S).
        coarse: (N, 24, 24) structures of all thumbnails.
        whole: (P,) row of the thumbnail.
        part: (P,) row of the other, which may be a part of it.
        query: (P,) start of the alignment, an index into ``queries``.
        queries: Starts of an alignment.
        least: Correlation of the matched blocks below which the agreement is not measured.
    """
    found = [NO_MATCH] * len(whole)
    sign = np.array([-1 if start.inverted else 1 for start in queries], np.float32)[query]
    pixels = np.stack([in_pixels(start.place, COARSE) for start in queries])[query]
    rows = np.arange(len(whole))
    firsts, seconds = coarse[whole] * sign[:, None, None], coarse[part]
    for reach in (2, 1):
        moved = np.stack([_moved(*pair) for pair in zip(firsts[rows], pixels, strict=True)])
        pixels, matching = _refined(moved, seconds[rows], pixels, grid=_COARSE_GRID, reach=reach)
        rows, pixels = rows[matching > _PROMISING], pixels[matching > _PROMISING]
        if not len(rows):
            return found
    views = {row: view(row) for row in {*whole[rows].tolist(), *part[rows].tolist()}}
    factor = _side(next(iter(views.values()))) / COARSE
    pixels[:, :, 2] = factor * pixels[:, :, 2] + (factor - 1) / 2 * (
        1 - pixels[:, :, :2].sum(axis=2)
    )
    for reach in (2, 1):
        both = [
            _structures(views[int(whole[k])], views[int(part[k])], each)
            for k, each in zip(rows, pixels, strict=True)
        ]
        firsts, seconds = (np.stack(side) for side in zip(*both, strict=True))
        firsts *= sign[rows, None, None]
        pixels, matching = _refined(firsts, seconds, pixels, grid=_FINE_GRID, reach=reach)
        rows, pixels = rows[matching > _ALIGNED], pixels[matching > _ALIGNED]
        if not len(rows):
            return found
    measured = matching[matching > _ALIGNED].tolist()
    for row, each, blocks in zip(rows.tolist(), pixels, measured, strict=True):
        if blocks >= least:
            ends = views[int(whole[row])], views[int(part[row])]
            found[row] = compare(*ends, each, sign=int(sign[row]))._replace(blocks=blocks)
    return found


def _structures(whole: View, part: View, pixels: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Return the structure of both where they overlap, as far as both have that resolution."""
    zoom = 1 / np.sqrt(max(abs(np.linalg.det(pixels[:, :2])), 0.1))
    if zoom < 1.2:
        return _moved(whole.structure, pixels), part.structure
    levels = (view.thumbnail.astype(np.float32) for view in (whole, part))
    first, second = next(levels), _blurred(next(levels), 0.45 * np.sqrt(zoom**2 - 1))
    return structure(_moved(first, pixels)), structure(second)


def aligned_pair(whole: View, part: View, query: Query) -> Match:
    """Do the same with two thumbnails."""
    both = (whole, part)
    coarse = resampled(np.stack([view.structure for view in both]), COARSE)
    return aligned(both.__getitem__, coarse, np.array([0]), np.array([1]), np.array([0]), [query])[
        0
    ]


def compare(whole: View, part: View, pixels: NDArray[np.float64], *, sign: int = 1) -> Match:
    """Measure the agreement of two thumbnails in a given position.

    Args:
        whole: View of the thumbnail (S, S).
        part: View of the other, of the same size.
        pixels: Affine map (2, 3) from pixels of the part to pixels of the whole.
        sign: -1 if one is inverted.
    """
    (a, b), (c, d) = pixels[:, :2].tolist()
    mean, spread = np.hypot(a + d, b - c) / 2, np.hypot(a - d, b + c) / 2
    if not _SCALES[0] <= mean - spread <= mean + spread <= _SCALES[1]:
        return NO_MATCH
    side = _side(part)
    inside = part.inside
    shown = _moved(whole.inside, pixels, cv2.BORDER_CONSTANT) > 0.99
    known = shown.astype(np.float32) * inside
    # plain parts of a picture may pass for a border in one of them
    if (
        known.sum() < MIN_OVERLAP * min(inside.sum(), shown.sum())
        or known.sum() < _FEWEST_PIXELS * side**2
    ):
        return NO_MATCH
    own = np.minimum(_moved(whole.own, pixels), part.own) * known
    first, second = (view.thumbnail.astype(np.float32) for view in (whole, part))
    first = _moved(first, pixels)
    # the one that is enlarged has the lower resolution; compare at that of both
    zoom = 1 / np.sqrt(mean**2 - spread**2)
    if zoom > 1.05:
        second = _blurred(second, 0.45 * np.sqrt(zoom**2 - 1))
    elif zoom < 0.95:
        first = _blurred(first, 0.45 * np.sqrt(zoom**-2 - 1))
    both = known > 0
    distance, limit = _distance(_toned(sign * first, second, both) - second, both)
    plain = both & (np.abs(distance) <= limit)
    first = _toned(sign * first, second, plain)  # again, without what is written on one of them
    known = known * ~_overlaid(first - second, both)

    def agreement(sigma: float, *, ordered: bool = False) -> tuple[float, float, float, float]:
        share = _blurred(known, sigma).clip(1e-3)
        a, b = (v - _blurred(v * known, sigma) / share for v in (first, second))
        local, contrast = _window_correlation(a, b, known, floor=0.05)
        if ordered:
            a, b = (_order(v, known) for v in (first, second))
            a, b = (v - _blurred(v * known, sigma) / share for v in (a, b))
            local = _window_correlation(a, b, known, floor=0.005)[0]
        typical = float(np.sqrt(contrast).sum() / known.sum()) ** 2
        weight = contrast / (contrast + 0.15 * typical + 1) * own
        order = np.argsort(local, axis=None)
        middle = _weighted_median(local, weight * centre, order)
        typical_value = _weighted_median(local, weight, order)
        return typical_value, _share(local, weight), middle, float(weight.sum() / known.sum())

    rows, columns = (np.flatnonzero(known.any(axis=axis)) for axis in (1, 0))
    centre = np.zeros_like(known)
    centre[_inner_half(rows), _inner_half(columns)] = 1
    fine = max(1.0, zoom) * side / 24
    detail, share, middle, evidence = agreement(fine)
    if detail < _FAR:
        return Match(detail, max(detail, 0.0), 0.0, share, middle, evidence, pixels)
    order, *of_order, _ = agreement(fine, ordered=True) if detail >= ORDERED else [0.0] * 4
    if detail >= MAX_DETAIL:
        return Match(detail, detail, order, share, middle, evidence, pixels)
    shape, *of_shape, _ = agreement(side / 8)
    share, middle = np.max([(share, middle), of_shape, of_order], axis=0).tolist()
    return Match(detail, shape, order, share, middle, evidence, pixels)


def _order(levels: Floats, known: Floats) -> Floats:
    """Return the share of the pixels around each that are darker, less that of brighter ones."""
    reach, (height, width) = max(max(way) for way in _AROUND), levels.shape
    step = 0.15 * float(levels[known > 0].std()) + 0.5  # smaller differences count in part
    padded = np.pad(np.stack([levels, known]), ((0, 0), (reach, reach), (reach, reach)), "edge")
    ways = (*_AROUND, *((-y, -x) for y, x in _AROUND))
    others, counted = np.stack(
        [padded[:, reach + y : reach + y + height, reach + x : reach + x + width] for y, x in ways],
        axis=1,
    )
    above = (counted * np.clip((levels - others) / step, -1, 1)).sum(axis=0)
    return np.asarray(above / (counted.sum(axis=0) + 1e-6), np.float32)


def _inner_half(places: Rows) -> slice:
    quarter = len(places) // 4
    return slice(int(places[0]) + quarter, int(places[-1]) + 1 - quarter)


def _distance(difference: Floats, known: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Return the distance of a difference from its median, and what is far beyond the others."""
    distance = difference - _median(difference[known])
    spread = 1.4826 * _median(np.abs(distance[known]))
    return distance, max(_OVERLAY * spread, _LEAST_OVERLAY)


def _median(values: Floats) -> float:
    """Return the median of (N,) values; numpy's own checks take longer than the search."""
    half = len(values) // 2
    middle = np.partition(values, [half - 1, half])[half - 1 : half + 1]
    return float(middle[1] if len(values) % 2 else middle.mean())


def _overlaid(difference: Floats, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where one picture is written on: few pixels, all much brighter or all much darker."""
    distance, limit = _distance(difference, known)
    above, below = distance > limit, distance < -limit
    numbers = sorted(int(np.count_nonzero(far & known)) for far in (above, below))
    written = cv2.dilate((above | below).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if numbers[0] > _BOTH_SIGNS * numbers[1] or written[known].mean() > _MOST_OVERLAID:
        return np.zeros_like(known)
    return written


def _toned(levels: Floats, like: Floats, known: NDArray[np.bool_]) -> Floats:
    """Map grey levels to those of another picture, by the quantiles of what both show."""
    places = np.linspace(0, np.count_nonzero(known) - 1, 65).astype(np.intp)
    mine, others = (np.sort(v[known])[places] for v in (levels, like))
    return np.interp(levels, mine, others).astype(np.float32)


def limits_from(look_alikes: Sequence[Match]) -> Limits:
    """Derive the smallest agreement of the same picture from pairs that only look alike.

    Args:
        look_alikes: Matches of images with others that are among the most similar of the set, but
            not the most similar.
    """
    fewest = max(_FEWEST, _TYPICAL * len(look_alikes))
    limits = []
    look_alikes = [match for match in look_alikes if match.share]  # those that can be aligned
    for values, least, most in (
        ([match.detail for match in look_alikes], MIN_DETAIL, MAX_DETAIL),
        ([m.shape for m in look_alikes if m.shape != m.detail], MIN_SHAPE, MAX_SHAPE),
        ([match.order for match in look_alikes if match.order], MIN_ORDER, MAX_ORDER),
    ):
        if len(values) < fewest:
            limits.append(least)
            continue
        z = np.arctanh(np.clip(values, 0, 0.999))
        middle = float(np.median(z))
        spread = 1.4826 * float(np.median(np.abs(z - middle)))
        limits.append(float(np.clip(np.tanh(middle + _DEVIATIONS * spread), least, most)))
    return Limits(*limits)


def is_confirmed(
    whole: View, part: View, match: Match, limits: Limits, *, inverted: bool = False
) -> bool:
    """Return True if two thumbnails also agree apart from a frame that lies elsewhere."""
    if not (whole.shared.any() or part.shared.any()):
        return True
    views = _with_aligned_frame(whole), _with_aligned_frame(part)
    return is_same(compare(*views, match.pixels, sign=-1 if inverted else 1), limits)


def _with_aligned_frame(view: View) -> View:
    """Align what all images share with a view: in a screenshot a frame lies elsewhere."""
    starts = np.stack([in_pixels(place(scale, scale), _side(view)) for scale in _FRAME_SCALES])
    frames, shown = (np.repeat(m[None], len(starts), axis=0) for m in (view.shared, view.structure))
    for reach in (2, 1):
        moved = np.stack([_moved(*pair) for pair in zip(frames, starts, strict=True)])
        starts, matching = _refined(moved, shown, starts, grid=_FINE_GRID, reach=reach)
    if matching.max() < _ALIGNED:
        return view
    return replace(view, shared=_moved(view.shared, starts[matching.argmax()]))


def _side(view: View) -> int:
    return len(view.thumbnail)


def _moved(
    values: Floats, pixels: NDArray[np.float64], border: int = cv2.BORDER_REPLICATE
) -> Floats:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = values.shape[::-1]
    warp = cv2.warpAffine(values, pixels, size, flags=flags, borderMode=border)
    return np.asarray(warp, np.float32)


_COARSE_GRID, _FINE_GRID = 4, 5  # blocks along each axis


def _refined(
    moved: Floats, parts: Floats, pixels: Maps, *, grid: int, reach: int
) -> tuple[Maps, Floats]:
    """Improve affine maps by matching blocks.

    Args:
        moved: (P, S, S), the wholes moved by the maps.
        parts: (P, S, S).
        pixels: (P, 2, 3) maps from pixels of the part to pixels of the whole.
        grid: Number of blocks along each axis.
        reach: Largest shift of a block, pixels.

    Returns:
        The improved maps, and (P,) the weighted mean of the correlation of blocks that follow them.
    """
    shift, peak, power = _block_shifts(moved, parts, grid=grid, reach=reach)
    weight = power / (power + 0.1 * power.mean(axis=1, keepdims=True) + 1e-3)
    size, half = parts.shape[1] // grid, parts.shape[1] / 2
    middles = (size * (np.arange(grid) + 0.5) + parts.shape[1] % grid // 2) / half - 1
    at = np.stack([*np.meshgrid(middles, middles), np.ones((grid, grid))], axis=2).reshape(-1, 3)
    trust = weight * (peak - 0.3).clip(0) ** 2
    now = trust
    for limit in (2, 2, 1.2, 1.2):
        normal = np.einsum("pg,gi,gj->pij", now, at, at)
        normal += (now.sum(axis=1)[:, None, None] + 1e-3) * np.diag([1e-3, 1e-3, 1e-5])
        step = np.linalg.solve(normal, np.einsum("pg,gi,pgk->pik", now, at, shift))
        far = np.linalg.norm(shift - at @ step, axis=2)
        now = trust * (1 - (far / limit) ** 2).clip(0) ** 2
    linear, offset = step[:, :2].transpose(0, 2, 1) / half, step[:, 2]
    offset = offset - linear.sum(axis=2) * (half - 0.5)
    improved = pixels.copy()
    improved[:, :, :2] += pixels[:, :, :2] @ linear
    improved[:, :, 2] += np.einsum("pij,pj->pi", pixels[:, :, :2], offset)
    matching = (weight * peak.clip(0) * (far < 1)).sum(axis=1) / weight.sum(axis=1).clip(1e-6)
    return improved, np.asarray(matching, np.float32)


def _block_shifts(
    wholes: Floats, parts: Floats, *, grid: int, reach: int
) -> tuple[Maps, Floats, Floats]:
    """Return shifts (P, G, 2) in x and y, their correlation and the variance of blocks (P, G).

    The variance is the geometric mean of both: what only one of them shows proves nothing.
    """
    count, side = parts.shape[:2]
    size, steps = side // grid, 2 * reach + 1
    first = (side - size * grid) // 2
    padded = np.pad(wholes, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    of, down, across = padded.strides
    windows = np.lib.stride_tricks.as_strided(
        padded[:, first:, first:],
        (count, grid, grid, steps, steps, size, size),
        (of, size * down, size * across, down, across, down, across),
    ).reshape(count, grid * grid, steps * steps, size * size)
    own = parts[:, first : first + size * grid, first : first + size * grid]
    own = own.reshape(count, grid, size, grid, size).transpose(0, 1, 3, 2, 4)
    own = own.reshape(count, grid * grid, size * size)
    own = own - own.mean(axis=2, keepdims=True)
    product, total = np.moveaxis(windows @ np.stack([own, np.ones_like(own)], axis=3), 3, 0)
    spread = np.einsum("pgsn,pgsn->pgs", windows, windows) - total**2 / size**2
    power = np.einsum("pgn,pgn->pg", own, own)
    alike = product / np.sqrt(spread.clip(0) * power[:, :, None] + 1e-3)
    best = alike.argmax(axis=2)
    y, x = np.divmod(best, steps)

    def at(row: Rows, column: Rows) -> Floats:
        index = row.clip(0, steps - 1) * steps + column.clip(0, steps - 1)
        return np.take_along_axis(alike, index[:, :, None], axis=2)[:, :, 0]

    peak = at(y, x)

    def between(before: Floats, after: Floats) -> Maps:  # vertex of the parabola
        bend = np.minimum(before - 2 * peak + after, -1e-4)
        return np.asarray((before - after) / (2 * bend)).clip(-0.5, 0.5)

    fine_x = x - reach + between(at(y, x - 1), at(y, x + 1))
    fine_y = y - reach + between(at(y - 1, x), at(y + 1, x))
    both = np.sqrt(power * np.take_along_axis(spread, best[:, :, None], axis=2)[:, :, 0].clip(0))
    return np.stack([fine_x, fine_y], axis=2).astype(np.float64), peak, both / size**2


def _blurred(image: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(float(sigma), 0.05)), np.float32)


def _window_correlation(
    a: Floats, b: Floats, known: Floats, *, floor: float
) -> tuple[Floats, Floats]:
    """Return correlation, and product of contrasts, in the window around each pixel."""
    window = max(3, round(_WINDOW * len(a)))
    a, b = a * known, b * known
    products = np.stack([known, a * a, b * b, a * b], axis=2)
    means = cv2.blur(products, (window, window), borderType=cv2.BORDER_CONSTANT)
    share, of_a, of_b, of_both = np.moveaxis(means, 2, 0)
    share = np.maximum(share, 1e-3)
    contrast = np.sqrt(np.maximum(of_a / share, 0) * np.maximum(of_b / share, 0)) * known
    return of_both / share / (contrast + floor), contrast


def _weighted_median(values: Floats, weight: Floats, order: Rows) -> float:
    """Return the weighted median of values in rising order; 0 where hardly anything has weight."""
    sums = np.cumsum(weight.ravel()[order])
    if sums[-1] < 1:
        return 0.0
    return float(values.ravel()[order[np.searchsorted(sums, sums[-1] / 2)]])


def _share(local: Floats, weight: Floats) -> float:
    """Return the share of the blocks that agree; 0 where hardly anything has weight.

    A block counts if it holds a tenth of its area by weight, and agrees if most of that has a local
    correlation of 0.6 or more.
    """
    total = float(weight.sum())
    if total < 1:
        return 0.0
    side = len(local) // _BLOCKS
    both = np.stack([weight, weight * (local >= 0.6)])[:, : side * _BLOCKS, : side * _BLOCKS]
    held, agreeing = both.reshape(2, _BLOCKS, side, _BLOCKS, side).sum(axis=(2, 4))
    counted = held > 0.1 * side**2
    if not counted.any():
        return float(agreeing.sum() / total)
    return float((2 * agreeing > held)[counted].mean())


IDENTITY = Query(place())


def shift_between(whole: View, part: View) -> Query:
    """Return the shift of a part as the start of an alignment, by phase correlation."""
    side = _side(part)
    window = cv2.createHanningWindow((side, side), cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(part.structure, whole.structure, window)
    return Query(place(y=2 * y / side, x=2 * x / side))
