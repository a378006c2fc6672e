"""Networks: images (N, C, H, W) in, logits (N, 1, H, W) or (N, K, H, W) out.

A network takes uint8 images in [0, 255] or floats in [0, 1] of any height and width,
normalises them itself, so that mean and std travel in its checkpoint, and returns logits of
the same height and width: one foreground logit for two classes, K logits for more.

Every name is imported on first use: the U-Net must not wait for smp and timm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvision.models.checkpoint import load_weights_strict, read_tensors
    from medvision.models.introspect import count_parameters, is_depthwise
    from medvision.models.normalize import Normalize
    from medvision.models.smp_segmenter import SmpSegmenter
    from medvision.models.unet import UNet
    from medvision.models.weights import LoadedWeights, load_encoder_weights

__all__ = [
    "LoadedWeights",
    "Normalize",
    "SmpSegmenter",
    "UNet",
    "count_parameters",
    "is_depthwise",
    "load_encoder_weights",
    "load_weights_strict",
    "read_tensors",
]

_HOME = {
    "LoadedWeights": "weights",
    "Normalize": "normalize",
    "SmpSegmenter": "smp_segmenter",
    "UNet": "unet",
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
