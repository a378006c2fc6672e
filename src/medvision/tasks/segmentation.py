"""Segmentation: a class for every pixel."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medvision.metrics import SegmentationScores
from medvision.tasks.base import Task


class SegmentationTask(Task):
    """Task whose targets are class indices (N, H, W).

    With two classes the logits are (N, 1, H, W) of the foreground, with more (N, K, H, W).
    Logs ``dice``, ``iou``, their ``_global`` forms, ``accuracy``, ``precision``, ``recall``,
    ``specificity`` and the pixel ``auroc`` of each stage; ``SegmentationScores`` defines them.

    Args:
        class_names: Name of each class, the background first.
        **common: As for ``Task``.
    """

    kind = "segmentation"

    def __init__(self, *, class_names: Sequence[str], **common: Any) -> None:
        names = list(class_names)
        super().__init__(metrics=partial(SegmentationScores, class_names=names), **common)
        self.class_names = names

    def loss_examples(self) -> list[tuple[Tensor, Tensor]]:
        num_classes = len(self.class_names)
        logits = torch.zeros(2, 1 if num_classes == 2 else num_classes, 32, 32)
        return [(logits, torch.zeros(2, 32, 32, dtype=torch.uint8))]
