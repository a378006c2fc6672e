"""From trained weights and a split to scores, files and plots; each task in its own way.

Names load on first use: what only reads finished runs loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Lightning takes seconds to import; comparing finished runs needs none of it
    from medvision.evaluation.base import Evaluation, Score
    from medvision.evaluation.classification import ClassificationEvaluation
    from medvision.evaluation.segmentation import SegmentationEvaluation

__all__ = ["ClassificationEvaluation", "Evaluation", "Score", "SegmentationEvaluation"]

_MODULES = {
    "ClassificationEvaluation": "classification",
    "Evaluation": "base",
    "Score": "base",
    "SegmentationEvaluation": "segmentation",
}


def __getattr__(name: str) -> Any:
    """Load the module that defines ``name``."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
