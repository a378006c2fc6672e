"""ROC and precision-recall curves from a histogram of scores: fixed length, no sorting.

A histogram is int64 (2, B): row 0 counts the negatives, row 1 the positives, and column b those
with a score in [b/B, (b+1)/B), the last column with 1 as well. Scores within one bin are tied, so
the curves are exact for scores rounded down to the bin. Counts are added as integers and divided
as float32, which keeps every value within 1e-6 on devices without float64.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def roc_curve(histogram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rates of false and true positives at every threshold, from the strictest down.

    Args:
        histogram: Counts of negatives and positives, (2, B).

    Returns:
        False positive rate, true positive rate and threshold, each float32 (B + 1,): from (0, 0)
        at threshold 1, where nothing is predicted, to (1, 1) at threshold 0, where everything is.
        A rate without anything to count is NaN.
    """
    false_positives, true_positives = _counts_above(histogram)
    return (
        false_positives / false_positives[-1],
        true_positives / true_positives[-1],
        _thresholds(histogram),
    )


def auroc(histogram: Tensor) -> Tensor:
    """Area under the ROC curve, by trapezoids.

    Equal to the share of (negative, positive) pairs in which the positive scores higher, pairs
    in one bin counting half.

    Args:
        histogram: Counts of negatives and positives, (2, B).

    Returns:
        A float32 scalar in [0, 1]; NaN unless both classes are present.
    """
    _, true_positive_rate, _ = roc_curve(histogram)
    # widths from the counts themselves: differences of rounded rates would lose digits
    widths = histogram[0].flip(0).float() / histogram[0].sum().float()
    area = (widths * (true_positive_rate[1:] + true_positive_rate[:-1]) / 2).sum()
    return area.clamp(max=1)


def precision_recall_curve(histogram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision and recall at every threshold, from the strictest down.

    Args:
        histogram: Counts of negatives and positives, (2, B).

    Returns:
        Precision, recall and threshold, each float32 (B + 1,), recall rising from 0 to 1.
        Precision is 1 where nothing is predicted; recall is NaN without positives.
    """
    false_positives, true_positives = _counts_above(histogram)
    predicted = false_positives + true_positives
    precision = torch.where(predicted > 0, true_positives / predicted, 1.0)
    return precision, true_positives / true_positives[-1], _thresholds(histogram)


def average_precision(histogram: Tensor) -> Tensor:
    """Precision averaged over the positives, each at the threshold of its own bin.

    Args:
        histogram: Counts of negatives and positives, (2, B).

    Returns:
        A float32 scalar in [0, 1]; NaN without positives.
    """
    precision, _, _ = precision_recall_curve(histogram)
    positives = histogram[1].flip(0).float()
    return (positives / histogram[1].sum().float() * precision[1:]).sum().clamp(max=1)


def _counts_above(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """Negatives and positives at or above each threshold, float32 (B + 1,) each."""
    if histogram.ndim != 2 or len(histogram) != 2:
        raise ValueError(f"expected a histogram of shape (2, B), got {tuple(histogram.shape)}")
    negatives, positives = F.pad(histogram.flip(1).cumsum(1), (1, 0)).float()
    return negatives, positives


def _thresholds(histogram: Tensor) -> Tensor:
    num_bins = histogram.shape[1]
    bins = torch.arange(num_bins, -1, -1, dtype=torch.float32, device=histogram.device)
    return bins / num_bins
