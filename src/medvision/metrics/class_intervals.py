"""Confidence intervals of classification scores."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.calibration import Calibration, calibration_error_interval
from medvision.metrics.classification import ClassifiedImages
from medvision.metrics.intervals import (
    UNKNOWN,
    Floats,
    Groups,
    Interval,
    auroc_interval,
    effective_size,
    group_numbers,
    jackknife,
    jackknife_variance,
    mean_interval,
    mean_of_intervals,
    proportion_interval,
    variance_interval,
)
from medvision.metrics.ranking import placements

Bools = NDArray[np.bool_]

MEANS = {"balanced_accuracy": "recall"}
"""Means over classes under a name of their own."""

INDEPENDENT = ("recall", "precision")
"""Scores that rest on different images for each class."""

RANGES = {"mcc": (-1.0, 1.0), "kappa": (-1.0, 1.0)}
"""Smallest and largest value of the scores that do not lie in [0, 1]."""


def _mcc_of_two(prevalence: float, specificity: float, sensitivity: float) -> float:
    predicted = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    spread = math.sqrt(prevalence * (1 - prevalence) * predicted * (1 - predicted))
    gain = prevalence * (1 - prevalence) * (sensitivity + specificity - 1)
    return gain / spread if spread else 0.0


def _kappa_of_two(prevalence: float, specificity: float, sensitivity: float) -> float:
    predicted = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    gain = prevalence * (1 - prevalence) * (sensitivity + specificity - 1)
    return 2 * gain / (prevalence * (1 - predicted) + (1 - prevalence) * predicted)


AGREEMENT_OF_TWO = {"mcc": _mcc_of_two, "kappa": _kappa_of_two}
"""Scores of two classes that rise with the recall of each, at the prevalence of the images."""


def classification_intervals(
    probability: ArrayLike,
    target: ArrayLike,
    *,
    class_names: Sequence[str],
    threshold: float = 0.5,
    ordered: bool = False,
    groups: Groups = None,
    confidence: float = 0.95,
    seed: int = 0,
    only: Collection[str] | None = None,
) -> dict[str, Interval]:
    r"""Intervals of ``classification_scores``.

    - Accuracy, and recall, specificity and precision of a class, are proportions:
      ``proportion_interval`` (Wilson).
    - F1 is 2 J / (1 + J) with the proportion J = TP / (TP + FP + FN), and its interval that of J.
    - AUROC of a class: ``auroc_interval`` (Newcombe) with the variance of DeLong, or of Obuchowski
      for grouped images.
    - Average precision and any further score: ``variance_interval`` with the variance by
      ``jackknife`` and the number of images of the class, or of the rarest class.
    - MCC and kappa of two classes: MOVER over Jeffreys intervals of both recalls, at the prevalence
      of the images; of more classes ``variance_interval`` with all images, if there are two of
      each.
    - The mean over classes of any of these, such as balanced accuracy: ``mean_of_intervals``
      (MOVER), over Jeffreys intervals for proportions, with correlations by ``jackknife`` where
      classes share images.
    - Brier score: ``mean_interval``. ECE: ``calibration_error_interval``.

    Args:
        probability: Probabilities (N, K), rows summing to 1; for two classes columns 1 - p and p.
        target: Class indices in [0, K), (N,).
        class_names: The K >= 2 classes.
        threshold: In [0, 1]; for two classes, class 1 is predicted where p >= threshold.
        ordered: True if the classes are in a meaningful order, such as grades.
        groups: Group of each image, such as its patient.
        confidence: Nominal coverage, in (0, 1).
        seed: Random seed of the interval of the ECE; equal seeds give equal intervals.
        only: Names of the scores; None for all.

    Returns:
        Low and high end of every score of ``classification_scores``, within its range, without the
        confusion counts. Both ends are NaN where the score is, or where too few images count.

    Raises:
        ValueError: If an argument is invalid.

    References:
        Lam, Gopal and Qian, Confidence Intervals for the F1 Score: A Comparison of Four Methods,
        2023, https://arxiv.org/abs/2309.14621; those of the functions named
    """
    images = ClassifiedImages(
        probability, target, class_names=class_names, threshold=threshold, ordered=ordered
    )
    group = group_numbers(groups, len(images))
    found = _Scores(images, group, confidence)
    names = [name for name in found.observed if only is None or name in only]
    calibrated = (
        calibration_intervals(probability, target, groups=groups, confidence=confidence, seed=seed)
        if {"ece", "brier"} & {*names}
        else {}
    )
    return {name: calibrated.get(name) or found.interval(name) for name in names}


def calibration_intervals(
    probability: ArrayLike,
    target: ArrayLike,
    *,
    groups: Groups = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Compute the intervals of ``ece`` and ``brier`` only, as in ``classification_intervals``.

    Args:
        probability: Probabilities (N, K), rows summing to 1.
        target: Class indices in [0, K), (N,).
        groups: Group of each image, such as its patient.
        confidence: Nominal coverage, in (0, 1).
        seed: Random seed; equal seeds give equal intervals.
    """
    values = np.asarray(probability, np.float64)
    images = Calibration(values, np.asarray(target, np.int64))
    group = group_numbers(groups, len(images))
    return {
        "ece": calibration_error_interval(images, groups=group, confidence=confidence, seed=seed),
        "brier": mean_interval(
            images.squared_errors,
            groups=group,
            upper=1.0 if values.shape[1] == 2 else 2.0,
            confidence=confidence,
        ),
    }


class _Scores:
    """Scores of some images with what their intervals are made of.

    Args:
        images: The images.
        group: Index of the group of each image, (N,).
        confidence: Nominal coverage, in (0, 1).
    """

    def __init__(
        self, images: ClassifiedImages, group: NDArray[np.intp], confidence: float
    ) -> None:
        self.images, self.group, self.confidence = images, group, confidence
        self.observed = {name: float(value[0]) for name, value in images.scores().items()}

    @cached_property
    def left_out(self) -> dict[str, Floats]:
        """Scores without each group in turn."""
        return jackknife(self.images.scores, self.group)

    def interval(self, name: str) -> Interval:
        """Compute the interval of one score."""
        score, _, of = name.partition("/")
        if of:
            return self._of_class(score, self.images.class_names.index(of))
        if name == "accuracy":
            right = (self.images.labelled & self.images.predicted).any(axis=1)
            return proportion_interval(right, groups=self.group, confidence=self.confidence)
        if name in RANGES:
            return self._agreement(name)
        parts = [f"{MEANS.get(name, name)}/{of}" for of in self.images.class_names]
        if parts[0] not in self.observed:
            return self._by_variance(name, self._rarest)
        if len(parts) == 2 and name not in MEANS:
            return self.interval(parts[1])
        return self._mean(parts[0].partition("/")[0])

    def _of_class(self, score: str, column: int, *, equal_tails: bool = False) -> Interval:
        name = f"{score}/{self.images.class_names[column]}"
        if np.isnan(self.observed[name]):
            return UNKNOWN
        labelled, predicted = self.images.labelled[:, column], self.images.predicted[:, column]
        counted = {
            "recall": (predicted, labelled),
            "specificity": (~predicted, ~labelled),
            "precision": (labelled, predicted),
            "f1": (labelled & predicted, labelled | predicted),
        }
        if score in counted:
            right, among = counted[score]
            low, high = proportion_interval(
                right[among],
                groups=self.group[among],
                confidence=self.confidence,
                equal_tails=equal_tails,
            )
            return (2 * low / (1 + low), 2 * high / (1 + high)) if score == "f1" else (low, high)
        if score == "auroc":
            placed = placements(self.images.ranked[:, column], labelled)
            sizes = [effective_size(placed[of], self.group[of]) for of in (labelled, ~labelled)]
            return auroc_interval(
                self.observed[name],
                _placement_variance(placed, labelled, self.group),
                positives=sizes[0],
                negatives=sizes[1],
                confidence=self.confidence,
            )
        return self._by_variance(name, self._count(labelled))

    def _agreement(self, name: str) -> Interval:
        """Compute the interval of MCC or kappa, which rest on all images."""
        if len(self.images.class_names) > 2:
            num_groups = len(np.unique(self.group))
            return self._by_variance(name, num_groups) if self._rarest > 1 else UNKNOWN
        columns = range(2)
        value = self.observed[name]
        recalls = [self.observed[f"recall/{self.images.class_names[k]}"] for k in columns]
        ends = [self._of_class("recall", k, equal_tails=True) for k in columns]
        if np.isnan([value, *recalls, *chain(*ends)]).any():
            return UNKNOWN
        prevalence = float(self.images.labelled[:, 1].mean())
        low, high = (
            [
                value - AGREEMENT_OF_TWO[name](prevalence, *changed)
                for changed in ((recalls[0], ends[1][side]), (ends[0][side], recalls[1]))
            ]
            for side in (0, 1)
        )
        least, most = RANGES[name]
        return max(value - math.hypot(*low), least), min(value + math.hypot(*high), most)

    def _by_variance(self, name: str, size: int) -> Interval:
        bounds = RANGES.get(name.partition("/")[0], (0.0, 1.0))
        variance = jackknife_variance(self.left_out[name]) if len(self.group) else np.nan
        value, confidence = self.observed[name], self.confidence
        return variance_interval(value, variance, size=size, bounds=bounds, confidence=confidence)

    def _mean(self, score: str) -> Interval:
        """Compute the interval of the mean over the classes in which a score is defined."""
        of_classes = {f"{score}/{of}": column for column, of in enumerate(self.images.class_names)}
        names = [name for name in of_classes if not np.isnan(self.observed[name])]
        ends = [self._of_class(score, of_classes[name], equal_tails=True) for name in names]
        if not names or np.isnan(ends).any():
            return UNKNOWN
        correlation = np.eye(len(names))
        if len(names) > 1 and score not in INDEPENDENT:
            left_out = np.array([self.left_out[name] for name in names])
            if left_out.shape[1] < 2:  # unknown: assume the value that gives the widest interval
                correlation = np.ones_like(correlation)
            else:
                with np.errstate(invalid="ignore", divide="ignore"):  # 0/0: a class without spread
                    correlation = np.nan_to_num(np.corrcoef(left_out))
                np.fill_diagonal(correlation, 1)
        return mean_of_intervals([self.observed[name] for name in names], ends, correlation)

    @property
    def _rarest(self) -> int:
        """Number of groups of the rarest class."""
        return min((self._count(of) for of in self.images.labelled.T if of.any()), default=0)

    def _count(self, chosen: Bools) -> int:
        """Count the groups of some images."""
        return len(np.unique(self.group[chosen]))


def _placement_variance(placed: Floats, positive: Bools, group: NDArray[np.intp]) -> float:
    """Variance of an AUROC from its placement values, over groups; NaN without two groups of each.

    References:
        DeLong et al., Comparing the Areas under Two or More Correlated ROC Curves, Biometrics 1988;
        Obuchowski, Nonparametric Analysis of Clustered ROC Curve Data, Biometrics 1997
    """
    sums = np.zeros((2, int(group.max()) + 1))
    factors = []
    for row, side in enumerate((positive, ~positive)):
        apart = placed[side] - placed[side].mean()
        sums[row] = np.bincount(group[side], apart, minlength=sums.shape[1]) / side.sum()
        num = len(np.unique(group[side]))
        factors.append(num / (num - 1) if num > 1 else np.nan)
    both = len(np.unique(group))
    shared = 2 * both / (both - 1) * float(sums[0] @ sums[1]) if both > 1 else np.nan
    of_sides = sum(factor * float(row @ row) for factor, row in zip(factors, sums, strict=True))
    return max(of_sides + shared, 0.0)
