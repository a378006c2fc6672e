"""Wrappers for further metrics of a task: of single images, and of predicted classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class _Wrapper(Metric):
    """A metric around another one; better in the same direction."""

    is_differentiable = False
    full_state_update = False

    def __init__(self, *, metric: Metric) -> None:
        super().__init__()
        if not isinstance(metric, Metric):
            raise TypeError(f"expected a torchmetrics.Metric, got {type(metric).__name__}")
        self.metric = metric

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """That of the wrapped metric."""
        return self.metric.higher_is_better


class PerImage(_Wrapper):
    """Mean over images of a metric that is computed for each image on its own.

    The final scores of a run have an interval then, over images, and its predictions a column with
    the value of each image. Images for which the metric is NaN are left out. Costs an update and a
    computation for each image.

    Args:
        metric: Updated with (probabilities, target) of one image, (1, ...), and computing a number.
    """

    total: Tensor
    num_images: Tensor

    def __init__(self, *, metric: Metric) -> None:
        super().__init__(metric=metric)
        self.metric.sync_on_compute = False  # other processes are at other images
        self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_images", default=torch.tensor(0), dist_reduce_fx="sum")
        self._rows: list[Tensor] = []
        self.values: list[float] = []
        """Value of each image before the last ``compute``, in this process."""

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Add each image of probabilities (N, ...) and target (N, ...)."""
        for row in range(len(target)):
            self.metric.reset()
            self.metric.update(probability[row : row + 1], target[row : row + 1])
            value = torch.as_tensor(self.metric.compute(), device=self.total.device).float()
            if value.numel() != 1:
                raise ValueError(f"expected a number for each image, got {tuple(value.shape)}")
            self._rows.append(value.reshape(()))
        values = torch.stack(self._rows[-len(target) :]) if len(target) else self.total.new_empty(0)
        defined = values.isfinite()
        self.total = self.total + torch.where(defined, values, 0.0).sum()
        self.num_images = self.num_images + defined.sum()

    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar; NaN without any image."""
        if self._rows:
            self.values = torch.stack(self._rows).tolist()
        return self.total / self.num_images

    def reset(self) -> None:
        super().reset()
        self._rows = []


class OfClasses(_Wrapper):
    """A metric of predicted classes instead of probabilities, such as those of segmentation.

    Args:
        metric: Updated with class indices (N, ...) and the target (N, ...).
        threshold: Probability from which the second of two classes is predicted.
    """

    def __init__(self, *, metric: Metric, threshold: float = 0.5) -> None:
        super().__init__(metric=metric)
        self.threshold = threshold

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Add probabilities (N, ...) of the second of two classes, or (N, K, ...)."""
        of_each = probability.ndim > target.ndim
        classes = probability.argmax(1) if of_each else (probability >= self.threshold).long()
        self.metric.update(classes, target)

    def compute(self) -> Any:
        """Compute the wrapped metric."""
        return self.metric.compute()

    def reset(self) -> None:
        super().reset()
        self.metric.reset()
