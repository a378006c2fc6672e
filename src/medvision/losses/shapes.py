"""The check at the door of every loss."""

from __future__ import annotations

from torch import Tensor

from medvision.types import MedvisionError


def check_num_classes(num_classes: int) -> None:
    """Raise ``MedvisionError`` unless there are at least two classes."""
    if num_classes < 2:
        raise MedvisionError(
            f"segmentation needs at least 2 classes, got {num_classes}",
            where="loss.num_classes",
            hint="the background counts as one",
        )


def check_shapes(logits: Tensor, target: Tensor, num_classes: int) -> None:
    """Raise ``ValueError`` unless logits are (N, 1 or K, H, W) and the target (N, H, W)."""
    num_logits = 1 if num_classes == 2 else num_classes
    expected = (target.shape[0], num_logits, *target.shape[1:])
    if target.ndim != 3 or tuple(logits.shape) != expected:
        raise ValueError(
            f"expected logits (N, {num_logits}, H, W) and target (N, H, W), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
