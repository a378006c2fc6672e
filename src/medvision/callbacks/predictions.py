"""Collect and write predictions for every image of a split."""

from collections.abc import Sequence
from math import hypot, nan
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from scipy.sparse import csr_array, vstack

from medvision.data.samples import Sample
from medvision.data.sources import Source
from medvision.files import short_name, write_atomically, write_table
from medvision.inference.results import enlarge, predicted_classes
from medvision.metrics import (
    finite_images,
    foreground_logit,
    foreground_probability,
    per_image_scores,
    pixel_confusion,
    pixel_histogram,
    probabilities,
    rank_groups,
    surface_distances,
    to_uint8,
)
from medvision.metrics.conventions import SegmentationConventions
from medvision.metrics.lesions import detected_lesions
from medvision.metrics.overlap import merged_bins
from medvision.types import IGNORE_INDEX, Batch, Stage

MOST_ENTRIES = 10_000_000
"""Number of pixel counts, 12 bytes each, that are kept without grouping bins."""


class SegmentationPredictions(Callback):
    """Collect a row per image, and on test write its foreground probability as a PNG.

    The rows contain the scores at the network's size and, as ``_original``, at the size of the
    file: the logits enlarged bilinearly against the original mask. ``lesion_percent`` is the share
    of the image that the true foreground covers; the counts of ``detected_lesions`` follow. The
    scores of an image with a logit that is not finite are NaN, and it has no probability map.

    Args:
        folder: Run folder; writes ``predictions_<stage>.csv`` and ``predictions_test/`` there.
        stage: ``val`` or ``test``.
        samples: Table of the split.
        source: Reads a sample at the size of its file.
        class_names: Name of each class, the background first.
        surface: If True, add HD95 and surface Dice, in pixels of the file; they take longer than
            the network.
        conventions: Updated with every batch, if given.

    Attributes:
        rows: Rows of the csv, in the order of the table.
        roc: False and true positive rate and threshold of all pixels, at up to 257 thresholds.
        confusion: Pixels of each image by true and predicted class, (N, K, K).
        histogram: Pixels of each image by true class and rising foreground logit, (N, 2, B), in up
            to 1024 groups of bins.
        not_finite: Number of images with a logit that is not finite.
        diagonal_px: Diagonal of the largest file.
    """

    def __init__(
        self,
        *,
        folder: Path,
        stage: Stage,
        samples: Sequence[Sample],
        source: Source,
        class_names: Sequence[str],
        surface: bool = False,
        conventions: SegmentationConventions | None = None,
    ) -> None:
        self.conventions = conventions
        self.folder, self.stage, self.samples, self.source = folder, stage, samples, source
        self.class_names, self.surface = list(class_names), surface
        self.rows: list[dict[str, Any]] = []
        self.roc: tuple[NDArray[np.float64], ...] | None = None
        self._names = _png_names(samples)
        self._confusion: list[NDArray[np.int64]] = []
        self._histogram: list[csr_array] = []  # 2 rows of bins side by side, most of them empty
        self._entries = 0
        self._group: torch.Tensor | None = None  # of each bin, once there are many entries
        self.not_finite, self.diagonal_px = 0, 0.0

    @property
    def confusion(self) -> NDArray[np.int64]:
        return np.concatenate(self._confusion)

    @property
    def histogram(self) -> NDArray[np.int64]:
        of_images = vstack(self._histogram, format="csr")
        _, merge = _merged(of_images, most=1024)
        num_groups = merge.shape[1] // 2
        return (of_images @ merge).toarray().reshape(-1, 2, num_groups)

    def _add_histogram(self, logit: torch.Tensor, target: torch.Tensor) -> None:
        """Keep the pixels of an image (H, W) by bin; in fewer bins once there are many entries."""
        counts = pixel_histogram(logit[None], target[None])
        if self._group is not None:
            counts = merged_bins(counts, self._group)
        self._histogram.append(csr_array(counts.numpy().reshape(1, -1)))
        self._entries += self._histogram[-1].nnz
        if self._group is None and self._entries > MOST_ENTRIES:
            of_images = vstack(self._histogram, format="csr")
            self._group, merge = _merged(of_images, most=2**14)
            self._histogram = [of_images @ merge]

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *args: int
    ) -> None:
        self._write(outputs, batch)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = getattr(pl_module, f"{self.stage}_metrics")
        self.roc = tuple(curve.double().cpu().numpy() for curve in metrics.roc())
        write_table(self.folder / f"predictions_{self.stage}.csv", self.rows)

    on_test_epoch_end = on_validation_epoch_end

    def _write(self, logits: torch.Tensor, batch: Batch) -> None:
        logits, target = logits.float().cpu(), batch["target"].cpu()
        index = batch["index"].cpu()
        real = index >= 0  # the other rows pad the batch
        if not real.any():
            return
        if not real.all():
            logits, target, index = logits[real], target[real], index[real]
        scores = per_image_scores(logits, target, class_names=self.class_names)
        finite = finite_images(logits)
        self.not_finite += int((~finite).sum())
        target = torch.where(finite[:, None, None], target, IGNORE_INDEX)
        probability = foreground_probability(logits)
        self._confusion.append(pixel_confusion(logits, target).numpy())
        ignored = target >= len(self.class_names)
        foreground = (target > 0).to(torch.uint8) + ignored  # 2: ignored
        for values, labels in zip(foreground_logit(logits), foreground, strict=True):
            self._add_histogram(values, labels)
        if self.conventions is not None:
            self.conventions.update(self._confusion[-1], probability.numpy(), target.numpy())
        pixels = to_uint8(probability).numpy()
        for position, row in enumerate(index.tolist()):
            sample = self.samples[row]
            record: dict[str, Any] = {"path": sample.path, "target": sample.target, "predicted": ""}
            if self.stage == "test" and finite[position]:
                record["predicted"] = f"predictions_test/{self._names[row]}"
                _write_png(self.folder / record["predicted"], pixels[position])
            record |= {name: float(values[position]) for name, values in scores.items()}
            _, mask = self.source.read(sample)
            assert mask is not None  # segmentation sources have masks
            self.diagonal_px = max(self.diagonal_px, hypot(*mask.shape))
            own = logits[position] if finite[position] else torch.full_like(logits[position], nan)
            record |= self._score_file(own.numpy(), mask)
            self.rows.append(record)

    def _score_file(self, logits: NDArray[np.float32], mask: NDArray[np.uint8]) -> dict[str, float]:
        """Scores of logits (K, S, S) against a mask (H, W), at its size."""
        enlarged = enlarge(logits, (mask.shape[0], mask.shape[1]))
        planes = torch.from_numpy(np.atleast_3d(enlarged)).permute(2, 0, 1)[None]
        target = torch.from_numpy(mask)[None]
        scores = per_image_scores(planes, target, class_names=self.class_names)
        at_file_size = {k: v for k, v in scores.items() if k.split("/")[0] in ("dice", "iou")}
        found = {f"{name}_original": float(value) for name, value in at_file_size.items()}
        options: Any = {"num_classes": len(self.class_names), "class_names": self.class_names}
        known, predicted = bool(np.isfinite(logits).all()), predicted_classes(enlarged)
        if self.surface:
            distances = surface_distances(predicted, mask, **options)
            found |= distances if known else dict.fromkeys(distances, nan)
        if self.stage == "test":
            lesions = detected_lesions(predicted, mask, **options)
            found |= lesions if known else dict.fromkeys(lesions, nan)
        labelled = mask != IGNORE_INDEX
        num_labelled = max(1, int(np.count_nonzero(labelled)))
        lesion_px = int(np.count_nonzero(mask[labelled]))
        return {**found, "lesion_percent": 100 * lesion_px / num_labelled}


def _merged(of_images: csr_array, *, most: int) -> tuple[torch.Tensor, csr_array]:
    """Group of each bin by ``rank_groups``, and the matrix that adds the bins of a group."""
    both = torch.from_numpy(of_images.sum(axis=0).reshape(2, -1))
    group = rank_groups(both, most=most)
    num_bins, num_groups = len(group), int(group[-1]) + 1
    places = np.concatenate([group.numpy(), group.numpy() + num_groups])
    ones = np.ones(2 * num_bins, np.int64)
    shape = (2 * num_bins, 2 * num_groups)
    return group, csr_array((ones, (np.arange(2 * num_bins), places)), shape=shape)


def _png_names(samples: Sequence[Sample]) -> list[str]:
    """A PNG name for each sample below its images folder; no two samples share one."""
    names: list[str] = []
    taken: set[str] = set()
    for sample in samples:
        parts = PurePosixPath(sample.path).parts
        below = parts[parts.index("images") + 1 :] if "images" in parts[:-1] else parts
        name = short_name(str(PurePosixPath(*below).with_suffix(".png")))
        if name.casefold() in taken:
            name = short_name(f"{sample.path}.png")
        taken.add(name.casefold())
        names.append(name)
    return names


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(".png", pixels)
    write_atomically(path, encoded.tobytes())


class Outputs(Callback):
    """Keep logits and target of every image, in the order of the split's table."""

    def __init__(self) -> None:
        self._logits: list[NDArray[np.float32]] = []
        self._target: list[NDArray[Any]] = []
        self._index: list[NDArray[np.int64]] = []

    @property
    def logits(self) -> NDArray[np.float64]:
        """Logits of the network, (N, ...)."""
        return np.concatenate(self._logits).astype(np.float64)

    @property
    def target(self) -> NDArray[Any]:
        """Target of each image, (N, ...)."""
        return np.concatenate(self._target)

    @property
    def index(self) -> NDArray[np.int64]:
        """Row of each image in its split's table, (N,); empty before the first batch."""
        return np.concatenate([np.empty(0, np.int64), *self._index])

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *args: int
    ) -> None:
        self._keep(outputs, batch)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]

    def _keep(self, logits: torch.Tensor, batch: Batch) -> NDArray[np.bool_]:
        """Keep the rows of a batch that are not padding, and return their mask."""
        index = batch["index"].cpu().numpy()
        real = np.asarray(index >= 0)
        self._logits.append(logits.float().cpu().numpy()[real])
        self._target.append(batch["target"].cpu().numpy()[real])
        self._index.append(index[real])
        return real


class ClassProbabilities(Outputs):
    """Keep logits, class probabilities and class index of every image."""

    def __init__(self) -> None:
        super().__init__()
        self._probability: list[NDArray[np.float64]] = []

    @property
    def probability(self) -> NDArray[np.float64]:
        """Probability of each class, (N, K)."""
        return np.concatenate(self._probability)

    @property
    def logits(self) -> NDArray[np.float64]:
        """Logit of each class, (N, K); for two classes, 0 and the logit of the second.

        They distinguish values that probabilities round to 0 and 1.
        """
        logits = super().logits
        return np.pad(logits, ((0, 0), (1, 0))) if logits.shape[1] == 1 else logits

    @property
    def is_finite(self) -> NDArray[np.bool_]:
        """True for images whose logits are all finite, (N,)."""
        return np.asarray(np.isfinite(self.probability).all(axis=1))

    @property
    def target(self) -> NDArray[np.int64]:
        """Class index of each image, (N,)."""
        return super().target.astype(np.int64)

    def _keep(self, logits: torch.Tensor, batch: Batch) -> NDArray[np.bool_]:
        real = super()._keep(logits, batch)
        self._probability.append(probabilities(logits).numpy()[real])
        return real
