"""Scores as defined by papers and libraries, from one set of predictions.

A and B are the predicted and labelled pixels of one class, p is the foreground probability of a
pixel and b its label. Predicted is p >= 0.5, or the class with the largest logit. The definitions
of Dice and IoU were read from the published code of each tool: smp 0.6, MONAI 1.6, torchmetrics
1.9, nnU-Net 2, mmsegmentation 1, and the MATLAB evaluation of PraNet. Classification scores are
computed by scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.classification import ClassifiedImages, mean_over_defined
from medvision.metrics.ranking import counts_at_least

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

OWN = {"two": "per_image", "more": "per_image_present"}
"""Key of medvision's own Dice and IoU, for two classes and for more."""

EPSILON = 1e-7
"""Smoothing of medvision's own definition: two empty sets score 1."""

NUM_THRESHOLDS = 256
_PRANET = np.arange(NUM_THRESHOLDS) / 255
_EVEN = np.arange(NUM_THRESHOLDS) / 256  # includes 0.5


@cache
def _tables() -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = yaml.safe_load(
        Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    )
    return tables


def conventions_for(of: Literal["pixels", "images"], num_classes: int) -> list[dict[str, Any]]:
    """List the conventions that differ for this number of classes, medvision's own first.

    Args:
        of: Kind of scored items.
        num_classes: K >= 2.

    Returns:
        One dict per convention: ``key``, a stable name; for a classification ``score``, the key of
        medvision's own; ``name``, a few words; ``tools``, the tools that report it;
        ``definition``, a sentence; ``own``, True for medvision's own, the reference of the
        differences; ``optimistic``, True if something was chosen on the scored images, so that it
        is not a test score; and ``binary_only``, True if it is defined for two classes only.
    """
    kind = "more" if num_classes > 2 else "two"
    return [
        {
            "key": row["key"],
            **({"score": row["score"]} if "score" in row else {}),
            "name": row.get(f"name_of_{kind}", row["name"]),
            "tools": row.get(f"tools_of_{kind}", row["tools"]),
            "definition": row["definition"],
            "own": row["key"] in (row.get("score"), *OWN.values()),
            "optimistic": row.get("optimistic", False),
            "binary_only": row.get("binary_only", False),
        }
        for row in _tables()[of]
        if row.get("classes", kind) == kind
    ]


class SegmentationConventions:
    """Accumulate the inputs of every convention, image by image, in a state of fixed size.

    Two conventions score every threshold. PraNet's evaluation stretches each map to [0, 1],
    thresholds it at k/255 for k = 0..255, and scores 0 where both sets are empty. The other
    thresholds the probability itself at k/256 and scores two empty sets as 1.

    Args:
        num_classes: K >= 2, the background first. Conventions based on foreground probabilities
            are defined for K = 2 only.
    """

    def __init__(self, num_classes: int = 2) -> None:
        if num_classes < 2:
            raise ValueError(f"expected two classes or more, got {num_classes}")
        self.num_classes, self.num_images = num_classes, 0
        self._sizes = np.zeros((3, num_classes))  # of all images together
        self._means: dict[str, Floats] = {}
        self._stretched, self._plain = np.zeros((2, 2, NUM_THRESHOLDS))

    def update(
        self,
        confusion: NDArray[np.integer[Any]],
        probability: NDArray[Any],
        target: NDArray[Any],
    ) -> None:
        """Add images. Images whose pixels are all ignored are left out.

        Args:
            confusion: Pixels by true and predicted class, (N, K, K).
            probability: Foreground probability (N, H, W) in [0, 1]; used for K = 2 only. NaN counts
                as 0, as in the scores.
            target: Class indices, (N, H, W); values outside [0, K) are ignored.

        Raises:
            ValueError: If the shapes do not match.
        """
        num_images, size = len(confusion), (self.num_classes, self.num_classes)
        if confusion.shape[1:] != size or {len(probability), len(target)} != {num_images}:
            raise ValueError(
                f"expected confusion (N, {size[0]}, {size[0]}) and N maps and targets, got"
                f" {confusion.shape}, {len(probability)} and {len(target)}"
            )
        if probability.shape != target.shape:
            raise ValueError(f"expected target {probability.shape}, got {target.shape}")
        for counts, chances, classes in zip(confusion, probability, target, strict=True):
            if not counts.any():
                continue
            self.num_images += 1
            self._add_counts(_sizes(counts))
            if self.num_classes == 2:
                counted = (classes >= 0) & (classes < 2)
                p = np.nan_to_num(chances[counted].astype(np.float64), nan=0.0)
                self._add_probability(p, classes[counted] == 1)

    def compute(self) -> list[dict[str, Any]]:
        """Compute every convention, medvision's own first.

        Returns:
            The columns of ``conventions_for``, ``dice`` and ``iou`` in [0, 1], and
            ``dice_difference`` and ``iou_difference`` from medvision's own; None where undefined.
        """
        table = self._table() if self.num_images else {}
        undefined = np.full(2, np.nan)
        own = table.get(OWN["more" if self.num_classes > 2 else "two"], undefined)
        rows = []
        for row in conventions_for("pixels", self.num_classes):
            values = table.get(row["key"], undefined)
            for end, pair in (("", values), ("_difference", values - own)):
                row |= {f"dice{end}": _or_none(pair[0]), f"iou{end}": _or_none(pair[1])}
            rows.append(row)
        return rows

    def _table(self) -> dict[str, Floats]:
        """Collect Dice and IoU (2,) by the key of each convention."""
        with np.errstate(invalid="ignore"):  # 0/0 is NaN: undefined
            table = {key: (sums / counts).mean(1) for key, (sums, counts) in self._means.items()}
        for key in ("per_image_labelled", "per_image_labelled_with_background"):
            # MONAI's result for a class without any labelled pixel
            table[key] = np.nan_to_num(table[key], nan=0.0)
        scores = dice_and_iou(*self._sizes)
        table |= {
            "pooled": dice_and_iou(*self._sizes[:, 1:], smooth=EPSILON).mean(1),
            "pooled_with_background": mean_over_defined(scores),
            "pooled_with_background_absent_1": np.nan_to_num(scores, nan=1.0).mean(1),
            "micro_with_background": dice_and_iou(*self._sizes.sum(1)),
        }
        if self.num_classes == 2:
            table |= {
                "mean_over_thresholds": self._stretched.mean(1) / self.num_images,
                "max_over_thresholds": self._stretched.max(1) / self.num_images,
                "best_threshold_on_this_set": self._plain.max(1) / self.num_images,
            }
        return table

    def _add_counts(self, sizes: Floats) -> None:
        """Add the conventions that average over images and need only class counts."""
        self._sizes += sizes
        scores = dice_and_iou(*sizes)
        labelled = np.where(sizes[2] > 0, scores, np.nan)
        smoothed = dice_and_iou(*sizes[:, 1:], smooth=EPSILON)
        self._add("per_image" if self.num_classes == 2 else "per_image_empty_1", smoothed)
        present = np.where(sizes[2, 1:] > 0, smoothed, np.nan)
        self._add("per_image_present", mean_over_defined(present))
        self._add("per_image_defined", scores[:, 1:], columns=self.num_classes - 1)
        self._add("per_image_labelled", mean_over_defined(labelled[:, 1:]))
        self._add("per_image_labelled_with_background", mean_over_defined(labelled))
        self._add("per_image_with_background_empty_1", np.nan_to_num(scores, nan=1.0))
        self._add("micro_per_image_with_background", dice_and_iou(*sizes.sum(1)))
        # torchmetrics averages Dice within each image first, IoU over all classes of all images
        self._add("per_image_with_background", (mean_over_defined(scores)[0], scores[1]))

    def _add_probability(self, probability: Floats, mask: Mask) -> None:
        overlap = 2 * probability.sum(where=mask) + 1
        soft = overlap / (probability.sum() + np.count_nonzero(mask) + 1)
        self._add("soft_smooth_1", (soft, np.nan))
        low, high = probability.min(), probability.max()
        stretched = (probability - low) / (high - low) if high > low else probability
        self._stretched += np.nan_to_num(_at_thresholds(stretched, mask, _PRANET), nan=0.0)
        self._plain += np.nan_to_num(_at_thresholds(probability, mask, _EVEN), nan=1.0)

    def _add(self, key: str, scores: Iterable[ArrayLike], *, columns: int = 1) -> None:
        """Add any number of Dice and IoU scores to the means, ignoring NaN.

        Args:
            key: Key of the convention.
            scores: Dice and IoU of one image.
            columns: Number of parts with separate means, which are averaged at the end.
        """
        sums, counts = self._means.setdefault(key, np.zeros((2, 2, columns)))
        for row, values in enumerate(scores):
            parts = np.reshape(values, (columns, -1))
            sums[row] += np.nansum(parts, axis=1)
            counts[row] += (~np.isnan(parts)).sum(axis=1)


def dice_and_iou(
    overlap: ArrayLike, predicted: ArrayLike, labelled: ArrayLike, *, smooth: float = 0.0
) -> Floats:
    """Compute Dice and IoU (2, ...) of pairs of sets, from their sizes.

    Args:
        overlap: Pixels in both sets, (...).
        predicted: Predicted pixels, (...).
        labelled: Labelled pixels, (...).
        smooth: Added to numerator and denominator; with 0 two empty sets are NaN.
    """
    both, total = np.asarray(overlap, np.float64), np.add(predicted, labelled, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.stack(
            [(2 * both + smooth) / (total + smooth), (both + smooth) / (total - both + smooth)]
        )


def _sizes(confusion: NDArray[np.integer[Any]]) -> Floats:
    """Count overlap, predicted and labelled pixels of each class, (3, K)."""
    return np.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)]).astype(np.float64)


def _at_thresholds(probability: Floats, mask: Mask, thresholds: Floats) -> Floats:
    """Dice and IoU where p >= threshold, (2, T), for rising thresholds; NaN for empty sets."""
    passed = np.searchsorted(thresholds, probability, side="right")
    overlap, wrong = (
        np.bincount(passed[side], minlength=len(thresholds) + 1)[::-1].cumsum()[::-1][1:]
        for side in (mask, ~mask)
    )
    return dice_and_iou(overlap, overlap + wrong, np.count_nonzero(mask))


def classification_conventions(
    probability: ArrayLike,
    target: ArrayLike,
    *,
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> list[dict[str, Any]]:
    """Score the same predictions by every convention, medvision's own first of each score.

    Args:
        probability: Probabilities (N, K), rows summing to 1; for two classes columns 1 - p and p.
        target: Class indices in [0, K), (N,).
        class_names: The K >= 2 classes.
        threshold: Threshold in use, in [0, 1]; for two classes.

    Returns:
        The columns of ``conventions_for``, ``value`` in [0, 1], and ``difference`` from
        medvision's own score; None where undefined.

    Raises:
        ValueError: If shapes, probabilities, targets, names or threshold are invalid.
    """
    images = ClassifiedImages(probability, target, class_names=class_names, threshold=threshold)
    values = {name: float(value[0]) for name, value in images.scores().items()}
    if len(images):
        values |= _other_scores(images, np.asarray(probability, np.float64), np.asarray(target))
    rows = conventions_for("images", len(class_names))
    for row in rows:
        value = values.get(row["key"], np.nan)
        row |= {"value": _or_none(value), "difference": _or_none(value - values[row["score"]])}
    return rows


def _other_scores(
    images: ClassifiedImages, probability: Floats, target: NDArray[Any]
) -> dict[str, float]:
    """Compute scores with scikit-learn, by the key of their convention."""
    from sklearn import metrics  # import takes a second and is needed by one flag only

    predicted, two = images.predicted_class, probability.shape[1] == 2
    precision, recall, macro, _ = metrics.precision_recall_fscore_support(
        target, predicted, average="macro", zero_division=0
    )
    total = precision + recall
    found = {
        "f1_macro": macro,
        "f1_weighted": metrics.f1_score(target, predicted, average="weighted"),
        "f1_micro": metrics.f1_score(target, predicted, average="micro"),
        "f1_of_means": 2 * precision * recall / total if total else np.nan,
    }
    if two:
        found |= _at_other_thresholds(probability[:, 1], target)
    if not images.labelled.any(axis=0).all():  # an absent class leaves no pair to rank
        return found
    if two:
        return {**found, "auroc_of_classes": metrics.roc_auc_score(target, predicted)}
    ranked = {
        "auroc_weighted": ("ovr", "weighted"),
        "auroc_micro": ("ovr", "micro"),
        "auroc_one_to_one": ("ovo", "macro"),
        "auroc_one_to_one_weighted": ("ovo", "weighted"),
    }
    return found | {
        key: metrics.roc_auc_score(target, probability, multi_class=pairs, average=average)
        for key, (pairs, average) in ranked.items()
    }


def _at_other_thresholds(positive: Floats, target: NDArray[Any]) -> dict[str, float]:
    """Compute accuracy and F1 of the positive class at 0.5, and at the best threshold of each."""
    false, true, threshold = counts_at_least(positive, target == 1)
    false, true = np.append(false, 0), np.append(true, 0)  # the last threshold predicts nothing
    num_positive = true[0]
    with np.errstate(invalid="ignore"):
        accuracy = (true + len(target) - num_positive - false) / len(target)
        f1 = 2 * true / (true + false + num_positive)
    half = int(np.searchsorted(threshold, 0.5))  # the smallest score that is at least 0.5
    return {
        "accuracy_at_half": accuracy[half],
        "accuracy_best": accuracy.max(),
        "f1_at_half": f1[half],
        "f1_best": np.nanmax(f1) if num_positive else np.nan,
    }


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
