"""Classification: a class for every image."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medvision.losses import CrossEntropy
from medvision.metrics import ClassificationScores
from medvision.tasks.base import OwnMetrics, Plain, Task, batch_of
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
        model: Maps images (N, C, H, W), as the data loader returns them, to logits.
        class_names: Name of each class; of two the second is the positive one.
        loss: Maps (logits, target) to a scalar; by default binary cross-entropy for two classes and
            softmax cross-entropy for more.
        metrics: Further metrics of torchmetrics, updated with (probabilities, target):
            probabilities of the second of two classes (N,), or of each class (N, K). Ignored images
            have the target 255.
        threshold: Smallest probability at which the positive class is predicted, or the rule that
            chooses it on validation; with a rule, training uses 0.5.
        sensitivity: Target of the rule of that name, in (0, 1]; not used while training.
        prevalence: Share of positives for PPV and NPV; not used while training.
        ordered_classes: True if the classes are in a meaningful order, such as grades: kappa then
            has quadratic weights.
        mixing: Mixes training batches; they then have a loss, but no other score.
        **common: As for ``Task``: ``optimizer``, ``scheduler``, ``metadata`` and
            ``backbone_lr_factor``.
    """

    kind = "classification"

    def __init__(
        self,
        *,
        model: nn.Module,
        class_names: Sequence[str] = ("negative", "positive"),
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        metrics: OwnMetrics | None = None,
        threshold: float | str = 0.5,
        sensitivity: float | None = None,
        prevalence: float | None = None,
        ordered_classes: bool = False,
        mixing: Mixing | None = None,
        **common: Any,
    ) -> None:
        fixed = 0.5 if isinstance(threshold, str) else float(threshold)
        names = list(class_names)
        super().__init__(
            model=model,
            loss=CrossEntropy(num_classes=len(names)) if loss is None else loss,
            metrics=partial(
                ClassificationScores, class_names=names, threshold=fixed, ordered=ordered_classes
            ),
            own_metrics=metrics,
            **common,
        )
        self.class_names, self.threshold, self.mixing = names, threshold, mixing
        self.sensitivity, self.prevalence = sensitivity, prevalence
        self.ordered_classes = ordered_classes

    def arguments(self) -> dict[str, Plain]:
        return {
            **super().arguments(),
            "class_names": [*self.class_names],
            "threshold": self.threshold,
            "sensitivity": self.sensitivity,
            "ordered_classes": self.ordered_classes,
            "prevalence": self.prevalence,
        }

    def loss_examples(self) -> list[tuple[Tensor, Tensor]]:
        num_classes = len(self.class_names)
        logits = torch.zeros(2, 1 if num_classes == 2 else num_classes)
        examples = [(logits, torch.zeros(2, dtype=torch.int64))]
        if self.mixing is not None:
            examples.append((logits, torch.full((2, num_classes), 1 / num_classes)))
        return examples

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.mixing is None:
            return super().training_step(batch, batch_idx)
        step = self.trainer.fit_loop.total_batch_idx
        batch = batch_of(batch)
        image, soft_target = self.mixing(batch["image"], batch["target"], step)
        loss = self.loss(self(image), soft_target)
        self.train_loss.update(loss.detach(), len(image))
        return loss
