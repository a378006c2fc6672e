"""From a trained network and an image to a result: what notebooks and ``medvision predict`` use.

Names load on first use: an ONNX file is run without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvision.inference.card import ModelCard
    from medvision.inference.folders import predict_files
    from medvision.inference.load import load_network
    from medvision.inference.model import Model, load_model
    from medvision.inference.results import ClassificationResult, SegmentationResult

__all__ = [
    "ClassificationResult",
    "Model",
    "ModelCard",
    "SegmentationResult",
    "load_model",
    "load_network",
    "predict_files",
]

_HOME = {
    "ClassificationResult": "results",
    "Model": "model",
    "ModelCard": "card",
    "SegmentationResult": "results",
    "load_model": "model",
    "load_network": "load",
    "predict_files": "folders",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
