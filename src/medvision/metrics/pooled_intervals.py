"""Intervals of scores pooled over the pixels of all images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.classification import mean_over_defined
from medvision.metrics.conventions import EPSILON, dice_and_iou
from medvision.metrics.intervals import (
    UNKNOWN,
    Floats,
    Groups,
    Interval,
    group_numbers,
    jackknife,
    jackknife_variance,
    mean_interval,
    mean_of_intervals,
)


def pooled_score_intervals(
    confusion: ArrayLike,
    histogram: ArrayLike,
    *,
    groups: Groups = None,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of ``pooled_scores``.

    The pixels of one image resemble each other and are not independent samples. A pooled score is
    the mean of the scores of the images (with ``groups``, of whole groups), weighted by their
    pixels: a recall is weighted by the pixels of the lesion. The interval is therefore
    ``mean_interval`` with these weights. A few images that hold most of the foreground count as
    few. With several foreground classes it is ``mean_of_intervals`` of theirs. That of the AUROC
    rests on the share of the background pixels below the foreground pixels of each image, with the
    variance by ``jackknife`` over images.

    Args:
        confusion: Pixels of every image by true and predicted class, integers (N, K, K), as from
            ``pixel_confusion``.
        histogram: Pixels of every image by true class (background, foreground) and bin of the
            foreground probability, integers (N, 2, B), as from ``pixel_histogram``.
        groups: Group of each image, such as its patient.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        Low and high end in [0, 1] of dice_global, iou_global, accuracy, precision, recall,
        specificity and auroc; both NaN for a score that is undefined or to which fewer than two
        images (or groups) contribute.

    Raises:
        ValueError: If an argument is invalid, or the two counts cover different pixels.
    """
    pixels, bins = _counts(confusion, "confusion"), _counts(histogram, "histogram")
    _check(pixels, bins)
    group = group_numbers(groups, len(pixels))
    if groups is not None and len(pixels):
        units = [
            np.zeros((group.max() + 1, *counts.shape[1:]), np.int64) for counts in (pixels, bins)
        ]
        for sums, counts in zip(units, (pixels, bins), strict=True):
            np.add.at(sums, group, counts)
        pixels, bins = units
    counted = pixels.sum((1, 2)) > 0
    pixels, bins = pixels[counted], bins[counted]
    overlap = np.diagonal(pixels, axis1=1, axis2=2).astype(np.float64)
    predicted, labelled = pixels.sum(1).astype(np.float64), pixels.sum(2).astype(np.float64)
    total = pixels.sum((1, 2)).astype(np.float64)
    rest = total[:, None] - labelled
    parts = {
        "dice_global": (2 * overlap, predicted + labelled),
        "iou_global": (overlap, predicted + labelled - overlap),
        "precision": (overlap, predicted),
        "recall": (overlap, labelled),
        "specificity": (rest - predicted + overlap, rest),
    }
    found = {
        name: _mean_ratio(over[:, 1:], under[:, 1:], EMPTY.get(name), confidence)
        for name, (over, under) in parts.items()
    }
    found["accuracy"] = _ratio(overlap.sum(1), total, confidence)
    found["auroc"] = _auroc_interval(bins.astype(np.float64), confidence)
    return {name: found[name] for name in NAMES}


NAMES = ("dice_global", "iou_global", "accuracy", "precision", "recall", "specificity", "auroc")

EMPTY = {"dice_global": 1.0, "iou_global": 1.0}
"""Score of a class that is neither labelled nor predicted; other scores leave it out."""


def _ratio(over: Floats, under: Floats, confidence: float) -> Interval:
    """Interval of the ratio of two sums over images, (N,) each."""
    there = under > 0
    return mean_interval(over[there] / under[there], weights=under[there], confidence=confidence)


def _mean_ratio(over: Floats, under: Floats, empty: float | None, confidence: float) -> Interval:
    """Interval of the mean over K classes of such ratios, from (N, K).

    Args:
        over: Numerators.
        under: Denominators.
        empty: Score of a class without a denominator; None if it is left out.
        confidence: Nominal coverage, in (0, 1).
    """
    sums, totals = over.sum(axis=0), under.sum(axis=0)
    there = totals > 0
    if not there.any():
        return UNKNOWN
    values = [float(value) for value in sums[there] / totals[there]]
    ends = [_ratio(over[:, k], under[:, k], confidence) for k in np.flatnonzero(there)]
    if len(values) == 1 and (there.all() or empty is None):
        return ends[0]
    if np.isnan(ends).any():
        return UNKNOWN
    with np.errstate(invalid="ignore", divide="ignore"):  # 0/0: a class in one image only
        left_out = (sums - over)[:, there] / (totals - under)[:, there]
        correlation = np.nan_to_num(np.corrcoef(left_out.T)).reshape(len(values), len(values))
    if empty is not None and not there.all():
        missing = int((~there).sum())
        values, ends = values + [empty] * missing, ends + [(empty, empty)] * missing
        correlation = np.pad(correlation, (0, missing))
    np.fill_diagonal(correlation, 1)
    return mean_of_intervals(values, ends, correlation)


def _auroc_interval(bins: Floats, confidence: float) -> Interval:
    """Interval of the AUROC of pixels from their bins, (N, 2, B)."""
    negatives, positives = bins[:, 0], bins[:, 1]
    num_negatives, num_positives = negatives.sum(), positives.sum()
    there = positives.sum(axis=1) > 0
    if not num_negatives or not num_positives:
        return UNKNOWN
    every = negatives.sum(axis=0)
    below = (every.cumsum() - every / 2) / num_negatives  # share below each bin, ties counting half
    sizes = positives[there].sum(axis=1)
    flat = bins.reshape(len(bins), -1)
    with np.errstate(invalid="ignore"):  # 0/0: all of the foreground is in one image
        left_out = jackknife(
            lambda times: {"auroc": _auroc((times @ flat).reshape(-1, *bins.shape[1:]))},
            np.arange(len(bins)),
        )
    variance = jackknife_variance(left_out["auroc"])
    placed = np.minimum(positives[there] @ below / sizes, 1)
    return mean_interval(
        placed,
        weights=sizes,
        variance=None if np.isnan(variance) else variance,
        confidence=confidence,
    )


def pooled_scores(confusion: ArrayLike, histogram: ArrayLike) -> dict[str, Floats]:
    """Compute the pixel-pooled scores of ``SegmentationScores`` in float64.

    Args:
        confusion: Pixels by true and predicted class, (..., K, K).
        histogram: Pixels by true class (background, foreground) and bin, (..., 2, B).

    Returns:
        dice_global, iou_global, accuracy, precision, recall, specificity and auroc in [0, 1], each
        (...); NaN where there is nothing to count.
    """
    pixels = np.asarray(confusion, dtype=np.float64)
    overlap = np.diagonal(pixels, axis1=-2, axis2=-1)
    predicted, labelled, total = pixels.sum(-2), pixels.sum(-1), pixels.sum((-2, -1))
    rest = total[..., None] - labelled
    dice, iou = dice_and_iou(overlap, predicted, labelled, smooth=EPSILON)[..., 1:].mean(-1)
    with np.errstate(invalid="ignore"):  # 0/0 is NaN: undefined
        precision = np.where((predicted == 0) & (labelled > 0), 0.0, overlap / predicted)
        return {
            "dice_global": np.where(total > 0, dice, np.nan),
            "iou_global": np.where(total > 0, iou, np.nan),
            "accuracy": overlap.sum(-1) / total,
            "precision": mean_over_defined(precision[..., 1:]),
            "recall": mean_over_defined((overlap / labelled)[..., 1:]),
            "specificity": mean_over_defined(((rest - predicted + overlap) / rest)[..., 1:]),
            "auroc": _auroc(np.asarray(histogram, dtype=np.float64)),
        }


def _auroc(histogram: Floats) -> Floats:
    """Share of (negative, positive) pairs in which the positive is higher, ties counting half."""
    negatives, positives = histogram[..., 0, :], histogram[..., 1, :]
    num_negatives, num_positives = negatives.sum(-1), positives.sum(-1)
    higher = num_positives[..., None] - positives.cumsum(-1)
    won = (negatives * (higher + positives / 2)).sum(-1)
    return np.minimum(won / (num_negatives * num_positives), 1)


def _counts(values: ArrayLike, name: str) -> NDArray[np.int64]:
    counts = np.asarray(values)
    if counts.dtype.kind not in "iu" or counts.min(initial=0) < 0:
        raise ValueError(f"expected a {name} of non-negative integers")
    return counts.astype(np.int64)


def _check(pixels: NDArray[np.int64], bins: NDArray[np.int64]) -> None:
    if pixels.ndim != 3 or pixels.shape[1] != pixels.shape[2] or pixels.shape[1] < 2:
        raise ValueError(f"expected a confusion of shape (N, K, K), K >= 2, got {pixels.shape}")
    if bins.ndim != 3 or bins.shape[:2] != (len(pixels), 2):
        raise ValueError(f"expected a histogram of shape ({len(pixels)}, 2, B), got {bins.shape}")
    background, foreground = pixels[:, 0].sum(1), pixels[:, 1:].sum((1, 2))
    if not np.array_equal(bins.sum(2), np.stack([background, foreground], axis=1)):
        raise ValueError("expected confusion and histogram to count the same pixels")
