"""Bootstrap and exact intervals of classification scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.calibration import Calibration
from medvision.metrics.classification import ClassifiedImages
from medvision.metrics.intervals import (
    Floats,
    Groups,
    Interval,
    group_numbers,
    percentile_interval,
    resampled_scores,
)
from medvision.scores import score_named

EXACT = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1", "auroc")
"""Scores with an exact interval where they are 0 or 1, for which a bootstrap has no spread."""


def classification_intervals(
    probability: ArrayLike,
    target: ArrayLike,
    *,
    class_names: Sequence[str],
    threshold: float = 0.5,
    groups: Groups = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    r"""Expanded percentile bootstrap intervals of ``classification_scores``.

    Images (with ``groups``, whole groups) are resampled with replacement and every score is
    computed again; resamples in which it is undefined are left out. Tails are expanded as in
    ``bootstrap_mean_interval``, with n the number of images (or groups) behind the score: those
    of the class for a recall or an average precision, the rest for a specificity, those predicted
    as it for a precision, both of them for F1, the fewer of the class and the rest for an AUROC,
    all of them for accuracy, ECE and Brier score, those of the class for any further score, and for
    a mean over classes the fewest of any class, which dominates its spread.

    The calibration error of few images is too large by chance, and that of their resamples doubly
    so. Its interval is therefore the reversed one, from :math:`2 s - q_{high}` to
    :math:`2 s - q_{low}` for a score s and percentiles q. It is still too high for a perfectly
    calibrated classifier, where it reaches 0 in only about 6 of 10 cases.

    Where every image has the same score, a bootstrap shows no spread although there is uncertainty.
    A proportion (accuracy, balanced accuracy, precision, recall, specificity) of exactly 0 or 1
    therefore gets the exact Clopper-Pearson interval of n of n, :math:`[(\alpha/2)^{1/n}, 1]`, or
    its mirror image, which is conservative for a mean over classes. The same holds for AUROC, the
    share of correctly ranked pairs, of which n disjoint ones are independent, and for F1 = 2 J /
    (1 + J) with the proportion J = TP / (TP + FP + FN). Two cases still show no spread: an average
    precision of exactly 1, and any other score of a single group.

    Args:
        probability: Probabilities (N, K), rows summing to 1; for two classes columns 1 - p and p.
        target: Class indices in [0, K), (N,).
        class_names: The K >= 2 classes.
        threshold: In [0, 1]; for two classes, class 1 is predicted where p >= threshold.
        groups: Group of each image, such as its patient.
        confidence: Nominal coverage :math:`1 - \alpha`, in (0, 1).
        num_resamples: Number of resamples.
        seed: Random seed; equal seeds give equal intervals.

    Returns:
        Low and high end of every score of ``classification_scores``, within its range, without the
        confusion counts. Both ends are NaN where the score is.

    Raises:
        ValueError: If an argument is invalid.

    References:
        Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 2015,
        https://arxiv.org/abs/1411.5279; Clopper and Pearson, The Use of Confidence or Fiducial
        Limits, Biometrika 1934
    """
    images = ClassifiedImages(probability, target, class_names=class_names, threshold=threshold)
    group = group_numbers(groups, len(images))
    behind = _images_behind(images, group)
    return _intervals(images.scores, group, behind, confidence, num_resamples, seed)


def calibration_intervals(
    probability: ArrayLike,
    target: ArrayLike,
    *,
    groups: Groups = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Compute the intervals of ``ece`` and ``brier`` only, as in ``classification_intervals``.

    Args:
        probability: Probabilities (N, K), rows summing to 1.
        target: Class indices in [0, K), (N,).
        groups: Group of each image, such as its patient.
        confidence: Nominal coverage, in (0, 1).
        num_resamples: Number of resamples.
        seed: Random seed; equal seeds give the resamples of ``classification_intervals``.
    """
    images = Calibration(np.asarray(probability, np.float64), np.asarray(target, np.int64))
    group = group_numbers(groups, len(images))
    behind = dict.fromkeys(("ece", "brier"), len(np.unique(group)))
    return _intervals(images.scores, group, behind, confidence, num_resamples, seed)


def _intervals(
    scores: Callable[[Floats | None], dict[str, Floats]],
    group: NDArray[np.intp],
    behind: Mapping[str, int],
    confidence: float,
    num_resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """Compute low and high end of every score.

    Args:
        scores: Function that computes every score, (R,), from image weights (R, N).
        group: Index of the group of each image, (N,).
        behind: Number of images (or groups) behind each score.
        confidence: Nominal coverage, in (0, 1).
        num_resamples: Number of resamples.
        seed: Random seed; equal seeds give equal intervals.
    """
    if not len(group):
        return {name: (float("nan"), float("nan")) for name in behind}
    resampled = resampled_scores(
        lambda times: scores(times[:, group]),
        int(group.max()) + 1,
        num_resamples,
        np.random.default_rng(seed),
        width=len(group),
    )
    observed = scores(None)
    intervals = {}
    for name, values in resampled.items():
        kind, value = name.split("/")[0], float(observed[name][0])
        if kind in EXACT and value in (0.0, 1.0):
            low, high = _all_or_none(value, behind[name], confidence)
            if kind == "f1":
                low, high = 2 * low / (1 + low), 2 * high / (1 + high)
            intervals[name] = (low, high)
        else:
            low, high = percentile_interval(values, behind[name], confidence)
            if kind == "ece":
                low, high = 2 * value - high, 2 * value - low
            if kind == "brier":
                low, high = np.clip([low, high], 0, 2)
            elif (row := score_named(kind)) is None or row.bounded:
                low, high = np.clip([low, high], 0, 1)
            intervals[name] = (float(low), float(high))
    return intervals


def _images_behind(images: ClassifiedImages, group: NDArray[np.intp]) -> dict[str, int]:
    """Count the images (or groups) behind every score that gets an interval."""

    def count(chosen: NDArray[np.bool_]) -> int:
        return len(np.unique(group[chosen]))

    def fewest(counts: Sequence[int]) -> int:
        return counts[1] if len(counts) == 2 else min((n for n in counts if n > 0), default=0)

    labelled, predicted = images.labelled.T, images.predicted.T
    of_predicted = [count(mask) for mask in predicted]
    of_class = [count(mask) for mask in labelled]
    of_rest = [count(~mask) for mask in labelled]
    fewer = [min(pair) for pair in zip(of_class, of_rest, strict=True)]
    either = [count(mask) for mask in labelled | predicted]
    everything = len(np.unique(group))
    by_class = {
        "precision": of_predicted,
        "recall": of_class,
        "specificity": of_rest,
        "f1": either,
        "auroc": fewer,
        "average_precision": of_class,
    }
    behind = {
        "accuracy": everything,
        "balanced_accuracy": min((n for n in of_class if n > 0), default=0),
        **{score: fewest(counts) for score, counts in by_class.items()},
        "ece": everything,
        "brier": everything,
    }
    for name in images.scores():
        score, _, of = name.partition("/")
        counts = by_class.get(score, of_class)  # a further score rests on the images of its class
        behind.setdefault(name, counts[images.class_names.index(of)] if of else fewest(counts))
    return behind


def _all_or_none(value: float, size: int, confidence: float) -> Interval:
    """Clopper-Pearson interval of a proportion of 0 or 1 in ``size`` trials."""
    bound = ((1 - confidence) / 2) ** (1 / size)
    return (bound, 1.0) if value == 1 else (0.0, 1 - bound)
