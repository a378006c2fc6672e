"""The shapes every segmentation network promises: any H and W in, the same H and W out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from medvision.types import MedvisionError


def num_logits(num_classes: int) -> int:
    """Channels of the logits: one (the foreground) for two classes, K for more."""
    if num_classes < 2:
        raise MedvisionError(
            f"segmentation needs at least 2 classes, got {num_classes}",
            where="model.num_classes",
            hint="the background counts as one",
        )
    return 1 if num_classes == 2 else num_classes


def pad_to_multiple(image: Tensor, multiple: int, *, at_least: int = 1) -> Tensor:
    """Repeat the right and lower border of (N, C, H, W) until ``multiple`` divides H and W.

    The border is repeated and not mirrored, because a mirror cannot be wider than its image.
    The amounts are Python integers: one image size stays one static shape.

    Args:
        image: (N, C, H, W).
        multiple: In pixels.
        at_least: Smallest height and width to return, in pixels.
    """
    height, width = image.shape[-2:]
    bottom = -max(height, at_least) % multiple + max(at_least - height, 0)
    right = -max(width, at_least) % multiple + max(at_least - width, 0)
    if bottom == 0 and right == 0:
        return image
    return F.pad(image, (0, right, 0, bottom), mode="replicate")
