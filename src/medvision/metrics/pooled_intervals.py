"""Bootstrap intervals of scores that are pooled over the pixels of all images."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.conventions import EPSILON
from medvision.metrics.intervals import numbered, percentile_interval, resample_counts


def pooled_score_intervals(
    confusion: ArrayLike,
    histogram: ArrayLike,
    *,
    groups: Sequence[Hashable] | NDArray[np.generic] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Expanded percentile bootstrap intervals of ``pooled_scores``.

    The pixels of one image resemble each other and are no sample. Whole images are therefore
    resampled with replacement, with ``groups`` whole groups are; their counts are added, and every
    score is computed again from the sums. Resamples in which it is undefined are left out. Tails
    are expanded as in ``bootstrap_mean_interval``, with n the number of images (or groups). An
    image without a counted pixel is no image.

    Images weigh by their pixels: where a few of them hold most of the foreground, a score rests
    on fewer images than n and its interval is too narrow. With foreground in about 12 of 60
    images, simulated 95 % intervals of recall held the true value in 91 % of the cases.

    Where every image (or group) scores the same, as in a precision of exactly 1, a bootstrap shows
    no spread although there is doubt: both ends are then the score. Unlike in
    ``classification_intervals`` no exact interval takes their place: the pixels of an image are no
    independent trials, and images differ in weight.

    Args:
        confusion: Pixels of every image by true and predicted class, integers (N, K, K), as from
            ``pixel_confusion``.
        histogram: Pixels of every image by true class (background, foreground) and bin of the
            foreground probability, integers (N, 2, B), as from ``pixel_histogram``.
        groups: The group of each image, such as its patient.
        confidence: Wished coverage, in (0, 1).
        num_resamples: Number of resamples.
        seed: Equal seeds give equal intervals.

    Returns:
        Low and high end in [0, 1] of dice_global, iou_global, accuracy, precision, recall,
        specificity and auroc. With one image (or group) both ends are the score; both are NaN
        where the score itself is.

    Raises:
        ValueError: If an argument is not of that kind, or the two counts are of other pixels.

    References:
        Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 2015,
        https://arxiv.org/abs/1411.5279
    """
    pixels, bins = _counts(confusion, "confusion"), _counts(histogram, "histogram")
    _check(pixels, bins)
    if groups is not None and len(groups) != len(pixels):
        raise ValueError(f"expected {len(pixels)} groups, got {len(groups)}")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")

    counted: NDArray[np.bool_] = pixels.sum((1, 2)) > 0
    pixels, bins = pixels[counted], bins[counted]
    if groups is not None:
        row = numbered([group for group, keep in zip(groups, counted, strict=True) if keep])
        pixels, bins = _group_sums(pixels, row), _group_sums(bins, row)

    resampled = _resampled_scores(pixels, bins, num_resamples, np.random.default_rng(seed))
    return {
        name: percentile_interval(values, len(pixels), confidence)
        for name, values in resampled.items()
    }


def pooled_scores(confusion: ArrayLike, histogram: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """The scores of ``SegmentationScores`` that are pooled over pixels, in float64.

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
    either = predicted + labelled
    dice = (2 * overlap + EPSILON) / (either + EPSILON)
    iou = (overlap + EPSILON) / (either - overlap + EPSILON)
    return {
        "dice_global": np.where(total > 0, dice[..., 1:].mean(-1), np.nan),
        "iou_global": np.where(total > 0, iou[..., 1:].mean(-1), np.nan),
        "accuracy": _ratio(overlap.sum(-1), total),
        "precision": _foreground_mean(_ratio(overlap, predicted)),
        "recall": _foreground_mean(_ratio(overlap, labelled)),
        "specificity": _foreground_mean(_ratio(rest - predicted + overlap, rest)),
        "auroc": _auroc(np.asarray(histogram, dtype=np.float64)),
    }


def _resampled_scores(
    pixels: NDArray[np.int64],
    bins: NDArray[np.int64],
    num_resamples: int,
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float64]]:
    """The scores of every resample of the rows, (R,) each; those of no rows, once."""
    size = len(pixels)
    if size == 0:
        return {name: x[None] for name, x in pooled_scores(pixels.sum(0), bins.sum(0)).items()}
    # as float64, which BLAS multiplies: sums of counts are exact below 2**53, in any order
    flat = np.concatenate([pixels.reshape(size, -1), bins.reshape(size, -1)], axis=1, dtype=float)
    cut = pixels[0].size
    parts = []
    for weights in resample_counts(size, num_resamples, rng, width=size + flat.shape[1]):
        sums = weights.astype(np.float64) @ flat
        parts.append(
            pooled_scores(
                sums[:, :cut].reshape(-1, *pixels.shape[1:]),
                sums[:, cut:].reshape(-1, *bins.shape[1:]),
            )
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _auroc(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of (negative, positive) pairs in which the positive is higher, ties counting half."""
    negatives, positives = histogram[..., 0, :], histogram[..., 1, :]
    num_negatives, num_positives = negatives.sum(-1), positives.sum(-1)
    higher = num_positives[..., None] - positives.cumsum(-1)
    won = (negatives * (higher + positives / 2)).sum(-1)
    return np.minimum(_ratio(won, num_negatives * num_positives), 1)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """``part / whole``, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _foreground_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the classes but the first for which values (..., K) are defined, NaN without."""
    defined = ~np.isnan(values[..., 1:])
    return _ratio(np.where(defined, values[..., 1:], 0).sum(-1), defined.sum(-1).astype(float))


def _group_sums(counts: NDArray[np.int64], row: NDArray[np.intp]) -> NDArray[np.int64]:
    """Sum of the counts (N, ...) of each group, where ``row`` is the number of its group."""
    sums = np.zeros((len(np.unique(row)), *counts.shape[1:]), dtype=np.int64)
    np.add.at(sums, row, counts)
    return sums


def _counts(values: ArrayLike, name: str) -> NDArray[np.int64]:
    counts = np.asarray(values)
    if counts.dtype.kind not in "iu" or counts.min(initial=0) < 0:
        raise ValueError(f"expected a {name} of integers from 0 up")
    return counts.astype(np.int64)


def _check(pixels: NDArray[np.int64], bins: NDArray[np.int64]) -> None:
    if pixels.ndim != 3 or pixels.shape[1] != pixels.shape[2] or pixels.shape[1] < 2:
        raise ValueError(f"expected a confusion of shape (N, K, K), K >= 2, got {pixels.shape}")
    if bins.ndim != 3 or bins.shape[:2] != (len(pixels), 2):
        raise ValueError(f"expected a histogram of shape ({len(pixels)}, 2, B), got {bins.shape}")
    background, foreground = pixels[:, 0].sum(1), pixels[:, 1:].sum((1, 2))
    if not np.array_equal(bins.sum(2), np.stack([background, foreground], axis=1)):
        raise ValueError("expected confusion and histogram to count the same pixels")
