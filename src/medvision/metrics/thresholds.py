"""Where to cut the probability of the positive class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.ranking import counts_at_least
from medvision.types import MedvisionError

SENSITIVITY = 0.95
"""What ruling out a disease asks for, where nothing else is said."""

RULES = ("validation", "youden", "sensitivity")
"""By which a threshold can be chosen on validation images, named before they are seen."""


def threshold_by_rule(
    rule: str,
    probability_of_positive: ArrayLike,
    target: ArrayLike,
    *,
    sensitivity: float = SENSITIVITY,
) -> tuple[float, str]:
    """Choose a threshold by one of ``RULES``.

    ``validation`` takes the one nearest 0.5 of those within one standard error of the best
    balanced accuracy, ``youden`` the best itself (``choose_threshold``), ``sensitivity`` the
    largest that finds the wished share of the positives (``threshold_at_sensitivity``).

    Args:
        rule: One of them.
        probability_of_positive: p in [0, 1] of class 1 for the validation images, (N,).
        target: Their class indices 0 or 1, (N,).
        sensitivity: In (0, 1], for the last.

    Returns:
        A threshold t in [0, 1], predicted positive being p >= t, and what it is in words.

    Raises:
        MedvisionError: If the images are all of one class.
        ValueError: If an argument is not of that kind.
    """
    images = probability_of_positive, target
    if rule == "validation":
        return choose_threshold(*images, standard_errors=1), (
            "of the thresholds within one standard error of the best balanced accuracy on the"
            " validation images the one nearest 0.5"
        )
    if rule == "youden":
        return choose_threshold(*images), (
            "the threshold of the best Youden's J on the validation images"
        )
    if rule == "sensitivity":
        found = threshold_at_sensitivity(*images, sensitivity=sensitivity)
        return found, (
            f"the largest threshold that finds {100 * sensitivity:g} % of the positive validation"
            " images"
        )
    raise ValueError(f"expected a rule of {', '.join(RULES)}, got {rule}")


def choose_threshold(
    probability_of_positive: ArrayLike, target: ArrayLike, *, standard_errors: float = 0.0
) -> float:
    r"""Choose the threshold of the largest balanced accuracy, which is that of Youden's J.

    Choose it on validation images: on the images it was chosen on, a threshold looks better than
    it is. Every cut of the images into two is tried, at the threshold half way between the
    neighbouring distinct probabilities (beyond the outermost ones half way to 0 and to 1). Of
    equally good cuts the one nearest 0.5 is taken, the lower of two.

    The best of many cuts owes part of its lead to chance. With ``standard_errors`` c every cut
    counts as equally good whose balanced accuracy is at most c standard errors below the best,

    .. math:: \mathrm{SE} = \sqrt{p (1 - p) / P + q (1 - q) / N} / 2

    for sensitivity p of P positives and specificity q of N negatives at the best cut, each with
    one right and one wrong image added, so that a perfect cut has an error too.

    Args:
        probability_of_positive: p in [0, 1] of class 1, (N,).
        target: Class indices 0 or 1, (N,).
        standard_errors: 0 for the best cut itself; 1 is the usual rule.

    Returns:
        A threshold t in [0, 1], predicted positive being p >= t.

    Raises:
        MedvisionError: If the images are all of one class.
        ValueError: If shapes differ, a probability is not in [0, 1] or a target is not 0 or 1.

    References:
        Youden, Index for rating diagnostic tests, Cancer 1950;
        Breiman et al., Classification and Regression Trees, 1984, for the one-standard-error rule
    """
    probability, labels = np.asarray(probability_of_positive, np.float64), np.asarray(target)
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("expected probabilities in [0, 1], got others or NaN")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("expected targets 0 and 1, got others")
    if labels.size == 0 or labels.min() == labels.max():
        raise MedvisionError(
            "a threshold cannot be chosen from images of one class",
            where="validation images",
            hint="use a validation split with both classes, or keep the threshold at 0.5",
        )
    false_positives, true_positives, distinct = counts_at_least(probability, labels == 1)
    # a cut below each distinct probability, and one above them all: there nothing is predicted
    edges = np.concatenate([[0.0], distinct, [1.0] if distinct[-1] < 1 else []])
    below, above = edges[:-1], edges[1:]
    threshold = below + (above - below) / 2
    threshold = np.where(threshold > below, threshold, above)  # neighbours without a float between
    # J times both counts, an exact integer, so that equally good cuts are seen as equal
    num_negatives, num_positives = false_positives[0], true_positives[0]
    sizes = num_positives, num_negatives
    gain = (np.append(true_positives, 0) * num_negatives)[: len(threshold)]
    gain -= (np.append(false_positives, 0) * num_positives)[: len(threshold)]
    best = gain.argmax()
    rates = np.append(true_positives, 0)[best], num_negatives - np.append(false_positives, 0)[best]
    variance = sum(_variance(right, of) for right, of in zip(rates, sizes, strict=True))
    slack = standard_errors * np.sqrt(variance) * num_negatives * num_positives
    candidates = threshold[gain >= gain.max() - slack]
    return float(candidates[np.abs(candidates - 0.5).argmin()])


def threshold_at_sensitivity(
    probability_of_positive: ArrayLike, target: ArrayLike, *, sensitivity: float = SENSITIVITY
) -> float:
    """Largest threshold at which at least this share of the positives is found.

    It lies half way between the lowest probability that is predicted positive and the next
    lower one (or 0), as those of ``choose_threshold`` do. Choose it on validation images; on
    others the sensitivity may come out lower.

    Args:
        probability_of_positive: p in [0, 1] of class 1, (N,).
        target: Class indices 0 or 1, (N,).
        sensitivity: In (0, 1].

    Returns:
        A threshold t in [0, 1], predicted positive being p >= t.

    Raises:
        MedvisionError: If no image is positive.
        ValueError: If an argument is not of that kind.
    """
    probability, labels = checked(probability_of_positive, target)
    if not 0 < sensitivity <= 1:
        raise ValueError(f"expected a sensitivity in (0, 1], got {sensitivity}")
    if not (labels == 1).any():
        raise MedvisionError(
            "a threshold cannot be chosen for its sensitivity without positive images",
            where="validation images",
            hint="use a validation split with both classes",
        )
    _, positives, distinct = counts_at_least(probability, labels == 1)
    cut = np.flatnonzero(positives / positives[0] >= sensitivity)[-1]
    below, above = float(distinct[cut - 1]) if cut else 0.0, float(distinct[cut])
    threshold = below + (above - below) / 2
    return threshold if threshold > below else above  # neighbours without a float between


def _variance(right: float, of: float) -> float:
    """Variance of a proportion, with one right and one wrong added."""
    share = (right + 1) / (of + 2)
    return share * (1 - share) / of


def checked(
    probability: ArrayLike, target: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.integer[Any]]]:
    """Probabilities of class 1 and class indices as arrays (N,).

    Raises:
        ValueError: If shapes differ, a probability is not in [0, 1] or a target is not 0 or 1.
    """
    values, labels = np.asarray(probability, np.float64), np.asarray(target)
    if values.ndim != 1 or values.shape != labels.shape:
        raise ValueError(
            "expected probability and target of one shape (N,), "
            f"got {values.shape} and {labels.shape}"
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("expected probabilities in [0, 1], got others or NaN")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("expected targets 0 and 1, got others")
    return values, labels
