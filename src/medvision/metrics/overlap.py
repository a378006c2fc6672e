"""Dice, IoU and related scores from pixel counts.

All shapes are static and no value is read back from the device, which avoids synchronisation on a
GPU, and compilation or fallback on XLA.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from medvision.types import IGNORE_INDEX

NUM_BINS = 2**18
"""Number of bins of the foreground logit."""

_HALF = NUM_BINS // 2
_STEPS, _FIRST_OCTAVE, _NUM_OCTAVES = 2**13, -4, 16
_SMALLEST = 2.0**_FIRST_OCTAVE
_DROPPED_BITS = 23 - 13  # of the mantissa of a 32-bit float


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


def foreground_logit(logits: Tensor) -> Tensor:
    """Logit of ``foreground_probability``, which ranks pixels whose probabilities round to 0 or 1.

    Args:
        logits: (N, 1, H, W), or (N, K, H, W) with K >= 3, of any floating type.

    Returns:
        float32 (N, H, W).
    """
    if number_of_classes(logits) == 2:
        return logits[:, 0].float()
    return logits[:, 1:].float().logsumexp(dim=1) - logits[:, 0].float()


def to_uint8(probability: Tensor) -> Tensor:
    """Quantise a probability p to 8 bits: min(255, floor(256 p)).

    The result is at least 128 exactly where p is at least 0.5. NaN becomes 0.

    Args:
        probability: Values in [0, 1], float32.

    Returns:
        uint8, of the same shape.
    """
    return (probability * 256).nan_to_num_(0.0).clamp_(0, 255).to(torch.uint8)


def finite_images(logits: Tensor) -> Tensor:
    """Find the images (N,) of which every logit is finite, bool."""
    if _is_short(logits):  # the bits of an exponent without a finite value are all set
        return logits.view(torch.int16).bitwise_and(2**15 - 1).flatten(1).amax(1) < 0x7F80
    flat = logits.flatten(1)  # extremes are NaN where a value is, and 20 times as fast as isfinite
    return flat.amax(1).isfinite() & flat.amin(1).isfinite()


def ignored_unless(finite: Tensor, target: Tensor) -> Tensor:
    """Mark every pixel of the other images as ignored.

    Args:
        finite: bool (N,).
        target: Class indices (N, H, W), or ``IGNORE_INDEX``.
    """
    # an index up to 255 with all bits of 255 set is 255; six times as fast as `where`
    return target | ((~finite).to(target.dtype) * IGNORE_INDEX)[:, None, None]


def pixel_histogram(logit: Tensor, target: Tensor) -> Tensor:
    """Count the pixels of all images by true class and foreground logit.

    Bins are as wide as 2**-13 of the octave of abs(logit) + 2**-4, and all logits above 4095 share
    one. So pixels keep their rank whatever the scale and offset of the network: AUROC is
    within 1e-3 of exact if logits spread by a thousandth of their size, or by 1e-4 near 0.

    Args:
        logit: Finite, float32 (N, H, W).
        target: (N, H, W): 0 background, 1 foreground; any other value is ignored.

    Returns:
        int64 (2, 262144): true class, bin of rising logit (``bin_logits``).
    """
    if logit.shape != target.shape:
        raise ValueError(
            f"expected target of shape {tuple(logit.shape)}, got {tuple(target.shape)}"
        )
    counts = torch.zeros(2 * NUM_BINS + 1, dtype=torch.int64, device=logit.device)
    return _add_pixels(counts, logit, target)[:-1].view(2, NUM_BINS)


def _add_pixels(counts: Tensor, logit: Tensor, target: Tensor) -> Tensor:
    """Add pixels to counts by true class and bin, whose last one is for ignored pixels."""
    if _is_short(logit):  # counted by value first, since there are few: half the time
        label = target.clamp(max=2).to(torch.int32).add_(1)
        place = label.mul_(2**16).add_(logit.view(torch.int16))  # from 2**15 on
        found = torch.bincount(place.flatten(), minlength=2**18)[2**15 : 2**15 + 2**17].view(2, -1)
        used = found.sum(0).nonzero()[:, 0]
        for row, values in zip(counts[:-1].view(2, -1), found[:, used], strict=True):
            row.index_add_(0, _bin_of(_short_values()[used]), values)
        return counts
    place = (target.to(torch.int32) * NUM_BINS).add_(_bin_of(logit.float()))
    index = place.clamp_(max=2 * NUM_BINS).flatten().to(torch.int64)
    one = torch.ones((), dtype=torch.int64, device=index.device).expand(index.shape)
    return counts.scatter_add_(0, index, one)


def _is_short(logit: Tensor) -> bool:
    """Return True for bfloat16 on the CPU, where its 65536 values allow quicker ways."""
    return logit.dtype == torch.bfloat16 and logit.device.type == "cpu"


@functools.cache
def _short_values() -> Tensor:
    """All values of a bfloat16 as float32, in the order of their bits as a signed integer."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16).float()


@functools.cache
def _num_rounded() -> int:
    """Number of negative values of a bfloat16, the largest ones, whose p rounds to 0.5."""
    return int((_short_values()[: 2**15].sigmoid() >= 0.5).sum())


def _is_foreground(logit: Tensor) -> Tensor:
    """Find the pixels (N, H, W) with p >= 0.5, uint8."""
    if _is_short(logit):
        # bits as signed integers rise from 0 for logits >= 0, and from -2**15 for those below 0,
        # the largest first; lowered by the number of these (with overflow) they join the others
        rounded = _num_rounded()
        return (logit.view(torch.int16) - rounded >= -rounded).view(torch.uint8)
    return logit.float().sigmoid().mul_(2).to(torch.uint8).clamp_(max=1)


def _bin_of(logit: Tensor) -> Tensor:
    """Bin of each logit, int32.

    It follows from the bits of a float. XLA cannot reinterpret them: there the steps of all octaves
    below a logit are summed.
    """
    size = logit.abs().add_(_SMALLEST)
    if logit.device.type != "xla":
        base = (127 + _FIRST_OCTAVE) << 23
        steps = size.view(torch.int32).sub_(base).bitwise_right_shift_(_DROPPED_BITS)
        negative = (logit + 0.0).view(torch.int32).bitwise_right_shift_(31)  # -0.0 is 0.0; -1 or 0
        return steps.clamp_(max=_HALF - 1).bitwise_xor_(negative).add_(_HALF)
    steps = torch.zeros_like(size)
    for octave in range(_FIRST_OCTAVE, _FIRST_OCTAVE + _NUM_OCTAVES):
        steps += (size * 2.0**-octave - 1).clamp(0, 1).mul(_STEPS).floor()
    steps = steps.clamp(max=_HALF - 1)
    return torch.where(logit < 0, _HALF - 1 - steps, _HALF + steps).to(torch.int32)


def bin_logits() -> Tensor:
    """Smallest logit of each bin of ``pixel_histogram``, float32 (262144,), rising."""
    step = torch.arange(_HALF + 1, dtype=torch.int32)
    bits = (step << _DROPPED_BITS) + ((127 + _FIRST_OCTAVE) << 23)
    size = bits.view(torch.float32) - _SMALLEST
    return torch.cat([-torch.inf * torch.ones(1), -size[1:-1].flip(0), size[:-1]])


def pixel_confusion(logits: Tensor, target: Tensor) -> Tensor:
    """Count the pixels of every image by true and predicted class.

    The predicted class is the one with the largest logit (the first on ties); for binary logits it
    is the foreground where p >= 0.5. An image with a logit that is not finite has no counts.

    Args:
        logits: (N, 1, H, W), or (N, K, H, W) with K >= 3.
        target: (N, H, W) class indices in [0, K); any other value is ignored.

    Returns:
        int64 (N, K, K): images, true class, predicted class.
    """
    num_classes = number_of_classes(logits)
    if logits[:, 0].shape != target.shape:
        raise ValueError(
            f"expected target of shape {tuple(logits[:, 0].shape)}, got {tuple(target.shape)}"
        )
    return _confusion(logits, ignored_unless(finite_images(logits), target), num_classes)


def _confusion(logits: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of finite images."""
    # 8 bits move less memory than an index needs
    label = target.clamp(max=num_classes).to(torch.uint8 if num_classes == 2 else torch.int32)
    predicted = _is_foreground(logits[:, 0]) if num_classes == 2 else _largest(logits)
    pixel = label.mul_(num_classes).add_(predicted)
    return _count(pixel, (num_classes + 1, num_classes))[:, :num_classes]


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

    ``bincount`` waits for a GPU and falls back on XLA, so it is used on the CPU only, where it is
    up to three times as fast as ``scatter_add_``.
    """
    size = shape[0] * shape[1]
    if value.device.type == "cpu":
        flat, pairs = value.flatten(1), 256 * size
        if value.dtype == torch.uint8 and flat.shape[1] % 2 == 0:  # two at once take half the time
            both = _bincounts(flat.view(torch.int16), pairs).view(-1, size, 256)
            counts = both.sum(2) + both.sum(1)[:, :size]
        else:
            counts = _bincounts(flat, size)
        return counts.view(-1, *shape)
    index = value.flatten(1).to(torch.int64)
    one = torch.ones((), dtype=torch.int64, device=value.device).expand(index.shape)
    counts = torch.zeros((len(index), size), dtype=torch.int64, device=value.device)
    return counts.scatter_add_(1, index, one).view(-1, *shape)


def _bincounts(rows: Tensor, size: int) -> Tensor:
    """Count each value in [0, size) in each row, int64 (N, size)."""
    counts = [torch.bincount(row, minlength=size) for row in rows]
    return torch.stack(counts) if counts else rows.new_zeros((0, size), dtype=torch.int64)


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


def roc_curve(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """Compute false and true positive rates at every threshold, from the strictest down.

    Scores within one bin are tied, so the curve is exact for scores rounded to the bin. Counts are
    added as integers and divided as float32, which keeps every value within 1e-6 on devices without
    float64.

    Args:
        histogram: Counts of negatives and positives by bins of rising score, int64 (2, B).

    Returns:
        False and true positive rate, each float32 (B + 1,): from (0, 0), where nothing is
        predicted, over those with the b highest bins, to (1, 1), where everything is. A rate
        without anything to count is NaN.
    """
    if histogram.ndim != 2 or len(histogram) != 2:
        raise ValueError(f"expected a histogram of shape (2, B), got {tuple(histogram.shape)}")
    false_positives, true_positives = F.pad(histogram.flip(1).cumsum(1), (1, 0)).float()
    return false_positives / false_positives[-1], true_positives / true_positives[-1]


def rank_groups(histogram: Tensor, *, most: int = 1024) -> Tensor:
    """Merge neighbouring bins into groups that hold few of the pixels of either class each.

    Neither class has more than about 2 / ``most`` of its pixels in a group of several bins, so
    AUROC changes by less than 1 / ``most``, and by far less for the usual smooth distributions.

    Args:
        histogram: Counts of negatives and positives by bins of rising score, int64 (2, B).
        most: Largest number of groups.

    Returns:
        Group of each bin, int64 (B,), rising from 0.
    """
    shares = histogram.double() / histogram.sum(1, keepdim=True).clamp(min=1)
    share = shares.mean(0)
    group = ((share.cumsum(0) - share / 2) * most).long().clamp(0, most - 1)
    return torch.unique_consecutive(group, return_inverse=True)[1]


def auroc(histogram: Tensor) -> Tensor:
    """Compute the area under the ROC curve with the trapezoidal rule.

    Equals the share of (negative, positive) pairs in which the positive scores higher, pairs in one
    bin counting half.

    Args:
        histogram: Counts of negatives and positives, as for ``roc_curve``.

    Returns:
        A float32 scalar in [0, 1]; NaN unless both classes are present.
    """
    _, true_positive_rate = roc_curve(histogram)
    # widths from the counts themselves: differences of rounded rates would lose precision
    widths = histogram[0].flip(0).float() / histogram[0].sum().float()
    area = (widths * (true_positive_rate[1:] + true_positive_rate[:-1]) / 2).sum()
    return area.clamp(max=1)


def per_image_scores(
    logits: Tensor, target: Tensor, *, class_names: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Compute Dice, IoU and detected absence of every image, as averaged by ``SegmentationScores``.

    Args:
        logits: (N, 1, H, W), or (N, K, H, W) with K >= 3.
        target: (N, H, W) class indices in [0, K), or ``IGNORE_INDEX``.
        class_names: The K classes, background first; with K >= 3 they add the scores of each,
            such as ``dice/<name>``.

    Returns:
        float32 (N,) each. An image of ignored pixels only, or with a logit that is not finite, is
        NaN. ``absence`` is 1 where the foreground is neither labelled nor predicted, 0 where it is
        only predicted, and NaN where it is labelled. For two classes, an image without foreground
        on both sides has ``dice`` and ``iou`` 1; ``dice_present`` is the Dice of images with
        labelled foreground, and NaN for the others. With K >= 3, ``dice/<name>`` and ``iou/<name>``
        are NaN for images without that class, and ``dice``, ``iou`` and ``absence`` are the means
        over the foreground classes for which they are defined.
    """
    num_classes = number_of_classes(logits)
    if class_names and len(class_names) != num_classes:
        raise ValueError(f"expected {num_classes} class names, got {len(class_names)}")
    return _image_scores(pixel_confusion(logits, target), class_names)


def _image_scores(confusion: Tensor, class_names: Sequence[str]) -> dict[str, Tensor]:
    """Compute the scores of each image from its pixels by true and predicted class (N, K, K)."""
    counted = (confusion.sum((1, 2)) > 0).unsqueeze(1)
    labelled = confusion.sum(-1)[..., 1:] > 0
    predicted = confusion.sum(-2)[..., 1:] > 0
    dice, iou = (torch.where(counted, v, torch.nan) for v in _foreground_scores(confusion))
    absence = torch.where(counted & ~labelled, (~predicted).float(), torch.nan)
    if confusion.shape[-1] == 2:
        present = torch.where(labelled, dice, torch.nan)
        by_name = {"dice": dice, "dice_present": present, "iou": iou, "absence": absence}
        return {name: values[:, 0] for name, values in by_name.items()}
    of_classes = {
        "dice": torch.where(labelled, dice, torch.nan),
        "iou": torch.where(labelled, iou, torch.nan),
        "absence": absence,
    }
    table = {name: _mean_defined(values) for name, values in of_classes.items()}
    for score, values in of_classes.items():
        for name, column in zip(class_names[1:], values.unbind(1), strict=False):
            table[f"{score}/{name}"] = column
    return table


class SegmentationScores(Metric):
    """Overlap, pixel rates and the binned ROC of a whole epoch, from integer sums.

    The scores of ``per_image_scores`` are averaged over the images for which they are defined. The
    ``_global`` variants are computed once from the pixels of all images (K >= 3: per foreground
    class, then averaged). ``accuracy`` is the share of correctly classified pixels; ``precision``,
    ``recall`` and ``specificity`` are pixel rates of the foreground (K >= 3: of each class as
    ``precision/<name>`` and ``recall/<name>``, and averaged over the foreground classes for which
    they are defined). A class that is labelled and never predicted has precision 0. ``auroc`` ranks
    all pixels by foreground logit in the bins of ``pixel_histogram``. A score with nothing to count
    is NaN. So are all scores of an epoch in which an image has a logit that is not finite: the mean
    over the others would hide it.

    Image scores are added in fixed point (multiples of 2**-30), so that results are bitwise
    identical for any order, batch size or number of devices.

    Args:
        class_names: The K >= 2 classes, background first.
    """

    is_differentiable = False
    full_state_update = False

    logit_bins: Tensor
    confusion: Tensor
    image_sums: Tensor
    num_images: Tensor
    num_not_finite: Tensor

    def __init__(self, *, class_names: Sequence[str]) -> None:
        super().__init__()
        if len(class_names) < 2 or len(set(class_names)) < len(class_names):
            raise ValueError(f"expected two or more distinct class names, got {list(class_names)}")
        self.class_names = tuple(class_names)
        num_classes = len(class_names)
        none = torch.zeros((0, num_classes, num_classes), dtype=torch.int64)
        self._of_images = tuple(_image_scores(none, self.class_names))
        for state, shape in {
            "logit_bins": (2 * NUM_BINS + 1,),
            "confusion": (num_classes, num_classes),
            "image_sums": (len(self._of_images),),
            "num_images": (len(self._of_images),),
            "num_not_finite": (),
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
        if logits[:, 0].shape != target.shape:
            raise ValueError(
                f"expected target of shape {tuple(logits[:, 0].shape)}, got {tuple(target.shape)}"
            )
        if num_classes > 2:
            logits = logits.float()  # once: each score needs it
        finite = finite_images(logits)
        if finite.device.type != "cpu" or not finite.all():  # elsewhere the question would wait
            real = target.flatten(1).amin(1) < num_classes  # others pad a batch
            self.num_not_finite = self.num_not_finite + (real & ~finite).sum()
            target = ignored_unless(finite, target)
        confusion = _confusion(logits, target, num_classes)
        table = torch.stack([*_image_scores(confusion, self.class_names).values()], dim=1)
        defined = ~table.isnan()
        fixed = (torch.where(defined, table, 0) * _FIXED_POINT).round().to(torch.int64)
        self.confusion = self.confusion + confusion.sum(0)
        self.image_sums = self.image_sums + fixed.sum(0)
        self.num_images = self.num_images + defined.sum(0)
        if num_classes > 2:
            target = (target > 0).to(torch.uint8) + (target >= num_classes)  # 2: ignored
        if self.logit_bins.is_inference() and not torch.is_inference_mode_enabled():
            self.logit_bins = self.logit_bins.clone()
        logit = logits[:, 0] if num_classes == 2 else foreground_logit(logits)
        _add_pixels(self.logit_bins, logit, target)  # in place: it is large

    @property
    def histogram(self) -> Tensor:
        """Pixels by true class and bin of rising logit, as of ``pixel_histogram``."""
        return self.logit_bins[:-1].view(2, NUM_BINS)

    def compute(self) -> dict[str, Tensor]:
        """Compute every score named in the class docstring, as float32 scalars."""
        predicted, labelled = self.confusion.sum(0), self.confusion.sum(1)
        overlap, total = self.confusion.diagonal(), self.confusion.sum()
        means = self.image_sums.float() / _FIXED_POINT / self.num_images.float()
        of_images = dict(zip(self._of_images, means.unbind(), strict=True))
        dice_global, iou_global = _foreground_scores(self.confusion)
        correct_rejections = (total - predicted - labelled + overlap).float()
        precision = overlap.float() / predicted.float()
        precision = torch.where((predicted == 0) & (labelled > 0), 0.0, precision)[1:]
        recall = (overlap.float() / labelled.float())[1:]
        scores = {
            **{name: value for name, value in of_images.items() if "/" not in name},
            "dice_global": torch.where(total > 0, dice_global.mean(), torch.nan),
            "iou_global": torch.where(total > 0, iou_global.mean(), torch.nan),
            "accuracy": overlap.sum().float() / total.float(),
            "precision": _mean_defined(precision),
            "recall": _mean_defined(recall),
            "specificity": _mean_defined((correct_rejections / (total - labelled).float())[1:]),
            "auroc": auroc(self.histogram),
            **{name: value for name, value in of_images.items() if "/" in name},
        }
        if len(self.class_names) > 2:
            for name, *rates in zip(self.class_names[1:], precision, recall, strict=True):
                scores[f"precision/{name}"], scores[f"recall/{name}"] = rates
        unknown = self.num_not_finite > 0
        return {name: torch.where(unknown, torch.nan, v) for name, v in scores.items()}

    def roc(self, *, most: int = 256) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the ROC of all pixels at no more than ``most`` + 1 thresholds.

        Returns:
            False and true positive rate and probability threshold, each float32 (T + 1,) on the
            CPU: from (0, 0) at threshold infinity, where nothing is predicted, to (1, 1).
        """
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn,
            should_sync=self._to_sync,
            should_unsync=self._should_unsync,
        ):
            histogram = self.histogram.cpu()
        used = histogram.sum(0) > 0
        histogram, logits = histogram[:, used], bin_logits()[used]
        group = rank_groups(histogram, most=most)
        first = torch.ones_like(group, dtype=torch.bool)
        first[1:] = group[1:] != group[:-1]
        merged = merged_bins(histogram, group)
        threshold = torch.cat([torch.tensor([torch.inf]), logits[first].sigmoid().flip(0)])
        return *roc_curve(merged), threshold


def merged_bins(histogram: Tensor, group: Tensor) -> Tensor:
    """Add the bins of a histogram (..., B) by their group (B,): (..., G)."""
    size = (*histogram.shape[:-1], int(group.max()) + 1 if len(group) else 0)
    return torch.zeros(size, dtype=histogram.dtype).index_add_(-1, group, histogram)


def _foreground_scores(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """Compute Dice and IoU of the foreground classes, (..., K - 1), from (..., K, K) counts."""
    overlap = confusion.diagonal(dim1=-2, dim2=-1)[..., 1:]
    predicted, labelled = confusion.sum(-2)[..., 1:], confusion.sum(-1)[..., 1:]
    return dice_score(overlap, predicted, labelled), iou_score(overlap, predicted, labelled)


def _mean_defined(values: Tensor) -> Tensor:
    """Mean over the last axis ignoring NaN, NaN if all are; ``nanmean`` falls back on XLA."""
    defined = ~values.isnan()
    return torch.where(defined, values, 0).sum(-1) / defined.sum(-1)
