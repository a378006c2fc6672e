"""Decision thresholds: rules to choose one, and the operating point at each."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.errors import MedvisionError
from medvision.metrics.intervals import (
    Floats,
    Groups,
    Interval,
    group_numbers,
    mean_interval,
    proportion_interval,
    ratio_interval,
)
from medvision.metrics.ranking import counts_at_least

SENSITIVITY = 0.95
"""Default sensitivity, high enough to rule out a disease."""

RULES = {
    "validation": "the threshold nearest 0.5 among those within one standard error of the best"
    " balanced accuracy on the validation images",
    "youden": "the threshold of the best Youden's J on the validation images",
    "sensitivity": "the largest threshold that finds {:g} % of the positive validation images",
}
"""Rules to choose a threshold on validation images, selected before seeing the images."""


def threshold_by_rule(
    rule: str,
    probability_of_positive: ArrayLike,
    target: ArrayLike,
    *,
    sensitivity: float = SENSITIVITY,
) -> tuple[float, str]:
    """Choose a threshold by one of ``RULES``.

    ``validation`` takes the threshold nearest 0.5 among those within one standard error of the best
    balanced accuracy, ``youden`` the best one (``choose_threshold``), ``sensitivity`` the largest
    that finds the requested share of the positives (``threshold_at_sensitivity``).

    Args:
        rule: One of ``RULES``.
        probability_of_positive: p in [0, 1] of class 1 for the validation images, (N,).
        target: Class indices 0 or 1 of the validation images, (N,).
        sensitivity: Requested sensitivity in (0, 1], for the rule of the same name.

    Returns:
        A threshold t in [0, 1], where p >= t is predicted positive, and its description.

    Raises:
        MedvisionError: If all images are of one class.
        ValueError: If an argument is invalid.
    """
    if rule not in RULES:
        raise ValueError(f"expected one of the rules {', '.join(RULES)}, got {rule}")
    images = probability_of_positive, target
    if rule == "sensitivity":
        found = threshold_at_sensitivity(*images, sensitivity=sensitivity)
    else:
        found = choose_threshold(*images, standard_errors=int(rule == "validation"))
    return found, RULES[rule].format(100 * sensitivity)


def choose_threshold(
    probability_of_positive: ArrayLike, target: ArrayLike, *, standard_errors: float = 0.0
) -> float:
    r"""Choose the threshold with the largest balanced accuracy, which also maximises Youden's J.

    Choose it on validation images: a threshold looks better than it is on the images it was chosen
    on. Every cut of the images into two is tried, at the threshold halfway between the neighbouring
    distinct probabilities (beyond the outermost ones halfway to 0 and to 1). Among equally good
    cuts the one nearest 0.5 is taken, the lower on ties.

    The best of many cuts owes part of its lead to chance. With ``standard_errors`` c, every cut
    whose balanced accuracy is at most c standard errors below the best counts as equally good,

    .. math:: \mathrm{SE} = \sqrt{p (1 - p) / P + q (1 - q) / N} / 2

    for sensitivity p of P positives and specificity q of N negatives at the best cut, each with
    one right and one wrong image added, so that a perfect cut has an error too.

    Args:
        probability_of_positive: p in [0, 1] of class 1, (N,).
        target: Class indices 0 or 1, (N,).
        standard_errors: 0 for the best cut itself; 1 is the usual rule.

    Returns:
        A threshold t in [0, 1], where p >= t is predicted positive.

    Raises:
        MedvisionError: If all images are of one class.
        ValueError: If shapes differ, a probability is not in [0, 1] or a target is not 0 or 1.

    References:
        Youden, Index for rating diagnostic tests, Cancer 1950;
        Breiman et al., Classification and Regression Trees, 1984, for the one-standard-error rule
    """
    probability, labels = _checked(probability_of_positive, target)
    if labels.size == 0 or labels.min() == labels.max():
        raise MedvisionError(
            "a threshold cannot be chosen from images of one class",
            where="validation images",
            hint="use a validation split with both classes, or keep the threshold at 0.5",
        )
    false_positives, true_positives, distinct = counts_at_least(probability, labels == 1)
    # a cut below each distinct probability, and one above all of them, which predicts nothing
    edges = np.concatenate([[0.0], distinct, [1.0] if distinct[-1] < 1 else []])
    threshold = _half_way(edges[:-1], edges[1:])
    # J times both counts is an exact integer, so that equally good cuts compare as equal
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
    """Find the largest threshold at which at least this share of the positives is found.

    It lies halfway between the lowest probability that is predicted positive and the next lower one
    (or 0), as in ``choose_threshold``. Choose it on validation images; the sensitivity may be lower
    on others.

    Args:
        probability_of_positive: p in [0, 1] of class 1, (N,).
        target: Class indices 0 or 1, (N,).
        sensitivity: Requested sensitivity in (0, 1].

    Returns:
        A threshold t in [0, 1], where p >= t is predicted positive.

    Raises:
        MedvisionError: If no image is positive.
        ValueError: If an argument is invalid.
    """
    probability, labels = _checked(probability_of_positive, target)
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
    return float(_half_way(distinct[cut - 1] if cut else 0.0, distinct[cut]))


def _half_way(below: Floats | float, above: Floats) -> Floats:
    """Threshold between two neighbours; the upper one if no float lies between them."""
    middle = below + (above - below) / 2
    return np.where(middle > below, middle, above)


def _variance(right: float, of: float) -> float:
    """Variance of a proportion, with one right and one wrong case added."""
    share = (right + 1) / (of + 2)
    return share * (1 - share) / of


def _checked(
    probability: ArrayLike, target: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.integer[Any]]]:
    """Check and convert probabilities of class 1 and class indices to arrays (N,).

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
        raise ValueError("expected probabilities in [0, 1], got other values or NaN")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("expected targets 0 and 1, got other values")
    return values, labels


def operating_points(
    val_probability: ArrayLike,
    val_target: ArrayLike,
    test_probability: ArrayLike,
    test_target: ArrayLike,
    *,
    threshold_in_use: float,
    chosen_on: Literal["val", "fixed"],
    sensitivity: float = SENSITIVITY,
    prevalence: float | None = None,
    groups: Groups = None,
) -> list[dict[str, Any]]:
    r"""Measure three thresholds on the test images: the one in use and two from validation images.

    The two are the threshold with the best Youden's J and the largest with the requested
    sensitivity; both are left out unless the validation images are of both classes. With TP, FP, FN
    and TN counting test images, predicted positive where p >= threshold: sensitivity TP / (TP +
    FN), specificity TN / (TN + FP), PPV TP / (TP + FP) and NPV TN / (TN + FN), each with its
    interval of ``proportion_interval``, as everywhere.

    PPV and NPV are valid where the disease is as frequent as among these test images, which often
    have balanced classes: in a screening population the PPV is far lower. At a stated
    ``prevalence`` :math:`\pi` they follow from sensitivity se and specificity sp by Bayes' theorem,

    .. math:: \mathrm{PPV} = \frac{\pi\, se}{\pi\, se + (1 - \pi)(1 - sp)}, \qquad
              \mathrm{NPV} = \frac{(1 - \pi)\, sp}{(1 - \pi)\, sp + \pi (1 - se)}

    provided that diseased and healthy images of that population are like the test images. Their
    intervals follow from those of the likelihood ratios se / (1 - sp) and sp / (1 - se), with which
    they rise, computed by ``ratio_interval`` from those of se and sp. The prevalence
    is taken as known.

    Args:
        val_probability: p in [0, 1] of class 1 for the validation images, (M,).
        val_target: Class indices 0 or 1 of the validation images, (M,).
        test_probability: p in [0, 1] of class 1 for the test images, (N,).
        test_target: Class indices 0 or 1 of the test images, (N,).
        threshold_in_use: Threshold in use, in [0, 1].
        chosen_on: Source of the threshold in use.
        sensitivity: Requested sensitivity of the last point on the validation images, in (0, 1].
        prevalence: Share of positives, in (0, 1), at which to state PPV and NPV.
        groups: Group of each test image, such as its patient, (N,).

    Returns:
        One dict per point: name, threshold, chosen_on, num_positives and num_negatives of the test
        images, and sensitivity, specificity, ppv and npv, each also as ``_ci95`` [low, high]; None
        where there is nothing to count, or too little for an interval. With a prevalence also
        ``prevalence``, ``ppv_at_prevalence`` and ``npv_at_prevalence``.

    Raises:
        ValueError: If an argument is invalid.
    """
    probability, labels = _checked(test_probability, test_target)
    val_probability, val_labels = _checked(val_probability, val_target)
    if not 0 <= threshold_in_use <= 1:
        raise ValueError(f"expected a threshold in [0, 1], got {threshold_in_use}")
    if prevalence is not None and not 0 < prevalence < 1:
        raise ValueError(f"expected a prevalence between 0 and 1, got {prevalence}")
    group = group_numbers(groups, len(labels))
    points: list[tuple[str, float, str]] = [("in use", float(threshold_in_use), chosen_on)]
    if len(np.unique(val_labels)) == 2:
        youden = choose_threshold(val_probability, val_labels, standard_errors=0)
        sensitive = threshold_at_sensitivity(val_probability, val_labels, sensitivity=sensitivity)
        points += [
            ("Youden's J", youden, "val"),
            (f"{100 * sensitivity:g} % sensitivity", sensitive, "val"),
        ]
    found = []
    for name, threshold, chosen in points:
        rates = _rates(probability >= threshold, labels == 1, group)
        found.append(
            {
                "name": name,
                "threshold": threshold,
                "chosen_on": chosen,
                "num_positives": int((labels == 1).sum()),
                "num_negatives": int((labels == 0).sum()),
                **rates,
                **({} if prevalence is None else _at_prevalence(rates, prevalence)),
            }
        )
    return found


CURVE = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""Thresholds of the decision curve: 5 to 95 %."""


def net_benefits(probability: ArrayLike, target: ArrayLike, threshold: float) -> Floats:
    r"""Compute the contribution of each image to the net benefit at a threshold t, (N,).

    .. math:: \frac{\mathrm{TP}}{n} - \frac{\mathrm{FP}}{n} \frac{t}{1 - t}

    is their mean: 1 for a true positive, minus the odds of t for a false positive, else 0.

    Args:
        probability: p in [0, 1] of class 1, (N,).
        target: Class indices 0 or 1, (N,).
        threshold: t in [0, 1); the probability of disease from which a patient would be treated.

    References:
        Vickers and Elkin, Decision Curve Analysis, Medical Decision Making 2006
    """
    p, labels = _checked(probability, target)
    if not 0 <= threshold < 1:
        raise ValueError(f"expected a threshold in [0, 1), got {threshold}")
    gain = np.where(labels == 1, 1.0, -threshold / (1 - threshold))
    return np.where(p >= threshold, gain, 0.0)


def net_benefit_interval(each: Floats, threshold: float, groups: Groups = None) -> Interval:
    """Interval of the mean of ``net_benefits``, whose values lie between minus the odds and 1."""
    return mean_interval(each, groups=groups, lower=-threshold / (1 - threshold), upper=1.0)


def _finite_ends(interval: Interval) -> list[float] | None:
    return [*interval] if np.isfinite(interval).all() else None


def decision_curve(
    probability: ArrayLike, target: ArrayLike, *, groups: Groups = None
) -> list[dict[str, Any]]:
    """Compute the net benefit of the network, and of treating all, at thresholds of 5 to 95 %.

    The curve shows thresholds that users might hold; it chooses none. Treating no one has net
    benefit 0. A network is of use at a threshold where it is above both.

    Args:
        probability: p in [0, 1] of class 1 for the test images, (N,).
        target: Class indices 0 or 1, (N,).
        groups: Group of each image, such as its patient, (N,).

    Returns:
        One dict per threshold: ``threshold``, ``net_benefit``, ``net_benefit_ci95`` and
        ``treat_all``.
    """
    points = []
    for threshold in CURVE:
        each = net_benefits(probability, target, threshold)
        everyone = net_benefits(np.ones(len(each)), target, threshold)
        points.append(
            {
                "threshold": threshold,
                "net_benefit": float(each.mean()),
                "net_benefit_ci95": _finite_ends(net_benefit_interval(each, threshold, groups)),
                "treat_all": float(everyone.mean()),
            }
        )
    return points


def _rates(
    predicted: NDArray[np.bool_], positive: NDArray[np.bool_], group: NDArray[np.intp]
) -> dict[str, Any]:
    """Compute the four rates and their intervals."""
    right = predicted == positive
    counted = {
        "sensitivity": positive,
        "specificity": ~positive,
        "ppv": predicted,
        "npv": ~predicted,
    }
    rates: dict[str, Any] = {}
    for name, among in counted.items():
        if not among.any():
            rates |= {name: None, f"{name}_ci95": None}
            continue
        share = float(right[among].mean())
        low, high = proportion_interval(right[among], groups=group[among])
        ends = None if math.isnan(low) else [low, high]
        rates |= {name: share, f"{name}_ci95": ends}
    return rates


def _at_prevalence(rates: dict[str, Any], prevalence: float) -> dict[str, Any]:
    """Compute PPV and NPV by Bayes' theorem, with their intervals."""
    odds = prevalence / (1 - prevalence)
    pairs = {
        "ppv": ("sensitivity", "specificity", odds),
        "npv": ("specificity", "sensitivity", 1 / odds),
    }
    found: dict[str, Any] = {"prevalence": prevalence}
    for name, (own, other, before) in pairs.items():
        key = f"{name}_at_prevalence"
        found |= {key: None, f"{key}_ci95": None}
        if rates[own] is None or rates[other] is None:
            continue
        right, wrong = rates[own], 1 - rates[other]
        if right == wrong == 0:  # this outcome is never predicted
            continue
        ratio = right / wrong if wrong else math.inf
        found[key] = _from_odds(ratio * before)
        if rates[f"{own}_ci95"] is None or rates[f"{other}_ci95"] is None:
            continue
        low, high = rates[f"{other}_ci95"]
        ends = ratio_interval(right, tuple(rates[f"{own}_ci95"]), wrong, (1 - high, 1 - low))
        found[f"{key}_ci95"] = [_from_odds(end * before) for end in ends]
    return found


def _from_odds(odds: float) -> float:
    return 1.0 if odds == math.inf else odds / (1 + odds)
