"""The check at the door of every loss."""

from __future__ import annotations

from torch import Tensor

from medvision.types import MedvisionError


def check_num_classes(num_classes: int) -> None:
    """Raise ``MedvisionError`` unless there are at least two classes."""
    if num_classes < 2:
        raise MedvisionError(
            f"a loss needs at least 2 classes, got {num_classes}",
            where="loss.num_classes",
            hint="in segmentation the background counts as one",
        )


def check_shapes(logits: Tensor, target: Tensor, num_classes: int) -> None:
    """Raise ``ValueError`` unless the shapes of logits and target agree.

    Logits are (N, 1 or K, H, W) for a target (N, H, W), and (N, 1 or K) for a target (N,) of
    integers or (N, K) of floats.
    """
    num_logits = 1 if num_classes == 2 else num_classes
    if target.is_floating_point():
        fits = tuple(target.shape) == (len(logits), num_classes)
        expected = (len(logits), num_logits)
    else:
        fits = target.ndim in (1, 3)
        expected = (*target.shape[:1], num_logits, *target.shape[1:])
    if not fits or tuple(logits.shape) != expected:
        raise ValueError(
            f"expected logits (N, {num_logits}, H, W) and target (N, H, W), or logits "
            f"(N, {num_logits}) and target (N,) or float (N, {num_classes}), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)} of {target.dtype}"
        )
