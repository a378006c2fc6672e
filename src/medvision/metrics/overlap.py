"""Dice, IoU and related scores from pixel counts.

All shapes are static and no value is read back from the device, which avoids synchronisation on a
GPU, and compilation or fallback on XLA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

NUM_BINS = 256
"""Number of bins of the foreground probability: the values of an 8-bit probability map."""


def foreground_probability(logits: Tensor) -> Tensor:
    """Probability that a pixel is not background.

    Args:
        logits: (N, 1, H, W), or (N, K, H, W) with K >= 3, of any floating type.

    Returns:
        float32 (N, H, W) in [0, 1].
    """
    if number_of_classes(logits) == 2:
        return logits[:, 0].float().sigmoid()
    return 1 - logits.float().softmax(dim=1)[:, 0]


def to_uint8(probability: Tensor) -> Tensor:
    """Quantise a probability p to 8 bits: min(255, floor(256 p)).

    The result is at least 128 exactly where p is at least 0.5. NaN becomes 0.

    Args:
        probability: Values in [0, 1], float32.

    Returns:
        uint8, of the same shape.
    """
    return (probability * NUM_BINS).nan_to_num_(0.0).clamp_(0, NUM_BINS - 1).to(torch.uint8)


def pixel_histogram(probability: Tensor, target: Tensor) -> Tensor:
    """Count the pixels of every image by true class and 8-bit foreground probability.

    Bins of 128 and above hold exactly the pixels with p >= 0.5. A probability of NaN is counted in
    bin 0, so that a broken model scores like one that finds nothing instead of ending the epoch.

    Args:
        probability: float32 (N, H, W) in [0, 1].
        target: (N, H, W): 0 background, 1 foreground; any other value is ignored.

    Returns:
        int64 (N, 2, 256): images, true class, bin.
    """
    if probability.shape != target.shape:
        raise ValueError(
            f"expected target of shape {tuple(probability.shape)}, got {tuple(target.shape)}"
        )
    label = target.clamp(max=2).to(torch.int16)  # 16 bits move less memory than an index needs
    return _count(label.mul_(NUM_BINS).add_(to_uint8(probability)), (3, NUM_BINS))[:, :2]


def pixel_confusion(logits: Tensor, target: Tensor) -> Tensor:
    """Count the pixels of every image by true and predicted class.

    The predicted class is the one with the largest logit (the first on ties); for binary logits it
    is the foreground where p >= 0.5.

    Args:
        logits: (N, 1, H, W), or (N, K, H, W) with K >= 3.
        target: (N, H, W) class indices in [0, K); any other value is ignored.

    Returns:
        int64 (N, K, K): images, true class, predicted class.
    """
    num_classes = number_of_classes(logits)
    if num_classes == 2:
        return halves(pixel_histogram(foreground_probability(logits), target))
    if logits[:, 0].shape != target.shape:
        raise ValueError(
            f"expected target of shape {tuple(logits[:, 0].shape)}, got {tuple(target.shape)}"
        )
    label = target.clamp(max=num_classes).to(torch.int32)
    pixel = label.mul_(num_classes).add_(_largest(logits))
    return _count(pixel, (num_classes + 1, num_classes))[:, :num_classes]


def halves(histogram: Tensor) -> Tensor:
    """Compute the confusion at p >= 0.5, (N, 2, 2), from a histogram (N, 2, 256)."""
    return histogram.reshape(-1, 2, 2, NUM_BINS // 2).sum(3)


def number_of_classes(logits: Tensor) -> int:
    """Return K of logits (N, 1, H, W), which have two classes, or (N, K, H, W)."""
    if logits.ndim != 4 or logits.shape[1] in (0, 2):
        raise ValueError(
            "expected logits of shape (N, 1, H, W), or (N, K, H, W) with K >= 3, "
            f"got {tuple(logits.shape)}"
        )
    return max(2, logits.shape[1])


def _count(value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Count each value in [0, rows * columns) in each image, int64 (N, *shape).

    Uses ``scatter_add_`` rather than ``bincount``: equally fast here, without waiting for a GPU or
    falling back on XLA.
    """
    index = value.flatten(1).to(torch.int64)
    one = torch.ones((), dtype=torch.int64, device=value.device).expand(index.shape)
    counts = torch.zeros(
        (len(index), shape[0] * shape[1]), dtype=torch.int64, device=value.device
    ).scatter_add_(1, index, one)
    return counts.view(-1, *shape)


def _largest(logits: Tensor) -> Tensor:
    """Class with the largest logit, uint8 (N, H, W); 10 times as fast as ``argmax`` on CPU."""
    largest = logits[:, 0]
    winner = torch.zeros(largest.shape, dtype=torch.uint8, device=logits.device)
    for k, logit in enumerate(logits.unbind(1)[1:], start=1):
        winner = torch.maximum(winner, (logit > largest).to(torch.uint8) * k)
        largest = torch.maximum(largest, logit)
    return winner


EPSILON = 1e-7
"""Added to numerator and denominator: two empty sets score 1."""

_FIXED_POINT = 2**30  # a score in [0, 1] as an integer: finer than float32, 8e9 images fit int64


def dice_score(overlap: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
    r"""Dice coefficient of two sets of pixels, from their sizes.

    .. math:: (2 |A \cap B| + 10^{-7}) / (|A| + |B| + 10^{-7})

    Two empty sets score 1.

    Args:
        overlap: Number of pixels in both sets.
        predicted: Number of predicted pixels, of the same shape.
        labelled: Number of labelled pixels, of the same shape.

    Returns:
        Scores in [0, 1], float32.
    """
    return (2 * overlap.float() + EPSILON) / ((predicted + labelled).float() + EPSILON)


def iou_score(overlap: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
    r"""Intersection over union of two sets of pixels, from their sizes.

    .. math:: (|A \cap B| + 10^{-7}) / (|A \cup B| + 10^{-7})

    Two empty sets score 1.

    Args:
        overlap: Number of pixels in both sets.
        predicted: Number of predicted pixels, of the same shape.
        labelled: Number of labelled pixels, of the same shape.

    Returns:
        Scores in [0, 1], float32.
    """
    return (overlap.float() + EPSILON) / ((predicted + labelled - overlap).float() + EPSILON)


def roc_curve(histogram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute false and true positive rates at every threshold, from the strictest down.

    Scores within one bin are tied, so the curve is exact for scores rounded down to the bin.
    Counts are added as integers and divided as float32, which keeps every value within 1e-6 on
    devices without float64.

    Args:
        histogram: Counts of negatives and positives, int64 (2, B). Column b counts scores in
            [b/B, (b+1)/B); the last column includes 1.

    Returns:
        False positive rate, true positive rate and threshold, each float32 (B + 1,): from (0, 0)
        at threshold 1, where nothing is predicted, to (1, 1) at threshold 0, where everything is.
        A rate without anything to count is NaN.
    """
    if histogram.ndim != 2 or len(histogram) != 2:
        raise ValueError(f"expected a histogram of shape (2, B), got {tuple(histogram.shape)}")
    num_bins = histogram.shape[1]
    false_positives, true_positives = F.pad(histogram.flip(1).cumsum(1), (1, 0)).float()
    threshold = torch.arange(num_bins, -1, -1, dtype=torch.float32, device=histogram.device)
    return (
        false_positives / false_positives[-1],
        true_positives / true_positives[-1],
        threshold / num_bins,
    )


def auroc(histogram: Tensor) -> Tensor:
    """Compute the area under the ROC curve with the trapezoidal rule.

    Equals the share of (negative, positive) pairs in which the positive scores higher, pairs in one
    bin counting half.

    Args:
        histogram: Counts of negatives and positives, as for ``roc_curve``.

    Returns:
        A float32 scalar in [0, 1]; NaN unless both classes are present.
    """
    _, true_positive_rate, _ = roc_curve(histogram)
    # widths from the counts themselves: differences of rounded rates would lose precision
    widths = histogram[0].flip(0).float() / histogram[0].sum().float()
    area = (widths * (true_positive_rate[1:] + true_positive_rate[:-1]) / 2).sum()
    return area.clamp(max=1)


def per_image_scores(
    logits: Tensor, target: Tensor, *, class_names: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Compute Dice and IoU of every image, as averaged by ``SegmentationScores``.

    Args:
        logits: (N, 1, H, W), or (N, K, H, W) with K >= 3.
        target: (N, H, W) class indices in [0, K), or ``IGNORE_INDEX``.
        class_names: The K classes, background first; with K >= 3 they add ``dice/<name>`` and
            ``iou/<name>``.

    Returns:
        ``dice`` and ``iou``, float32 (N,): with K >= 3 the mean over the foreground classes. An
        image of ignored pixels only is NaN.
    """
    num_classes = number_of_classes(logits)
    if class_names and len(class_names) != num_classes:
        raise ValueError(f"expected {num_classes} class names, got {len(class_names)}")
    confusion = pixel_confusion(logits, target)
    counted = (confusion.sum((1, 2)) > 0).unsqueeze(1)
    table = {}
    for metric, scores in zip(("dice", "iou"), _foreground_scores(confusion), strict=True):
        shown = torch.where(counted, scores, torch.nan)
        table[metric] = shown.mean(1)
        if num_classes > 2:
            for name, column in zip(class_names[1:], shown.unbind(1), strict=False):
                table[f"{metric}/{name}"] = column
    return table


class SegmentationScores(Metric):
    """Overlap, pixel rates and the binned ROC of a whole epoch, from integer sums.

    ``dice`` and ``iou`` are means over images (with K >= 3 also over foreground classes); an image
    in which neither prediction nor label has the class scores 1. The ``_global`` variants are
    computed once from the pixels of all images (K >= 3: per foreground class, then averaged).
    ``accuracy`` is the share of correctly classified pixels; ``precision``, ``recall`` and
    ``specificity`` are pixel rates of the foreground (K >= 3: averaged over the foreground classes
    for which they are defined). ``auroc`` ranks all pixels by foreground probability in 256 bins.
    With K >= 3 ``dice/<name>`` and ``iou/<name>`` are the means over images of one class. A score
    with nothing to count is NaN.

    Image scores are added in fixed point (multiples of 2**-30), so that results are bitwise
    identical for any order, batch size or number of devices.

    Args:
        class_names: The K >= 2 classes, background first.
    """

    is_differentiable = False
    full_state_update = False

    histogram: Tensor
    confusion: Tensor
    dice_sum: Tensor
    iou_sum: Tensor
    num_images: Tensor

    def __init__(self, *, class_names: Sequence[str]) -> None:
        super().__init__()
        if len(class_names) < 2 or len(set(class_names)) < len(class_names):
            raise ValueError(f"expected two or more distinct class names, got {list(class_names)}")
        self.class_names = tuple(class_names)
        num_classes = len(class_names)
        for state, shape in {
            "histogram": (2, NUM_BINS),
            "confusion": (num_classes, num_classes),
            "dice_sum": (num_classes - 1,),
            "iou_sum": (num_classes - 1,),
            "num_images": (),
        }.items():
            zeros = torch.zeros(shape, dtype=torch.int64)
            self.add_state(state, default=zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count (N, 1, H, W) or (N, K, H, W) logits against (N, H, W) targets."""
        num_classes = len(self.class_names)
        if number_of_classes(logits) != num_classes:
            raise ValueError(
                f"expected logits of {num_classes} classes, got shape {tuple(logits.shape)}"
            )
        probability = foreground_probability(logits)
        if num_classes == 2:
            histogram = pixel_histogram(probability, target)
            confusion = halves(histogram)
        else:
            confusion = pixel_confusion(logits, target)
            foreground = (target > 0).to(torch.uint8) + (target >= num_classes)  # 2: ignored
            histogram = pixel_histogram(probability, foreground)

        counted = confusion.sum((1, 2)) > 0
        dice, iou = _foreground_scores(confusion)
        self.histogram = self.histogram + histogram.sum(0)
        self.confusion = self.confusion + confusion.sum(0)
        self.dice_sum = self.dice_sum + _fixed_point_sum(dice, counted)
        self.iou_sum = self.iou_sum + _fixed_point_sum(iou, counted)
        self.num_images = self.num_images + counted.sum()

    def compute(self) -> dict[str, Tensor]:
        """Compute every score named in the class docstring, as float32 scalars."""
        predicted, labelled = self.confusion.sum(0), self.confusion.sum(1)
        overlap, total = self.confusion.diagonal(), self.confusion.sum()
        dice, iou = self._means(self.dice_sum), self._means(self.iou_sum)
        dice_global, iou_global = _foreground_scores(self.confusion)
        correct_rejections = (total - predicted - labelled + overlap).float()
        scores = {
            "dice": self._means(self.dice_sum.sum()) / len(dice),
            "iou": self._means(self.iou_sum.sum()) / len(iou),
            "dice_global": torch.where(total > 0, dice_global.mean(), torch.nan),
            "iou_global": torch.where(total > 0, iou_global.mean(), torch.nan),
            "accuracy": overlap.sum().float() / total.float(),
            "precision": _mean_defined((overlap.float() / predicted.float())[1:]),
            "recall": _mean_defined((overlap.float() / labelled.float())[1:]),
            "specificity": _mean_defined((correct_rejections / (total - labelled).float())[1:]),
            "auroc": auroc(self.histogram),
        }
        if len(self.class_names) > 2:
            for name, class_dice, class_iou in zip(self.class_names[1:], dice, iou, strict=True):
                scores[f"dice/{name}"], scores[f"iou/{name}"] = class_dice, class_iou
        return scores

    def roc(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compute false and true positive rates and thresholds over all pixels, float32 (257,)."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn,
            should_sync=self._to_sync,
            should_unsync=self._should_unsync,
        ):
            return roc_curve(self.histogram)

    def _means(self, sums: Tensor) -> Tensor:
        return sums.float() / _FIXED_POINT / self.num_images.float()


def _foreground_scores(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """Compute Dice and IoU of the foreground classes, (..., K - 1), from (..., K, K) counts."""
    overlap = confusion.diagonal(dim1=-2, dim2=-1)[..., 1:]
    predicted, labelled = confusion.sum(-2)[..., 1:], confusion.sum(-1)[..., 1:]
    return dice_score(overlap, predicted, labelled), iou_score(overlap, predicted, labelled)


def _fixed_point_sum(scores: Tensor, counted: Tensor) -> Tensor:
    """Sum scores (N, K - 1) over the counted images, int64 (K - 1,)."""
    fixed = (scores * _FIXED_POINT).round().to(torch.int64)
    return (fixed * counted.unsqueeze(1)).sum(0)


def _mean_defined(values: Tensor) -> Tensor:
    """Mean ignoring NaN, NaN if all are NaN; ``nanmean`` falls back on XLA."""
    defined = ~values.isnan()
    return torch.where(defined, values, 0).sum() / defined.sum()
