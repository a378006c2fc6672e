"""Scores of a classifier with their intervals, as ``summary.json`` holds them."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from medvision.evaluation.base import Score, or_none
from medvision.metrics import (
    apply_temperature,
    calibration_intervals,
    classification_intervals,
    classification_scores,
)
from medvision.metrics.calibration import Calibration

Groups = Sequence[Hashable] | None
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def class_scores(
    probability: Floats,
    target: Ints,
    *,
    class_names: Sequence[str],
    threshold: float,
    groups: Groups,
) -> dict[str, Score]:
    """Every score of ``classification_scores``, and its interval under its name with ``_ci95``.

    Args:
        probability: Of each class, (N, K).
        target: Class indices (N,).
        class_names: The K classes.
        threshold: For two classes.
        groups: Group of each image, or None where none are known.
    """
    found = classification_scores(probability, target, class_names=class_names, threshold=threshold)
    intervals = classification_intervals(
        probability, target, class_names=class_names, threshold=threshold, groups=groups
    )
    return {name: or_none(value) for name, value in found.items()} | {
        f"{name}_ci95": _ends(ends) for name, ends in intervals.items()
    }


def calibrated_scores(
    logits: Floats, target: Ints, *, temperature: float, groups: Groups
) -> dict[str, Score]:
    """``ece_calibrated`` and ``brier_calibrated`` at a temperature, with their intervals.

    Args:
        logits: Of each class, (N, K).
        target: Class indices (N,).
        temperature: Above 0.
        groups: Group of each image, or None where none are known.
    """
    sure = apply_temperature(logits, temperature)
    found = Calibration(sure, target).scores()
    intervals = calibration_intervals(sure, target, groups=groups)
    return {f"{name}_calibrated": or_none(value[0]) for name, value in found.items()} | {
        f"{name}_calibrated_ci95": _ends(ends) for name, ends in intervals.items()
    }


def _ends(interval: tuple[float, float]) -> Score:
    low, high = (or_none(end) for end in interval)
    return None if low is None or high is None else [low, high]
