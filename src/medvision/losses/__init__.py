"""Losses: logits (N, 1, H, W) or (N, K, H, W) and targets (N, H, W) in, a float32 scalar out.

Pixels labelled ``IGNORE_INDEX`` count in none of them, and where all are, the loss is 0.
"""

from medvision.losses.combined import WeightedSum
from medvision.losses.cross_entropy import PixelCrossEntropy
from medvision.losses.masked import MaskedLoss

__all__ = ["MaskedLoss", "PixelCrossEntropy", "WeightedSum"]
