"""Cross-entropy of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvision.losses.shapes import check_num_classes, check_shapes
from medvision.types import IGNORE_INDEX, MedvisionError


class PixelCrossEntropy(nn.Module):
    r"""Mean cross-entropy of the pixels that are not ignored.

    .. math:: L = \frac{\sum_i w_{t_i} \ell_i}{\sum_i w_{t_i}}

    with :math:`\ell_i` the binary cross-entropy of the foreground logit for two classes, the
    softmax cross-entropy for more. If every pixel is ignored, the loss and its gradient are 0.
    Computed in float32 under any autocast.

    Args:
        num_classes: K, background included.
        class_weights: :math:`w`, one number per class; all 1 if not given.
        label_smoothing: Share of the label that is spread evenly over all classes, in [0, 1).

    Raises:
        MedvisionError: If the weights or the smoothing make no sense.
    """

    weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int = 2,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        if not 0 <= label_smoothing < 1:
            raise MedvisionError(
                f"expected a share in [0, 1), got {label_smoothing}", where="loss.label_smoothing"
            )
        if class_weights is not None and (
            len(class_weights) != num_classes or min(class_weights) < 0 or max(class_weights) <= 0
        ):
            raise MedvisionError(
                f"{list(class_weights)} are no weights of {num_classes} classes",
                where="loss.class_weights",
                hint="give one number per class, none negative",
            )
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.tensor([float(w) for w in class_weights])
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, 1 or K, H, W) for the target (N, H, W)."""
        check_shapes(logits, target, self.num_classes)
        valid = target != IGNORE_INDEX
        label = target.long().masked_fill(~valid, 0)
        if self.num_classes == 2:
            smoothed = label * (1 - self.label_smoothing) + self.label_smoothing / 2
            each = F.binary_cross_entropy_with_logits(
                logits[:, 0].float(), smoothed.float(), reduction="none"
            )
        else:
            each = F.cross_entropy(
                logits.float(), label, label_smoothing=self.label_smoothing, reduction="none"
            )
        weight = valid.float() if self.weights is None else self.weights[label] * valid
        total = weight.sum().clamp_min(torch.finfo(torch.float32).tiny)
        return (each * weight).sum() / total
