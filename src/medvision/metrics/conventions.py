"""Eight numbers that papers and libraries call Dice, from one set of predictions.

They differ by 0.2 on the same predictions, which is more than most papers claim to gain: a score
can be compared only with one of the same convention. All are pure NumPy in float64.

Written p for the foreground probability of a pixel, A for predicted and B for labelled pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-7
"""As in the project's own definition: two empty sets score 1."""

Map = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


def dice_by_convention(probabilities: Sequence[Map], masks: Sequence[Mask]) -> dict[str, float]:
    """Dice of the same predictions by eight conventions.

    - ``soft_smooth_1``: ``(2 sum(p b) + 1) / (sum(p) + sum(b) + 1)`` of each image, without a
      threshold; mean over images. What a Dice loss reports.
    - ``mean_over_thresholds``: PraNet's evaluation. Each map is stretched to [0, 1] and cut at
      k/255 for k = 0..255; Dice is 0 where A and B share nothing; mean over thresholds and images.
    - ``per_image``: A is p >= 0.5; foreground Dice of each image, 1 where A and B are empty; mean
      over images. What medvision calls ``dice``; nnU-Net and smp ``micro-imagewise`` agree.
    - ``pooled``: the same from the pixels of all images at once. What medvision calls
      ``dice_global``.
    - ``best_threshold_on_this_set``: the largest ``per_image`` over thresholds k/256 chosen on
      these very images, which makes it an optimistic number and no test score.
    - ``per_image_with_background``: mean of background and foreground Dice of each image; mean
      over images.
    - ``pooled_with_background``: mean of background and foreground Dice of all pixels; mDice of
      mmsegmentation.
    - ``micro_with_background``: overlaps and sizes of both classes added before dividing, which is
      pixel accuracy; the default of older torchmetrics.

    Args:
        probabilities: Foreground probability of each image, (H, W) in [0, 1]; sizes may differ.
        masks: Labelled foreground of each image, bool (H, W).

    Returns:
        The eight values, each in [0, 1], in this order.

    Raises:
        ValueError: If there are no images, or the two sides do not match.
    """
    if len(probabilities) == 0 or len(probabilities) != len(masks):
        raise ValueError(
            f"expected as many masks as probability maps and at least one, "
            f"got {len(probabilities)} maps and {len(masks)} masks"
        )
    for probability, mask in zip(probabilities, masks, strict=True):
        if probability.shape != mask.shape or mask.dtype != np.bool_:
            raise ValueError(
                f"expected a bool mask of shape {probability.shape}, "
                f"got {mask.dtype} of shape {mask.shape}"
            )
    pairs = list(zip(probabilities, masks, strict=True))
    # one row per image: overlap, predicted, labelled
    foreground = np.array([_sizes(p >= 0.5, mask) for p, mask in pairs])
    background = np.array([_sizes(p < 0.5, ~mask) for p, mask in pairs])
    return {
        "soft_smooth_1": float(np.mean([_soft_dice(p, mask) for p, mask in pairs])),
        "mean_over_thresholds": float(np.mean([_dice_over_thresholds(p, m) for p, m in pairs])),
        "per_image": float(_dice(foreground).mean()),
        "pooled": float(_dice(foreground.sum(0))),
        "best_threshold_on_this_set": _best_threshold_dice(pairs),
        "per_image_with_background": float((_dice(foreground) + _dice(background)).mean() / 2),
        "pooled_with_background": float((_dice(foreground.sum(0)) + _dice(background.sum(0))) / 2),
        "micro_with_background": float(_dice((foreground + background).sum(0))),
    }


def _dice(sizes: NDArray[Any]) -> NDArray[np.float64]:
    """Dice from sizes (..., 3) of overlap, predicted and labelled."""
    overlap, predicted, labelled = np.moveaxis(sizes, -1, 0)
    return np.asarray((2 * overlap + EPSILON) / (predicted + labelled + EPSILON))


def _sizes(predicted: Mask, labelled: Mask) -> tuple[int, int, int]:
    return int((predicted & labelled).sum()), int(predicted.sum()), int(labelled.sum())


def _soft_dice(probability: Map, mask: Mask) -> float:
    overlap = probability.sum(where=mask, dtype=np.float64)
    return float((2 * overlap + 1) / (probability.sum(dtype=np.float64) + mask.sum() + 1))


def _sizes_over_thresholds(
    probability: Map, mask: Mask, thresholds: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Overlap, predicted and labelled where p >= threshold, (T, 3); thresholds must rise."""
    passed = np.searchsorted(thresholds, probability.astype(np.float64), side="right")
    counts = [np.bincount(passed[where], minlength=len(thresholds) + 1) for where in (mask, ~mask)]
    overlap, wrong = (count[::-1].cumsum()[::-1][1:] for count in counts)
    return np.stack([overlap, overlap + wrong, np.full_like(overlap, mask.sum())], axis=1)


def _dice_over_thresholds(probability: Map, mask: Mask) -> float:
    """Mean of one image over the 256 thresholds of PraNet's evaluation."""
    stretched = probability.astype(np.float64)
    if stretched.max() > stretched.min():  # a constant map stays as it is
        stretched = (stretched - stretched.min()) / (stretched.max() - stretched.min())
    sizes = _sizes_over_thresholds(stretched, mask, np.arange(256) / 255)
    return float(np.where(sizes[:, 0] > 0, _dice(sizes), 0).mean())


def _best_threshold_dice(pairs: Sequence[tuple[Map, Mask]]) -> float:
    thresholds = np.arange(256) / 256  # includes 0.5
    scores = [_dice(_sizes_over_thresholds(p, mask, thresholds)) for p, mask in pairs]
    return float(np.mean(scores, axis=0).max())
