"""From files to batches.

The data modules load on first use: reading, indexing and splitting need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Lightning takes seconds to import
    from medvision.data.classification import ClassificationData
    from medvision.data.datamodule import ImageData
    from medvision.data.segmentation import SegmentationData

__all__ = ["ClassificationData", "ImageData", "SegmentationData"]

_HOME = {
    "ClassificationData": "classification",
    "ImageData": "datamodule",
    "SegmentationData": "segmentation",
}


def __getattr__(name: str) -> Any:
    """Import a data module when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
