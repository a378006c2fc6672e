"""Agreement between the masks that several annotators drew of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from medvision.types import IGNORE_INDEX

_EPSILON = 1e-7


def annotator_agreement(
    masks: Sequence[NDArray[np.uint8]], *, num_classes: int = 2
) -> tuple[float, float]:
    """Compute mean Dice and IoU between the masks of one image, over pairs and foreground classes.

    Args:
        masks: Two or more masks (H, W) of class indices, or ``IGNORE_INDEX``, which is left out.
        num_classes: Number of classes K, including the background.

    Returns:
        Dice and IoU in [0, 1]; 1 for a class that neither mask of a pair holds.
    """
    dice, iou = [], []
    for one, other in combinations(masks, 2):
        known = (one != IGNORE_INDEX) & (other != IGNORE_INDEX)
        for label in range(1, num_classes):
            first, second = (one == label) & known, (other == label) & known
            both, either = int((first & second).sum()), int((first | second).sum())
            dice.append((2 * both + _EPSILON) / (both + either + _EPSILON))
            iou.append((both + _EPSILON) / (either + _EPSILON))
    return float(np.mean(dice)), float(np.mean(iou))
