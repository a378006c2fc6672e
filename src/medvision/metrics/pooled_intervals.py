"""Bootstrap intervals of scores pooled over the pixels of all images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.classification import mean_over_defined
from medvision.metrics.conventions import EPSILON, dice_and_iou
from medvision.metrics.intervals import (
    Floats,
    Groups,
    group_numbers,
    percentile_interval,
    resampled_scores,
)


def pooled_score_intervals(
    confusion: ArrayLike,
    histogram: ArrayLike,
    *,
    groups: Groups = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Expanded percentile bootstrap intervals of ``pooled_scores``.

    The pixels of one image resemble each other and are not independent samples. Whole images (with
    ``groups``, whole groups) are therefore resampled with replacement, and every score is computed
    again from the summed counts. Resamples in which a score is undefined are left out. Tails are
    expanded as in ``bootstrap_mean_interval``, with n the number of images (or groups). Images
    without a counted pixel are ignored.

    Images are weighted by their pixels: where a few hold most of the foreground, a score rests on
    fewer images than n and its interval is too narrow. With foreground in about 12 of 60 images,
    simulated 95 % intervals of recall contained the true value in 91 % of the cases.

    Where every image (or group) has the same score, such as a precision of exactly 1, a bootstrap
    shows no spread although there is uncertainty: both ends are then the score. Unlike in
    ``classification_intervals``, no exact interval replaces it: the pixels of an image are not
    independent trials, and images differ in weight.

    Args:
        confusion: Pixels of every image by true and predicted class, integers (N, K, K), as from
            ``pixel_confusion``.
        histogram: Pixels of every image by true class (background, foreground) and bin of the
            foreground probability, integers (N, 2, B), as from ``pixel_histogram``.
        groups: Group of each image, such as its patient.
        confidence: Nominal coverage, in (0, 1).
        num_resamples: Number of resamples.
        seed: Random seed; equal seeds give equal intervals.

    Returns:
        Low and high end in [0, 1] of dice_global, iou_global, accuracy, precision, recall,
        specificity and auroc. With one image (or group) both ends are the score; both are NaN
        where the score itself is.

    Raises:
        ValueError: If an argument is invalid, or the two counts cover different pixels.

    References:
        Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 2015,
        https://arxiv.org/abs/1411.5279
    """
    pixels, bins = _counts(confusion, "confusion"), _counts(histogram, "histogram")
    _check(pixels, bins)
    group = group_numbers(groups, len(pixels))
    counted: NDArray[np.bool_] = pixels.sum((1, 2)) > 0
    pixels, bins = pixels[counted], bins[counted]
    if not len(pixels):
        scores = pooled_scores(pixels.sum(0), bins.sum(0))
        return {name: (float(value), float(value)) for name, value in scores.items()}
    # float64 is multiplied by BLAS; sums of counts are exact below 2**53, in any order
    rows = [counts.reshape(len(counts), -1) for counts in (pixels, bins)]
    flat, cut = np.concatenate(rows, axis=1, dtype=np.float64), pixels[0].size
    if groups is not None:
        row = group_numbers(group[counted], len(pixels))
        flat, images = np.zeros((row.max() + 1, flat.shape[1])), flat
        np.add.at(flat, row, images)

    def scores_of(times: Floats) -> dict[str, Floats]:
        sums = times @ flat
        return pooled_scores(
            sums[:, :cut].reshape(-1, *pixels.shape[1:]), sums[:, cut:].reshape(-1, *bins.shape[1:])
        )

    size, rng = len(flat), np.random.default_rng(seed)
    resampled = resampled_scores(scores_of, size, num_resamples, rng, width=size + flat.shape[1])
    return {
        name: percentile_interval(values, size, confidence) for name, values in resampled.items()
    }


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
        return {
            "dice_global": np.where(total > 0, dice, np.nan),
            "iou_global": np.where(total > 0, iou, np.nan),
            "accuracy": overlap.sum(-1) / total,
            "precision": mean_over_defined((overlap / predicted)[..., 1:]),
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
