"""Scores whose definition is stated.

Names load on first use: what needs only NumPy loads no torch. Two functions bear the name of their
module and are imported from there: ``operating_points`` and ``size_groups``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torchmetrics takes seconds to import; reports need NumPy only
    from medvision.metrics.calibration import calibration_bins
    from medvision.metrics.class_intervals import classification_intervals
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
    from medvision.metrics.operating_points import threshold_at_sensitivity, wilson_interval
    from medvision.metrics.overlap import (
        SegmentationScores,
        dice_score,
        iou_score,
        per_image_scores,
    )
    from medvision.metrics.pooled_intervals import pooled_score_intervals
    from medvision.metrics.ranking import precision_recall_points, roc_points
    from medvision.metrics.surface import mean_defined, surface_distances
    from medvision.metrics.thresholds import choose_threshold

__all__ = [
    "ClassificationScores",
    "SegmentationScores",
    "auroc",
    "average_precision",
    "bootstrap_mean_interval",
    "calibration_bins",
    "choose_threshold",
    "classification_intervals",
    "classification_scores",
    "dice_by_convention",
    "dice_score",
    "foreground_probability",
    "iou_score",
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
    "to_uint8",
    "wilson_interval",
]

_MODULES = {
    "ClassificationScores": "epoch_scores",
    "auroc": "curves",
    "average_precision": "curves",
    "bootstrap_mean_interval": "intervals",
    "calibration_bins": "calibration",
    "choose_threshold": "thresholds",
    "classification_intervals": "class_intervals",
    "classification_scores": "classification",
    "dice_by_convention": "conventions",
    "foreground_probability": "counts",
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
    "threshold_at_sensitivity": "operating_points",
    "to_uint8": "counts",
    "wilson_interval": "operating_points",
}


def __getattr__(name: str) -> Any:
    """Load the module that defines ``name``."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'overlap')}"), name)
