"""Networks: images (N, C, H, W) in, logits out: one for two classes, K for more.

A network takes uint8 images in [0, 255] or floats in [0, 1] of any height and width and
normalises them itself, so that mean and std travel in its checkpoint. A segmenter gives
logits (N, 1 or K, H, W) of the images' height and width, a classifier (N, 1 or K). The one
logit of two classes is that of class 1.

Every name is imported on first use: the U-Net must not wait for smp and timm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvision.models.alexnet import AlexNet
    from medvision.models.build import build_network
    from medvision.models.checkpoint import load_weights_strict, read_tensors
    from medvision.models.introspect import count_parameters, is_depthwise
    from medvision.models.mixing import BatchMixing
    from medvision.models.normalize import Normalize
    from medvision.models.simple_cnn import SimpleCNN
    from medvision.models.smp_segmenter import SmpSegmenter
    from medvision.models.timm_classifier import TimmClassifier
    from medvision.models.transfer import LoadedWeights
    from medvision.models.unet import UNet
    from medvision.models.weights import load_encoder_weights

__all__ = [
    "AlexNet",
    "BatchMixing",
    "LoadedWeights",
    "Normalize",
    "SimpleCNN",
    "SmpSegmenter",
    "TimmClassifier",
    "UNet",
    "build_network",
    "count_parameters",
    "is_depthwise",
    "load_encoder_weights",
    "load_weights_strict",
    "read_tensors",
]

_HOME = {
    "AlexNet": "alexnet",
    "BatchMixing": "mixing",
    "LoadedWeights": "transfer",
    "Normalize": "normalize",
    "SimpleCNN": "simple_cnn",
    "SmpSegmenter": "smp_segmenter",
    "TimmClassifier": "timm_classifier",
    "UNet": "unet",
    "build_network": "build",
    "count_parameters": "introspect",
    "is_depthwise": "introspect",
    "load_encoder_weights": "weights",
    "load_weights_strict": "checkpoint",
    "read_tensors": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
