"""What papers and libraries call Dice and IoU, from one set of predictions.

On the same predictions the numbers differ by 0.2, which is more than most papers claim to gain: a
score can be compared only with one of the same convention. ``medvision.metrics.convention_list``
names and defines each. Pure NumPy, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.metrics.convention_list import SEGMENTATION
from medvision.metrics.threshold_conventions import ThresholdSweeps

EPSILON = 1e-7
"""As in the project's own definition: two empty sets score 1."""

Floats = NDArray[np.float64]
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
        self._means = {convention.key: _Means(1) for convention in SEGMENTATION}  # NaN if unused
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
        for convention in SEGMENTATION:
            if convention.more_classes_only and self.num_classes == 2:
                continue
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
        Values in [0, 1] by the keys of ``convention_list``, in its order; NaN where undefined.

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


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
