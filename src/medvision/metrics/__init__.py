"""Scores whose definition is stated, with states of fixed size.

Names load on first use: the intervals and the table of conventions need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torchmetrics takes seconds to import; reports need NumPy only
    from medvision.metrics.conventions import dice_by_convention
    from medvision.metrics.counts import (
        foreground_probability,
        pixel_confusion,
        pixel_histogram,
        to_uint8,
    )
    from medvision.metrics.curves import auroc, average_precision, precision_recall_curve, roc_curve
    from medvision.metrics.intervals import bootstrap_mean_interval
    from medvision.metrics.overlap import (
        SegmentationScores,
        dice_score,
        iou_score,
        per_image_scores,
    )

__all__ = [
    "SegmentationScores",
    "auroc",
    "average_precision",
    "bootstrap_mean_interval",
    "dice_by_convention",
    "dice_score",
    "foreground_probability",
    "iou_score",
    "per_image_scores",
    "pixel_confusion",
    "pixel_histogram",
    "precision_recall_curve",
    "roc_curve",
    "to_uint8",
]

_MODULES = {
    "auroc": "curves",
    "average_precision": "curves",
    "bootstrap_mean_interval": "intervals",
    "dice_by_convention": "conventions",
    "foreground_probability": "counts",
    "pixel_confusion": "counts",
    "pixel_histogram": "counts",
    "to_uint8": "counts",
    "precision_recall_curve": "curves",
    "roc_curve": "curves",
}


def __getattr__(name: str) -> Any:
    """Load the module that defines ``name``."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'overlap')}"), name)
