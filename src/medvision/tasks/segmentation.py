"""Segmentation: a class for every pixel."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medvision.losses import CrossEntropy
from medvision.metrics import SegmentationScores
from medvision.tasks.base import OwnMetrics, Plain, Task


class SegmentationTask(Task):
    """Task whose targets are class indices (N, H, W).

    With two classes the logits are (N, 1, H, W) of the foreground, with more (N, K, H, W).
    Logs ``dice``, ``iou``, their ``_global`` forms, ``accuracy``, ``precision``, ``recall``,
    ``specificity`` and the pixel ``auroc`` of each stage; ``SegmentationScores`` defines them.

    Args:
        model: Maps images (N, C, H, W), as the data loader returns them, to logits.
        class_names: Name of each class, the background first.
        loss: Maps (logits, target) to a scalar; by default binary cross-entropy for two classes and
            softmax cross-entropy for more.
        metrics: Further metrics of torchmetrics, updated with (probabilities, target):
            probabilities of the foreground (N, H, W), or of each class (N, K, H, W). Ignored pixels
            have the target 255.
        **common: As for ``Task``: ``optimizer``, ``scheduler``, ``metadata`` and
            ``backbone_lr_factor``.

    Example:
        >>> task = SegmentationTask(model=network)
        >>> trainer = pytorch_lightning.Trainer(max_epochs=20)
        >>> trainer.fit(task, train_loader, val_loader)  # batches (image, target)
        >>> probabilities = trainer.predict(task, test_loader)  # a tensor (N, 1, H, W) per batch
        >>> task = SegmentationTask.load_from_checkpoint(path, model=network)
    """

    kind = "segmentation"

    def __init__(
        self,
        *,
        model: nn.Module,
        class_names: Sequence[str] = ("background", "foreground"),
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        metrics: OwnMetrics | None = None,
        **common: Any,
    ) -> None:
        names = list(class_names)
        super().__init__(
            model=model,
            loss=CrossEntropy(num_classes=len(names)) if loss is None else loss,
            metrics=partial(SegmentationScores, class_names=names),
            own_metrics=metrics,
            **common,
        )
        self.class_names = names

    def arguments(self) -> dict[str, Plain]:
        return {**super().arguments(), "class_names": [*self.class_names]}

    def predicts_nothing(self, logged: Mapping[str, Tensor]) -> bool:
        """Return True if no labelled foreground pixel of validation is found in an epoch.

        Args:
            logged: Values of the epoch, with their stage.
        """
        recall = logged.get("val/recall")
        return recall is not None and float(recall) == 0

    def loss_examples(self) -> list[tuple[Tensor, Tensor]]:
        num_classes = len(self.class_names)
        logits = torch.zeros(2, 1 if num_classes == 2 else num_classes, 32, 32)
        return [(logits, torch.zeros(2, 32, 32, dtype=torch.int64))]
