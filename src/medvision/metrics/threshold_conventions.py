"""Dice and IoU over 256 thresholds: their mean and their largest value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_THRESHOLDS = 256
_PRANET = np.arange(NUM_THRESHOLDS) / 255
_EVEN = np.arange(NUM_THRESHOLDS) / 256  # includes 0.5


class ThresholdSweeps:
    """Sums over images of the scores at every threshold.

    PraNet's evaluation stretches each map to [0, 1], cuts it at k/255 for k = 0..255, and scores 0
    where the cut and the mask share nothing. The other sweep cuts the probability itself at k/256
    and lets two empty sets score 1.
    """

    def __init__(self) -> None:
        self._stretched, self._plain = np.zeros((2, NUM_THRESHOLDS)), np.zeros((2, NUM_THRESHOLDS))
        self._num_images = 0

    def add(self, probability: Floats, mask: NDArray[np.bool_]) -> None:
        """Add one image.

        Args:
            probability: Foreground probability of its pixels, (P,) in [0, 1].
            mask: Whether they are labelled foreground, (P,).
        """
        self._num_images += 1
        low, high = probability.min(), probability.max()
        stretched = (probability - low) / (high - low) if high > low else probability
        self._stretched += _scores(stretched, mask, _PRANET, without_overlap=0.0)
        self._plain += _scores(probability, mask, _EVEN, without_overlap=None)

    def compute(self) -> dict[str, Floats]:
        """Dice and IoU (2,) by the key of each convention; none without images."""
        if not self._num_images:
            return {}
        return {
            "mean_over_thresholds": self._stretched.mean(1) / self._num_images,
            "max_over_thresholds": self._stretched.max(1) / self._num_images,
            "best_threshold_on_this_set": self._plain.max(1) / self._num_images,
        }


def _scores(
    probability: Floats,
    mask: NDArray[np.bool_],
    thresholds: Floats,
    *,
    without_overlap: float | None,
) -> Floats:
    """Dice and IoU where p >= threshold, (2, T); thresholds must rise evenly from 0.

    Where the two sets share nothing the scores are ``without_overlap``; if that is None they are
    0, and 1 where both sets are empty.
    """
    passed = _num_passed(probability, thresholds)
    counts: list[NDArray[Any]] = [
        np.bincount(passed[side], minlength=len(thresholds) + 1) for side in (mask, ~mask)
    ]
    overlap, wrong = (count[::-1].cumsum()[::-1][1:] for count in counts)
    union = overlap + wrong + np.count_nonzero(mask) - overlap
    nothing = 0.0 if without_overlap is not None else (union == 0).astype(np.float64)
    iou = np.where(overlap > 0, overlap / np.maximum(union, 1), nothing)
    dice = np.where(overlap > 0, 2 * overlap / np.maximum(union + overlap, 1), nothing)
    return np.stack([dice, iou])


def _num_passed(probability: Floats, thresholds: Floats) -> NDArray[np.int64]:
    """How many of the evenly rising thresholds each p is at least as large as.

    The same as ``searchsorted(..., side="right")``, at a third of its cost.
    """
    guess = (probability * (1 / thresholds[1])).astype(np.int64).clip(0, len(thresholds) - 1)
    guess -= probability < thresholds[guess]  # rounding put it one too high
    above = np.append(thresholds, np.inf)[guess + 1]
    return np.asarray(guess + 1 + (probability >= above), dtype=np.int64)
