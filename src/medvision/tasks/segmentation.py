"""Segmentation: a class for every pixel."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from medvision.metrics import SegmentationScores
from medvision.tasks.base import Plain, Schedule, Task


class SegmentationTask(Task):
    """Task whose targets are class indices (N, H, W).

    With two classes the logits are (N, 1, H, W) of the foreground, with more (N, K, H, W).
    Logs ``dice``, ``iou``, their ``_global`` forms, ``accuracy``, ``precision``, ``recall``,
    ``specificity`` and the pixel ``auroc`` of each stage; ``SegmentationScores`` defines them.

    Args:
        model: Maps images (N, C, H, W) to logits.
        loss: Maps (logits, target) to a scalar.
        optimizer: Given the parameters, or groups of them, returns the optimizer.
        class_names: Name of each class, the background first.
        scheduler: Given the optimizer and the number of steps, returns a schedule or None.
        metadata: Plain values written into every checkpoint.
        backbone_lr_factor: Learning rate of the encoder over that of the decoder.
    """

    kind = "segmentation"

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Callable[[Any], Optimizer],
        class_names: Sequence[str],
        scheduler: Schedule | None = None,
        metadata: Mapping[str, Plain] | None = None,
        backbone_lr_factor: float = 1.0,
    ) -> None:
        super().__init__(
            model=model,
            loss=loss,
            metrics=partial(SegmentationScores, class_names=list(class_names)),
            optimizer=optimizer,
            scheduler=scheduler,
            metadata=metadata,
            backbone_lr_factor=backbone_lr_factor,
        )
        self.class_names = list(class_names)
