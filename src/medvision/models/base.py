"""Parts shared by all networks: number of logits, padding to a multiple, parameter counts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medvision.errors import MedvisionError


def count_parameters(model: nn.Module) -> int:
    """Count the parameters, including frozen ones; buffers are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_logits(num_classes: int) -> int:
    """Number of logit channels: one (that of class 1) for two classes, K for more."""
    if num_classes < 2:
        raise MedvisionError(
            f"expected at least 2 classes, got {num_classes}",
            where="model.num_classes",
            hint="the background of a mask and the healthy class count too",
        )
    return 1 if num_classes == 2 else num_classes


def pad_to_multiple(image: Tensor, multiple: int, *, at_least: int = 1) -> Tensor:
    """Extend (N, C, H, W) to the right and below until ``multiple`` divides H and W.

    The border is replicated, not mirrored, because a reflection cannot be wider than its image. The
    amounts are Python integers, so that each image size has one static shape.

    Args:
        image: (N, C, H, W).
        multiple: Multiple in pixels.
        at_least: Smallest height and width to return, in pixels.
    """
    height, width = image.shape[-2:]
    bottom = -max(height, at_least) % multiple + max(at_least - height, 0)
    right = -max(width, at_least) % multiple + max(at_least - width, 0)
    if bottom == 0 and right == 0:
        return image
    return F.pad(image, (0, right, 0, bottom), mode="replicate")


def check_dropout(dropout: float, *, where: str = "model.dropout") -> None:
    """Raise ``MedvisionError`` if the dropout rate is outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise MedvisionError(
            f"expected a share in [0, 1), got {dropout}",
            where=where,
            hint="use 0 for no dropout; 0.2 is common",
        )
