"""Classification: a class for every image."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from medvision.metrics import ClassificationScores
from medvision.tasks.base import Plain, Schedule, Task
from medvision.types import Batch


class Mixing(Protocol):
    """Mixes the images of a batch, and their labels with them."""

    def __call__(self, image: Tensor, target: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [0, 1] and soft labels (N, K)."""
        ...


class ClassificationTask(Task):
    """Task whose targets are class indices (N,).

    With two classes the logits are (N, 1) of the second, with more (N, K). Logs the accuracy,
    balanced accuracy, precision, recall, specificity, F1, AUROC, average precision, calibration
    error and confusion of each stage, and of each class; ``ClassificationScores`` defines them.

    Args:
        model: Maps images (N, C, H, W) to logits.
        loss: Maps (logits, target) to a scalar.
        optimizer: Given the parameters, or groups of them, returns the optimizer.
        class_names: Name of each class; of two the second is the positive one.
        threshold: Probability of the positive class from which on it is predicted, or the rule
            that chooses it on validation: while training it is then 0.5.
        sensitivity: What the rule of that name asks for, in (0, 1]; not used while training.
        prevalence: Share of positives that PPV and NPV are stated for; not used while training.
        scheduler: Given the optimizer and the number of steps, returns a schedule or None.
        metadata: Plain values written into every checkpoint.
        backbone_lr_factor: Learning rate of the backbone over that of the head.
        mixing: Mixes training batches; they then have a loss, but no other score.
    """

    kind = "classification"

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Callable[[Any], Optimizer],
        class_names: Sequence[str],
        threshold: float | str = 0.5,
        sensitivity: float | None = None,
        prevalence: float | None = None,
        scheduler: Schedule | None = None,
        metadata: Mapping[str, Plain] | None = None,
        backbone_lr_factor: float = 1.0,
        mixing: Mixing | None = None,
    ) -> None:
        fixed = 0.5 if isinstance(threshold, str) else float(threshold)
        names = list(class_names)
        super().__init__(
            model=model,
            loss=loss,
            metrics=partial(ClassificationScores, class_names=names, threshold=fixed),
            optimizer=optimizer,
            scheduler=scheduler,
            metadata=metadata,
            backbone_lr_factor=backbone_lr_factor,
        )
        self.class_names, self.threshold, self.mixing = names, threshold, mixing
        self.sensitivity, self.prevalence = sensitivity, prevalence

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.mixing is None:
            return super().training_step(batch, batch_idx)
        step = self.trainer.fit_loop.total_batch_idx
        image, soft_target = self.mixing(batch["image"], batch["target"], step)
        loss = self.loss(self(image), soft_target)
        self.train_loss.update(loss.detach(), len(image))
        return loss
