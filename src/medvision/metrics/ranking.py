"""Ranking of positives above negatives: AUROC, average precision and their curves.

Exact at image level, with one threshold per distinct score; pure NumPy in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def class_ranks(probability: Floats) -> Floats:
    """Rank images by the probability of each class, more finely than its last digits.

    Near 1, numbers are too coarse to tell confident images apart; the probability of all other
    classes is small there and not. Elsewhere it is ignored, because its rounding would order images
    that are equal. For two classes, class 0 is ranked as class 1 in reverse.

    Args:
        probability: Finite probabilities (N, K), rows summing to 1.

    Returns:
        Ranks (N, K) of each column, from 0 or less, equal for equal images.
    """
    if probability.shape[1] == 2:
        ranks = _ranks(probability[:, 1], probability[:, 0])
        return np.stack([-ranks, ranks], axis=1)
    columns = range(probability.shape[1])
    others = [np.delete(probability, k, axis=1).sum(axis=1) for k in columns]
    return np.stack([_ranks(probability[:, k], others[k]) for k in columns], axis=1)


def _ranks(probability: Floats, others: Floats) -> Floats:
    others = np.where(probability > _NEAR_ONE, -others, 0.0)
    order = np.lexsort((others, probability))
    steps = (np.diff(probability[order]) > 0) | (np.diff(others[order]) > 0)
    ranks = np.zeros(len(order))
    ranks[order[1:]] = np.cumsum(steps)
    return ranks


_NEAR_ONE = 1 - 1e-4


class Ranking:
    """Positives and negatives by score, sorted once so that resamples need no sorting.

    Args:
        score: Finite numbers (N,), larger for more positive.
        positive: bool (N,).
    """

    def __init__(self, score: Floats, positive: Bools) -> None:
        order = np.argsort(score, kind="stable")
        self._positives = order[positive[order]]
        self._negatives = order[~positive[order]]
        scores = score[self._positives]
        # per positive: number of negatives that score less, number that score at most as much, ...
        self._less = np.searchsorted(score[self._negatives], scores, side="left")
        self._at_most = np.searchsorted(score[self._negatives], scores, side="right")
        self._positives_less = np.searchsorted(scores, scores, side="left")

    def areas(self, weights: Floats) -> tuple[Floats, Floats]:
        """Compute AUROC and average precision of every resample.

        AUROC is the share of (negative, positive) pairs in which the positive scores higher, ties
        counting half. Average precision is the mean over the positives of the precision among all
        images that score at least as high, as in scikit-learn.

        Args:
            weights: Number of times each image occurs in each resample, (R, N).

        Returns:
            float64 (R,) each, in [0, 1]. AUROC is NaN unless both classes are present, average
            precision without positives.
        """
        positives = weights[:, self._positives]
        positives_before = _sums_before(positives)
        negatives_before = _sums_before(weights[:, self._negatives])
        num_positives, num_negatives = positives_before[:, -1], negatives_before[:, -1]

        less = negatives_before[:, self._less]
        at_most = negatives_before[:, self._at_most]
        found = num_positives[:, None] - positives_before[:, self._positives_less]
        predicted = found + num_negatives[:, None] - less
        precision = found / np.maximum(predicted, 1)  # 0/0 only where the positive is not drawn
        with np.errstate(invalid="ignore"):  # 0/0 is NaN: undefined
            won = np.einsum("rp,rp->r", positives, less + at_most)
            auroc = won / (2 * num_positives * num_negatives)
            average_precision = np.einsum("rp,rp->r", positives, precision) / num_positives
        return auroc, average_precision


def placements(score: Floats, positive: Bools) -> Floats:
    """Share of the other class that each image is ranked correctly against, ties counting half.

    Their mean over the positives is the AUROC, and so is their mean over the negatives.

    Args:
        score: Finite numbers (N,), larger for more positive.
        positive: bool (N,).

    Returns:
        (N,) in [0, 1]; NaN where the other class is empty.
    """
    found = np.full(len(score), np.nan)
    for side, sign in ((positive, 1), (~positive, -1)):
        others = np.sort(sign * score[~side])
        below, up_to = (np.searchsorted(others, sign * score[side], at) for at in ("left", "right"))
        found[side] = (below + up_to) / (2 * len(others)) if len(others) else np.nan
    return found


def roc_points(score: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Compute false and true positive rates at every distinct score, from the strictest down.

    Args:
        score: Finite numbers (N,), larger for more positive.
        positive: bool (N,).

    Returns:
        False positive rate, true positive rate and threshold (predicted: score >= threshold), each
        (T + 1,) for T distinct scores: from (0, 0) at threshold infinity to (1, 1). A rate
        without anything to count is NaN.
    """
    false_positives, true_positives, threshold = _counts_above(score, positive)
    with np.errstate(invalid="ignore"):
        return (
            false_positives / false_positives[-1],
            true_positives / true_positives[-1],
            threshold,
        )


def precision_recall_points(score: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Compute precision and recall at every distinct score, from the strictest down.

    Args:
        score: Finite numbers (N,), larger for more positive.
        positive: bool (N,).

    Returns:
        Precision, recall and threshold (predicted: score >= threshold), each (T + 1,) for T
        distinct scores, recall rising from 0 to 1. The first point, threshold infinity, predicts
        nothing, and its precision is set to 1; recall is NaN without positives.
    """
    false_positives, true_positives, threshold = _counts_above(score, positive)
    predicted = false_positives + true_positives
    precision = np.divide(
        true_positives, predicted, out=np.ones_like(predicted), where=predicted > 0
    )
    with np.errstate(invalid="ignore"):
        return precision, true_positives / true_positives[-1], threshold


def counts_at_least(
    score: ArrayLike, positive: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Count negatives and positives that score at least as much as each distinct score, rising.

    Raises:
        ValueError: If the shapes differ or a score is not finite.
    """
    scores, labels = np.asarray(score, dtype=np.float64), np.asarray(positive)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"expected score and label of one shape (N,), got {scores.shape} and {labels.shape}"
        )
    if labels.dtype != np.bool_:
        raise ValueError(f"expected bool labels, got {labels.dtype}")
    if not np.isfinite(scores).all():
        raise ValueError("expected finite scores, got NaN or infinity")
    distinct, place = np.unique(scores, return_inverse=True)
    negatives, positives = (
        np.bincount(place[chosen], minlength=len(distinct))[::-1].cumsum()[::-1]
        for chosen in (~labels, labels)
    )
    return negatives, positives, distinct


def _counts_above(score: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Count false and true positives per threshold, from the strictest down, (T + 1,) each."""
    negatives, positives, threshold = counts_at_least(score, positive)
    return (
        np.append(negatives, 0)[::-1].astype(np.float64),
        np.append(positives, 0)[::-1].astype(np.float64),
        np.append(threshold, np.inf)[::-1],
    )


def _sums_before(weights: Floats) -> Floats:
    """Sum the weights before each column, and of all: (R, M + 1) from (R, M)."""
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums
