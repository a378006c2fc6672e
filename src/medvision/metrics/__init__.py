"""Scores whose definition is stated.

Names load on first use: what needs only NumPy loads no torch. Two functions bear the name of their
module and are imported from there: ``operating_points`` and ``size_groups``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torchmetrics takes seconds to import; reports need NumPy only
    from medvision.metrics.calibration import calibration_bins
    from medvision.metrics.class_intervals import (
        calibration_intervals,
        classification_intervals,
    )
    from medvision.metrics.classification import classification_scores
    from medvision.metrics.conventions import dice_by_convention
    from medvision.metrics.counts import (
        foreground_probability,
        pixel_confusion,
        pixel_histogram,
        to_uint8,
    )
    from medvision.metrics.curves import auroc, average_precision, precision_recall_curve, roc_curve
    from medvision.metrics.epoch_scores import ClassificationScores, probabilities
    from medvision.metrics.intervals import bootstrap_mean_interval
    from medvision.metrics.overlap import (
        SegmentationScores,
        dice_score,
        iou_score,
        per_image_scores,
    )
    from medvision.metrics.pooled_intervals import pooled_score_intervals
    from medvision.metrics.proportions import wilson_interval
    from medvision.metrics.ranking import precision_recall_points, roc_points
    from medvision.metrics.surface import mean_defined, surface_distances
    from medvision.metrics.temperature import apply_temperature, fit_temperature, logits_of
    from medvision.metrics.thresholds import (
        choose_threshold,
        threshold_at_sensitivity,
        threshold_by_rule,
    )

__all__ = [
    "ClassificationScores",
    "SegmentationScores",
    "apply_temperature",
    "auroc",
    "average_precision",
    "bootstrap_mean_interval",
    "calibration_bins",
    "calibration_intervals",
    "choose_threshold",
    "classification_intervals",
    "classification_scores",
    "dice_by_convention",
    "dice_score",
    "fit_temperature",
    "foreground_probability",
    "iou_score",
    "logits_of",
    "mean_defined",
    "per_image_scores",
    "pixel_confusion",
    "pixel_histogram",
    "pooled_score_intervals",
    "precision_recall_curve",
    "precision_recall_points",
    "probabilities",
    "roc_curve",
    "roc_points",
    "surface_distances",
    "threshold_at_sensitivity",
    "threshold_by_rule",
    "to_uint8",
    "wilson_interval",
]

_MODULES = {
    "ClassificationScores": "epoch_scores",
    "apply_temperature": "temperature",
    "auroc": "curves",
    "average_precision": "curves",
    "bootstrap_mean_interval": "intervals",
    "calibration_bins": "calibration",
    "calibration_intervals": "class_intervals",
    "choose_threshold": "thresholds",
    "classification_intervals": "class_intervals",
    "classification_scores": "classification",
    "dice_by_convention": "conventions",
    "fit_temperature": "temperature",
    "foreground_probability": "counts",
    "logits_of": "temperature",
    "mean_defined": "surface",
    "pixel_confusion": "counts",
    "pixel_histogram": "counts",
    "pooled_score_intervals": "pooled_intervals",
    "precision_recall_curve": "curves",
    "precision_recall_points": "ranking",
    "probabilities": "epoch_scores",
    "roc_curve": "curves",
    "roc_points": "ranking",
    "surface_distances": "surface",
    "threshold_at_sensitivity": "thresholds",
    "threshold_by_rule": "thresholds",
    "to_uint8": "counts",
    "wilson_interval": "proportions",
}


def __getattr__(name: str) -> Any:
    """Load the module that defines ``name``."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'overlap')}"), name)
