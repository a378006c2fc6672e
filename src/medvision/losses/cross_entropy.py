"""Cross-entropy of pixels or images, and class weights from class frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.losses.base import check_num_classes, check_shapes
from medvision.types import IGNORE_INDEX


def balanced_weights(counts: Sequence[int]) -> list[float]:
    r"""Weights with which every class counts as much in the loss as any other.

    .. math:: w_k = n / (K n_k)

    as scikit-learn's ``class_weight="balanced"``; images of equally frequent classes weigh 1.

    Args:
        counts: :math:`n_k`, training images of each class; n is their sum.

    Returns:
        One weight per class, in the order of ``counts``.

    Raises:
        MedvisionError: If a class has no image: no weight makes up for that.
    """
    if len(counts) == 0 or min(counts) < 1:
        raise MedvisionError(
            f"classes without a training image cannot be balanced, got counts {list(counts)}",
            where="loss.class_weights",
            hint="give one number per class, or add images of the missing class",
        )
    return [sum(counts) / (len(counts) * count) for count in counts]


class CrossEntropy(nn.Module):
    r"""Mean cross-entropy of the pixels or images that are not ignored.

    .. math:: L = \frac{\sum_i w_i \ell_i}{\sum_i w_i}, \qquad w_i = \sum_k t_{ik} w_k

    with :math:`t_i` the label of i as shares of the classes (one-hot, or soft as from MixUp), and
    :math:`\ell_i` the binary cross-entropy of the logit of class 1 for two classes, the softmax
    cross-entropy for more. Where everything is ignored, the loss and its gradient are 0. Computed
    in float32 under any autocast.

    Args:
        num_classes: K; in segmentation the background is one of them.
        class_weights: :math:`w_k`, one number per class; all 1 if not given.
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
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else _weights(class_weights, num_classes)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits for a target of class indices or of shares.

        Args:
            logits: (N, 1 or K, H, W) or (N, 1 or K).
            target: (N, H, W) or (N,) class indices or ``IGNORE_INDEX``; or, for logits without
                H and W, float (N, K) shares of the classes, whose rows sum to 1 (a row of zeros
                is ignored).
        """
        check_shapes(logits, target, self.num_classes)
        if target.is_floating_point():
            label = target.float()
            weight = (label if self.weights is None else label * self.weights).sum(1)
            positive = label[:, 1]
        else:
            valid = target != IGNORE_INDEX
            label = target.long().masked_fill(~valid, 0)
            weight = valid.float() if self.weights is None else self.weights[label] * valid
            positive = label.float()
        if self.num_classes == 2:
            smoothed = positive * (1 - self.label_smoothing) + self.label_smoothing / 2
            each = F.binary_cross_entropy_with_logits(
                logits[:, 0].float(), smoothed, reduction="none"
            )
        else:
            each = F.cross_entropy(
                logits.float(), label, label_smoothing=self.label_smoothing, reduction="none"
            )
        total = weight.sum().clamp_min(torch.finfo(torch.float32).tiny)
        return (each * weight).sum() / total


def _weights(class_weights: Sequence[float], num_classes: int) -> Tensor:
    """The weights as float32 (K,), or a ``MedvisionError``."""
    try:
        weights = [float(weight) for weight in class_weights]
    except (TypeError, ValueError):  # a word, or one number for all
        weights = []
    possible = all(0 <= weight < math.inf for weight in weights) and any(weights)
    if len(weights) != num_classes or not possible:
        raise MedvisionError(
            f"{class_weights} is no list of weights for {num_classes} classes",
            where="loss.class_weights",
            hint="give one number per class, none negative",
        )
    return torch.tensor(weights)
