"""Classification: a class for every image."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from medvision.metrics import ClassificationScores
from medvision.tasks.base import Task
from medvision.types import Batch


class Mixing(Protocol):
    """Mix the images of a batch and their labels."""

    def __call__(self, image: Tensor, target: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) in [0, 1] and soft labels (N, K)."""
        ...


class ClassificationTask(Task):
    """Task whose targets are class indices (N,).

    With two classes the logits are (N, 1) of the second, with more (N, K). Logs the accuracy,
    balanced accuracy, precision, recall, specificity, F1, AUROC, average precision, calibration
    error and confusion of each stage, and of each class; ``ClassificationScores`` defines them.

    Args:
        class_names: Name of each class; of two the second is the positive one.
        threshold: Smallest probability at which the positive class is predicted, or the rule that
            chooses it on validation; with a rule, training uses 0.5.
        sensitivity: Target of the rule of that name, in (0, 1]; not used while training.
        prevalence: Share of positives for PPV and NPV; not used while training.
        mixing: Mixes training batches; they then have a loss, but no other score.
        **common: As for ``Task``.
    """

    kind = "classification"

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        threshold: float | str = 0.5,
        sensitivity: float | None = None,
        prevalence: float | None = None,
        mixing: Mixing | None = None,
        **common: Any,
    ) -> None:
        fixed = 0.5 if isinstance(threshold, str) else float(threshold)
        names = list(class_names)
        metrics = partial(ClassificationScores, class_names=names, threshold=fixed)
        super().__init__(metrics=metrics, **common)
        self.class_names, self.threshold, self.mixing = names, threshold, mixing
        self.sensitivity, self.prevalence = sensitivity, prevalence

    def loss_examples(self) -> list[tuple[Tensor, Tensor]]:
        num_classes = len(self.class_names)
        logits = torch.zeros(2, 1 if num_classes == 2 else num_classes)
        examples = [(logits, torch.zeros(2, dtype=torch.uint8))]
        if self.mixing is not None:
            examples.append((logits, torch.full((2, num_classes), 1 / num_classes)))
        return examples

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.mixing is None:
            return super().training_step(batch, batch_idx)
        step = self.trainer.fit_loop.total_batch_idx
        image, soft_target = self.mixing(batch["image"], batch["target"], step)
        loss = self.loss(self(image), soft_target)
        self.train_loss.update(loss.detach(), len(image))
        return loss
