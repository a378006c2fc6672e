"""Pictures of validation for a tracker: curves, confusion, and some images with their results."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from medvision.callbacks.trackers import picture_loggers, write_picture
from medvision.inference.results import predicted_classes
from medvision.metrics import (
    classification_scores,
    precision_recall_points,
    probabilities,
    roc_points,
)
from medvision.task_definition import task_of
from medvision.types import IGNORE_INDEX

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.figure import Figure

NUM_IMAGES = 8
"""Validation images in a panel, spread evenly over the split, the same in every epoch."""

SIDE_PX = 256
"""Longer side of each, so that a panel stays small in a log."""


class ValidationPictures(ABC):
    """Collect the outputs of a validation epoch, and draw them.

    Args:
        task: LightningModule of the task, with ``class_names``.
        num_images: Number of validation images.
        mark: Remark for titles, such as ``(synthetic data)``.
    """

    def __init__(self, *, task: Any, num_images: int, mark: str) -> None:
        self.task, self.class_names, self.mark = task, list(task.class_names), mark
        count = min(NUM_IMAGES, num_images)
        self._chosen = {int(row) for row in np.linspace(0, max(0, num_images - 1), count)}
        self._seen = 0
        self.images: list[NDArray[np.uint8]] = []
        self.logits: list[NDArray[np.float32]] = []
        self.targets: list[NDArray[Any]] = []

    def add(self, logits: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Keep what is needed of a batch."""
        index = batch.get("index")
        rows = range(self._seen, self._seen + len(logits)) if index is None else index.tolist()
        self._seen += len(logits)
        for position, row in enumerate(rows):
            if row in self._chosen:
                self.images.append(_pixels(batch["image"][position]))
                self.logits.append(logits[position].float().cpu().numpy())
                self.targets.append(batch["target"][position].cpu().numpy())

    @abstractmethod
    def draw(self) -> dict[str, Figure]:
        """Draw the pictures of the epoch, by name; called before the metrics are reset."""


class SegmentationPictures(ValidationPictures):
    """ROC of all pixels, and images with true and predicted outlines."""

    def draw(self) -> dict[str, Figure]:
        from medvision.reports.plots.overlays import draw_grid, draw_overlay
        from medvision.reports.plots.segmentation import draw_roc

        metrics, figures = self.task.val_metrics, dict[str, Any]()
        area = float(metrics.compute()["auroc"])
        if math.isfinite(area):
            false, true, _ = (curve.double().cpu().numpy() for curve in metrics.roc())
            figures["roc"] = draw_roc(false, true, auroc=area, mark=self.mark, of="validation")
        pictures, titles = [], []
        for image, logits, target in zip(self.images, self.logits, self.targets, strict=True):
            predicted = predicted_classes(np.moveaxis(logits, 0, -1).squeeze())
            pictures.append(draw_overlay(image, predicted, truth=target.astype(np.uint8)))
            titles.append(f"Dice {_dice(predicted, target):.3f}")
        if pictures:
            note = f"Validation images{self.mark}: outlines true (green) and predicted"
            figures["images"] = draw_grid(pictures, titles, note=note, columns=2)
        return figures


class ClassificationPictures(ValidationPictures):
    """ROC, precision and recall, confusion, and images with true and predicted class."""

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._all: list[tuple[NDArray[np.float64], NDArray[Any]]] = []

    def add(self, logits: Tensor, batch: Mapping[str, Tensor]) -> None:
        super().add(logits, batch)
        target = batch["target"].cpu().numpy()
        known = target != IGNORE_INDEX
        self._all.append((probabilities(logits).numpy()[known], target[known]))

    def draw(self) -> dict[str, Figure]:
        from medvision.reports.plots.classification import (
            draw_confusion,
            draw_precision_recall,
            draw_roc,
        )
        from medvision.reports.plots.overlays import draw_grid

        names = self.class_names
        probability = np.concatenate([p for p, _ in self._all])
        target = np.concatenate([t for _, t in self._all]).astype(np.int64)
        if not len(target):
            return {}
        threshold = self.task.val_metrics.threshold
        scores = classification_scores(probability, target, class_names=names, threshold=threshold)
        predicted = self._predicted(probability, threshold)
        cells = np.bincount(target * len(names) + predicted, minlength=len(names) ** 2)
        confusion = cells.reshape(len(names), len(names))
        roc, precision = {}, {}
        for k, name in enumerate(names):
            roc[name] = roc_points(probability[:, k], target == k)[:2]
            found = precision_recall_points(probability[:, k], target == k)
            precision[name] = (found[1], found[0])
        common: Any = {"mark": self.mark, "of": "validation"}
        figures = {
            "roc": draw_roc(roc, confusion, names, threshold=threshold, scores=scores, **common),
            "precision_recall": draw_precision_recall(
                precision, confusion, names, scores=scores, **common
            ),
            "confusion": draw_confusion(confusion, names, **common),
        }
        if self.images:
            logits = torch.from_numpy(np.stack(self.logits))
            shown = probabilities(logits).numpy()
            chosen = self._predicted(shown, threshold)
            titles = [
                f"{names[p]} {100 * own[p]:.1f} %\ntrue: {_name(names, t)}"
                for p, own, t in zip(chosen, shown, self.targets, strict=True)
            ]
            note = f"Validation images{self.mark}: predicted and true class"
            figures["images"] = draw_grid(self.images, titles, note=note)
        return figures

    @staticmethod
    def _predicted(probability: NDArray[Any], threshold: float) -> NDArray[np.int64]:
        if probability.shape[1] == 2:
            return (probability[:, 1] >= threshold).astype(np.int64)
        return probability.argmax(axis=1)


class TrackedPictures(Callback):
    """Send pictures of validation to the loggers that may hold images.

    A logger that sends what it gets to another machine gets none, unless ``upload`` is set: the
    images are those of patients.

    Args:
        every_n_epochs: Epochs from one picture to the next.
        upload: If True, pictures may leave this machine.
        mark: Remark for titles, such as ``(synthetic data)``.
    """

    def __init__(self, *, every_n_epochs: int, upload: bool = False, mark: str = "") -> None:
        self.every_n_epochs, self.upload, self.mark = every_n_epochs, upload, mark
        self._pictures: ValidationPictures | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pictures = None
        epoch = trainer.current_epoch + 1
        due = epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs
        task = getattr(pl_module, "kind", None)
        if not due or trainer.sanity_checking or task is None or not trainer.is_global_zero:
            return
        reference = task_of(task).pictures
        if reference is None or not picture_loggers(trainer.loggers, upload=self.upload):
            return
        loaders: Any = trainer.val_dataloaders
        num_images = len(getattr(loaders, "dataset", ()))
        make = task_of(task).load("pictures")
        self._pictures = make(task=pl_module, num_images=num_images, mark=self.mark)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: int
    ) -> None:
        if self._pictures is not None:
            self._pictures.add(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._pictures is None:
            return
        import matplotlib as mpl

        from medvision.reports.plots.style import STYLE, figure_png

        pictures, self._pictures = self._pictures, None
        with mpl.rc_context(STYLE):
            drawn = {name: figure_png(figure) for name, figure in pictures.draw().items()}
        for logger in picture_loggers(trainer.loggers, upload=self.upload):
            for name, png in drawn.items():
                write_picture(logger, f"val_pictures/{name}", png, epoch=trainer.current_epoch + 1)


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    """Image (C, H, W), uint8 or floats, as uint8 (H, W, 3) of a limited size."""
    from medvision.reports.plots.overlays import as_rgb

    values = image.detach()
    if values.is_floating_point():
        low, high = values.amin(), values.amax()
        if low < 0 or high > 1:  # standardised outside of the network
            values = (values - low) / (high - low).clamp_min(1e-6)
        values = (values * 255).round()
    pixels = values.to(torch.uint8).cpu().permute(1, 2, 0).numpy()
    return as_rgb(pixels[..., :1] if pixels.shape[2] == 2 else pixels[..., :3])


def _dice(predicted: NDArray[np.uint8], target: NDArray[Any]) -> float:
    known = target != IGNORE_INDEX
    a, b = (predicted > 0) & known, (target > 0) & known
    return float((2 * (a & b).sum() + 1e-7) / (a.sum() + b.sum() + 1e-7))


def _name(names: Sequence[str], target: NDArray[Any]) -> str:
    return names[int(target)] if int(target) < len(names) else "unknown"
