"""Conventions of complete maps and masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.metrics.conventions import SegmentationConventions


def conventions_of_maps(
    probabilities: Sequence[NDArray[Any]], masks: Sequence[NDArray[np.bool_]]
) -> list[dict[str, Any]]:
    """Rows of foreground probabilities (H, W), of any sizes, against masks."""
    conventions = SegmentationConventions()
    for probability, mask in zip(probabilities, masks, strict=True):
        cells = 2 * mask.astype(np.int64) + (probability >= 0.5)
        confusion = np.bincount(cells.ravel(), minlength=4).reshape(1, 2, 2)
        conventions.update(confusion, probability[None], mask[None])
    return conventions.compute()


def dice_by_convention(
    probabilities: Sequence[NDArray[Any]], masks: Sequence[NDArray[np.bool_]]
) -> dict[str, float]:
    """Dice by key; NaN where undefined."""
    rows = conventions_of_maps(probabilities, masks)
    return {row["key"]: np.nan if row["dice"] is None else row["dice"] for row in rows}
