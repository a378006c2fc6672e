"""Losses: logits and targets in, a float32 scalar out.

Pixels: logits (N, 1, H, W) or (N, K, H, W), targets (N, H, W). Images: logits (N, 1) or (N, K),
targets (N,). What is labelled ``IGNORE_INDEX`` counts in none of them, and where all is, the loss
is 0.
"""

from medvision.losses.base import WeightedSum
from medvision.losses.cross_entropy import CrossEntropy, balanced_weights
from medvision.losses.masked import MaskedLoss

__all__ = ["CrossEntropy", "MaskedLoss", "WeightedSum", "balanced_weights"]
