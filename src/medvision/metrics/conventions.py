"""Scores as papers and libraries compute them, from one set of predictions.

Written A for predicted and B for labelled pixels of one class, p for the foreground probability of
a pixel and b for its label; predicted is p >= 0.5, or the class with the largest logit. How each
tool computes Dice and IoU was read in its published code: smp 0.6, MONAI 1.6, torchmetrics 1.9,
nnU-Net 2, mmsegmentation 1, and the MATLAB evaluation of PraNet. What scikit-learn computes of
classes comes from scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.classification import ClassifiedImages
from medvision.metrics.ranking import counts_at_least


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One way to make a number of a set of predictions.

    Attributes:
        key: Stable name.
        name: A few words; ``name_of_more`` for three classes or more, where it differs.
        tools: Who reports it; ``tools_of_more`` for three classes or more, where they differ.
        definition: One sentence.
        score: Of a classification ``accuracy``, ``f1`` or ``auroc``: the key of medvision's own.
        classes: Of how many classes it is a convention of its own.
        binary_only: Whether it is defined for two classes only.
        optimistic: Whether something was chosen on the images that are scored: no test score.
    """

    key: str
    name: str
    tools: str
    definition: str
    score: Literal["accuracy", "f1", "auroc"] | None = None
    classes: Literal["any", "two", "more"] = "any"
    name_of_more: str = ""
    tools_of_more: str = ""
    binary_only: bool = False
    optimistic: bool = False

    @property
    def own(self) -> bool:
        """Whether it is medvision's own, from which differences are taken."""
        return self.key == (self.score or "per_image")

    def to_dict(self, *, num_classes: int) -> dict[str, Any]:
        """Row of the table for that many classes."""
        more = num_classes > 2
        return {
            "key": self.key,
            **({"score": self.score} if self.score else {}),
            "name": (self.name_of_more if more else "") or self.name,
            "tools": (self.tools_of_more if more else "") or self.tools,
            "definition": self.definition,
            "own": self.own,
            "optimistic": self.optimistic,
            "binary_only": self.binary_only,
        }


@cache
def _tables() -> dict[str, list[Convention]]:
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    tables: dict[str, list[dict[str, Any]]] = yaml.safe_load(text)
    return {of: [Convention(**row) for row in rows] for of, rows in tables.items()}


def conventions_for(of: Literal["pixels", "images"], num_classes: int) -> list[Convention]:
    """Conventions that differ from one another for that many classes, medvision's own first.

    Args:
        of: What is scored.
        num_classes: K >= 2.
    """
    shown = ("any", "more" if num_classes > 2 else "two")
    return [convention for convention in _tables()[of] if convention.classes in shown]


Floats = NDArray[np.float64]

NUM_THRESHOLDS = 256
_PRANET = np.arange(NUM_THRESHOLDS) / 255
_EVEN = np.arange(NUM_THRESHOLDS) / 256  # includes 0.5


class ThresholdSweeps:
    """Sums over images of the scores at every threshold.

    PraNet's evaluation stretches each map to [0, 1], cuts it at k/255 for k = 0..255, and scores 0
    where the cut and the mask share nothing. The other sweep cuts the probability itself at k/256
    and lets two empty sets score 1.
    """

    def __init__(self) -> None:
        self._stretched, self._plain = np.zeros((2, NUM_THRESHOLDS)), np.zeros((2, NUM_THRESHOLDS))
        self._num_images = 0

    def add(self, probability: Floats, mask: NDArray[np.bool_]) -> None:
        """Add one image.

        Args:
            probability: Foreground probability of its pixels, (P,) in [0, 1].
            mask: Whether they are labelled foreground, (P,).
        """
        self._num_images += 1
        low, high = probability.min(), probability.max()
        stretched = (probability - low) / (high - low) if high > low else probability
        self._stretched += _scores(stretched, mask, _PRANET, without_overlap=0.0)
        self._plain += _scores(probability, mask, _EVEN, without_overlap=None)

    def compute(self) -> dict[str, Floats]:
        """Dice and IoU (2,) by the key of each convention; none without images."""
        if not self._num_images:
            return {}
        return {
            "mean_over_thresholds": self._stretched.mean(1) / self._num_images,
            "max_over_thresholds": self._stretched.max(1) / self._num_images,
            "best_threshold_on_this_set": self._plain.max(1) / self._num_images,
        }


def _scores(
    probability: Floats,
    mask: NDArray[np.bool_],
    thresholds: Floats,
    *,
    without_overlap: float | None,
) -> Floats:
    """Dice and IoU where p >= threshold, (2, T); thresholds must rise evenly from 0.

    Where the two sets share nothing the scores are ``without_overlap``; if that is None they are
    0, and 1 where both sets are empty.
    """
    passed = _num_passed(probability, thresholds)
    counts: list[NDArray[Any]] = [
        np.bincount(passed[side], minlength=len(thresholds) + 1) for side in (mask, ~mask)
    ]
    overlap, wrong = (count[::-1].cumsum()[::-1][1:] for count in counts)
    union = overlap + wrong + np.count_nonzero(mask) - overlap
    nothing = 0.0 if without_overlap is not None else (union == 0).astype(np.float64)
    iou = np.where(overlap > 0, overlap / np.maximum(union, 1), nothing)
    dice = np.where(overlap > 0, 2 * overlap / np.maximum(union + overlap, 1), nothing)
    return np.stack([dice, iou])


def _num_passed(probability: Floats, thresholds: Floats) -> NDArray[np.int64]:
    """How many of the evenly rising thresholds each p is at least as large as.

    The same as ``searchsorted(..., side="right")``, at a third of its cost.
    """
    guess = (probability * (1 / thresholds[1])).astype(np.int64).clip(0, len(thresholds) - 1)
    guess -= probability < thresholds[guess]  # rounding put it one too high
    above = np.append(thresholds, np.inf)[guess + 1]
    return np.asarray(guess + 1 + (probability >= above), dtype=np.int64)


EPSILON = 1e-7
"""As in the project's own definition: two empty sets score 1."""

Map = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


class SegmentationConventions:
    """Add up what every convention needs, image by image, in a state of fixed size.

    Args:
        num_classes: K >= 2, the background first. The conventions of foreground probabilities
            are defined for K = 2 only.
    """

    def __init__(self, num_classes: int = 2) -> None:
        if num_classes < 2:
            raise ValueError(f"expected two classes or more, got {num_classes}")
        self.num_classes, self.num_images = num_classes, 0
        self._pooled = np.zeros((num_classes, num_classes), np.int64)
        # an unused one is NaN
        self._means = {convention.key: _Means(1) for convention in _tables()["pixels"]}
        self._means["per_image_defined"] = _Means(num_classes - 1)  # of each class by itself
        self._sweeps = ThresholdSweeps()

    def update(
        self,
        confusion: NDArray[np.integer[Any]],
        probability: NDArray[Any],
        target: NDArray[Any],
    ) -> None:
        """Add images. One whose pixels are all ignored is no image.

        Args:
            confusion: Pixels by true and predicted class, (N, K, K).
            probability: Foreground probability, (N, H, W) in [0, 1]; read for K = 2 only. NaN
                counts as 0, as it does in the scores.
            target: Class indices, (N, H, W); what is not in [0, K) is ignored.

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
            self._pooled += counts
            self._add_counts(counts)
            if self.num_classes == 2:
                counted = (classes >= 0) & (classes < 2)
                p = np.nan_to_num(chances[counted].astype(np.float64), nan=0.0)
                self._add_probability(p, classes[counted] == 1)

    def compute(self) -> list[dict[str, Any]]:
        """Every convention, medvision's own first.

        Returns:
            ``key``, ``name``, ``tools``, ``definition``, ``own``, ``optimistic`` and
            ``binary_only`` as ``Convention`` has them, ``dice`` and ``iou`` in [0, 1], and
            ``dice_difference`` and ``iou_difference`` from medvision's own; None where undefined.
        """
        table = {key: means.compute() for key, means in self._means.items()}
        table |= self._pooled_scores() | self._sweeps.compute()
        if self.num_images:  # what MONAI makes of a set without any labelled pixel
            for key in ("per_image_labelled", "per_image_labelled_with_background"):
                table[key] = np.nan_to_num(table[key], nan=0.0)
        own = table["per_image"]
        rows = []
        for convention in conventions_for("pixels", self.num_classes):
            values, differences = table[convention.key], table[convention.key] - own
            rows.append(
                {
                    **convention.to_dict(num_classes=self.num_classes),
                    "dice": _or_none(values[0]),
                    "iou": _or_none(values[1]),
                    "dice_difference": _or_none(differences[0]),
                    "iou_difference": _or_none(differences[1]),
                }
            )
        return rows

    def _add_counts(self, confusion: NDArray[np.integer[Any]]) -> None:
        """Add the conventions that average over images cut into classes."""
        scores, sizes = _defined_scores(confusion), _sizes(confusion)
        foreground = scores[:, 1:]
        labelled = np.where(sizes[2] > 0, scores, np.nan)
        empty_is_one = np.nan_to_num(scores, nan=1.0)
        means = self._means
        means["per_image"].add(_own_scores(sizes[:, 1:]).mean(1, keepdims=True))
        means["per_image_defined"].add(foreground)
        means["per_image_labelled"].add(_nanmean(labelled[:, 1:]))
        means["per_image_labelled_with_background"].add(_nanmean(labelled))
        means["per_image_with_background_empty_1"].add(empty_is_one.mean(1, keepdims=True))
        means["micro_per_image_with_background"].add(_ratio(sizes.sum(1))[:, None])
        # torchmetrics averages Dice within each image first, IoU over all classes of all images
        both = means["per_image_with_background"]
        both.add(np.stack([_nanmean(scores)[0], [np.nan]]))
        for iou in scores[1]:
            both.add(np.array([[np.nan], [iou]]))

    def _add_probability(self, probability: Floats, mask: Mask) -> None:
        overlap = 2 * probability.sum(where=mask) + 1
        soft = overlap / (probability.sum() + np.count_nonzero(mask) + 1)
        self._means["soft_smooth_1"].add(np.array([[soft], [np.nan]]))
        self._sweeps.add(probability, mask)

    def _pooled_scores(self) -> dict[str, Floats]:
        """The conventions of the pixels of all images at once."""
        if not self.num_images:
            return {}
        scores, sizes = _defined_scores(self._pooled), _sizes(self._pooled)
        return {
            "pooled": _own_scores(sizes[:, 1:]).mean(1),
            "pooled_with_background": _nanmean(scores)[:, 0],
            "pooled_with_background_absent_1": np.nan_to_num(scores, nan=1.0).mean(1),
            "micro_with_background": _ratio(sizes.sum(1)),
        }


def dice_by_convention(probabilities: Sequence[Map], masks: Sequence[Mask]) -> dict[str, float]:
    """Dice of the same predictions by every convention of two classes.

    Args:
        probabilities: Foreground probability of each image, (H, W) in [0, 1]; sizes may differ.
        masks: Labelled foreground of each image, bool (H, W).

    Returns:
        Values in [0, 1] by the keys of ``conventions_for``, in its order; NaN where undefined.

    Raises:
        ValueError: If there are no images, or the two sides do not match.
    """
    rows = conventions_of_maps(probabilities, masks)
    return {row["key"]: np.nan if row["dice"] is None else row["dice"] for row in rows}


def conventions_of_maps(
    probabilities: Sequence[Map], masks: Sequence[Mask]
) -> list[dict[str, Any]]:
    """``SegmentationConventions`` of maps and masks that are all there; see ``compute``.

    Args:
        probabilities: Foreground probability of each image, (H, W) in [0, 1]; sizes may differ.
        masks: Labelled foreground of each image, bool (H, W).

    Raises:
        ValueError: If there are no images, or the two sides do not match.
    """
    if len(probabilities) == 0 or len(probabilities) != len(masks):
        raise ValueError(
            f"expected as many masks as probability maps and at least one, "
            f"got {len(probabilities)} maps and {len(masks)} masks"
        )
    conventions = SegmentationConventions()
    for probability, mask in zip(probabilities, masks, strict=True):
        if probability.shape != mask.shape or mask.dtype != np.bool_:
            raise ValueError(
                f"expected a bool mask of shape {probability.shape}, "
                f"got {mask.dtype} of shape {mask.shape}"
            )
        cells = 2 * mask.astype(np.int64) + (probability >= 0.5)
        confusion = np.bincount(cells.ravel(), minlength=4).reshape(1, 2, 2)
        conventions.update(confusion, probability[None], mask[None])
    return conventions.compute()


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
        threshold: The one in use, in [0, 1]; for two classes.

    Returns:
        ``key``, ``score``, ``name``, ``tools``, ``definition``, ``own``, ``optimistic`` and
        ``binary_only`` as ``Convention`` has them, ``value`` in [0, 1], and ``difference``
        from medvision's own of that score; None where undefined.

    Raises:
        ValueError: If shapes, probabilities, targets, names or threshold are not of that kind.
    """
    images = ClassifiedImages(probability, target, class_names=class_names, threshold=threshold)
    scores = {name: float(value[0]) for name, value in images.scores().items()}
    values = {name: scores[name] for name in ("accuracy", "balanced_accuracy", "f1", "auroc")}
    if len(images):
        values |= _other_scores(images, np.asarray(probability, np.float64), np.asarray(target))
    rows = []
    for convention in conventions_for("images", len(class_names)):
        value = values.get(convention.key, np.nan)
        rows.append(
            {
                **convention.to_dict(num_classes=len(class_names)),
                "value": _or_none(value),
                "difference": _or_none(value - values[str(convention.score)]),
            }
        )
    return rows


class _Means:
    """Means of Dice and IoU over what is not NaN, in M columns that are averaged at the end."""

    def __init__(self, columns: int) -> None:
        self._sums, self._counts = np.zeros((2, columns)), np.zeros((2, columns), np.int64)

    def add(self, values: Floats) -> None:
        """Add values (2, M): Dice, IoU."""
        self._sums += np.nan_to_num(values, nan=0.0)
        self._counts += ~np.isnan(values)

    def compute(self) -> Floats:
        """Dice and IoU, (2,); NaN where a column has no value."""
        with np.errstate(invalid="ignore"):
            return (self._sums / self._counts).mean(1)


def _sizes(confusion: NDArray[np.integer[Any]]) -> Floats:
    """Overlap, predicted and labelled pixels of each class, (3, K)."""
    return np.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)]).astype(np.float64)


def _ratio(sizes: Floats) -> Floats:
    """Dice and IoU (2, ...) of sizes (3, ...); NaN of two empty sets."""
    overlap, predicted, labelled = sizes
    with np.errstate(invalid="ignore"):
        return np.stack(
            [2 * overlap / (predicted + labelled), overlap / (predicted + labelled - overlap)]
        )


def _defined_scores(confusion: NDArray[np.integer[Any]]) -> Floats:
    """Dice and IoU of each class, (2, K); NaN where it is on neither side."""
    return _ratio(_sizes(confusion))


def _own_scores(sizes: Floats) -> Floats:
    """Dice and IoU by the project's own definition, (2, K) of sizes (3, K)."""
    overlap, predicted, labelled = sizes
    total = predicted + labelled
    return np.stack(
        [
            (2 * overlap + EPSILON) / (total + EPSILON),
            (overlap + EPSILON) / (total - overlap + EPSILON),
        ]
    )


def _nanmean(scores: Floats) -> Floats:
    """Mean over the classes that are not NaN, (2, 1) of (2, K); NaN without any."""
    defined = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        sums = np.where(defined, scores, 0.0).sum(1, keepdims=True)
        return np.asarray(sums / defined.sum(1, keepdims=True))


def _other_scores(
    images: ClassifiedImages, probability: Floats, target: NDArray[Any]
) -> dict[str, float]:
    """Scores that scikit-learn computes, by the key of their convention."""
    from sklearn import metrics  # a second, for the one flag that needs it

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
    """Accuracy and F1 of the positive class at 0.5, and at the best threshold for each."""
    false, true, threshold = counts_at_least(positive, target == 1)
    false, true = np.append(false, 0), np.append(true, 0)  # the last cut predicts nothing
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
