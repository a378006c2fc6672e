"""Scores of the predictions of several runs, each of other images, taken as one."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.metrics import (
    bootstrap_mean_interval,
    classification_intervals,
    classification_scores,
    mean_defined,
)

Pooled = dict[str, tuple[float, float, float]]
"""Score, low and high end of its 95 % interval, by name; NaN where undefined."""

DECIDED = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1")
"""Scores of the predicted classes; all others are of the probabilities."""

PER_IMAGE = ("dice", "iou", "dice_original", "iou_original")
"""Scores of a segmentation that every image has of its own."""


def pool_probabilities(
    rows: Sequence[Mapping[str, str]], groups: Sequence[str], thresholds: Collection[float]
) -> Pooled:
    """Scores of classified images.

    Args:
        rows: Of ``predictions_test.csv`` of every run.
        groups: Group of each row; images of one group are resampled together.
        thresholds: Those of the runs. Where they differ, what depends on a threshold is counted
            from the class that each image was given.

    Returns:
        The scores of ``classification_scores``; ends are NaN where a score has no interval.
    """
    names = [name.partition("/")[2] for name in rows[0] if name.startswith("probability/")]
    probability = np.array([[float(row[f"probability/{name}"]) for name in names] for row in rows])
    index = {name: number for number, name in enumerate(names)}
    target = np.array([index[row["target"]] for row in rows])
    if len(thresholds) == 1:
        return _classified(probability, target, names, groups, next(iter(thresholds)))
    predicted = np.eye(len(names))[[index[row["predicted"]] for row in rows]]
    decided = _classified(predicted, target, names, groups, 0.5)
    others = _classified(probability, target, names, groups, 0.5)
    return {name: (decided if name.split("/")[0] in DECIDED else others)[name] for name in others}


def pool_images(rows: Sequence[Mapping[str, str]], groups: Sequence[str]) -> Pooled:
    """Means over segmented images.

    Args:
        rows: Of ``predictions_test.csv`` of every run.
        groups: Group of each row; images of one group are resampled together.

    Returns:
        Dice and IoU in both sizes, of the foreground and of each class.
    """
    pooled = {}
    for name in (name for name in rows[0] if name.split("/")[0] in PER_IMAGE):
        values = [float(row[name] or "nan") for row in rows]
        low, high = bootstrap_mean_interval(values, groups=_if_any(groups))
        pooled[name] = (mean_defined(values)[0], low, high)
    return pooled


def _classified(
    probability: NDArray[np.float64],
    target: NDArray[np.int64],
    names: Sequence[str],
    groups: Sequence[str],
    threshold: float,
) -> Pooled:
    options: dict[str, Any] = {"class_names": names, "threshold": threshold}
    scores = classification_scores(probability, target, **options)
    intervals = classification_intervals(probability, target, groups=_if_any(groups), **options)
    unknown = (float("nan"), float("nan"))
    return {name: (score, *intervals.get(name, unknown)) for name, score in scores.items()}


def _if_any(groups: Sequence[str]) -> Sequence[str] | None:
    """The groups, where any holds more than one image."""
    return groups if len(set(groups)) < len(groups) else None
