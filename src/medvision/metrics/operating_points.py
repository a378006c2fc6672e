"""What a classifier of two classes does at a threshold: sensitivity, specificity, PPV and NPV."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.intervals import numbered
from medvision.metrics.proportions import (
    effective_trials,
    ratio_interval,
    wilson_interval,
)
from medvision.metrics.thresholds import (
    SENSITIVITY,
    checked,
    choose_threshold,
    threshold_at_sensitivity,
)


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
    groups: Sequence[Hashable] | NDArray[np.generic] | None = None,
) -> list[dict[str, Any]]:
    r"""Measure on the test images the threshold in use and two chosen on the validation images.

    The two are that of the best Youden's J and the largest of the wished sensitivity; both are
    left out where the validation images are not of both classes. With TP, FP, FN and TN counting
    test images, predicted positive being p >= threshold: sensitivity TP / (TP + FN), specificity
    TN / (TN + FP), PPV TP / (TP + FP) and NPV TN / (TN + FN), each with its Wilson interval; with
    ``groups``, that of as many independent images as the grouped ones are worth
    (``effective_trials``).

    PPV and NPV hold where the disease is as frequent as among these test images, which are often
    collected half and half: in a screening population the PPV is far lower. At a stated
    ``prevalence`` :math:`\pi` they follow from sensitivity se and specificity sp by Bayes,

    .. math:: \mathrm{PPV} = \frac{\pi\, se}{\pi\, se + (1 - \pi)(1 - sp)}, \qquad
              \mathrm{NPV} = \frac{(1 - \pi)\, sp}{(1 - \pi)\, sp + \pi (1 - se)}

    provided that the diseased and the healthy images are like those met there. Their intervals
    are those of the likelihood ratios se / (1 - sp) and sp / (1 - se), with which they rise, by
    ``ratio_interval`` from the Wilson intervals of se and sp; the prevalence counts as known.

    Args:
        val_probability: p in [0, 1] of class 1 for the validation images, (M,).
        val_target: Their class indices 0 or 1, (M,).
        test_probability: The same for the test images, (N,).
        test_target: Their class indices, (N,).
        threshold_in_use: In [0, 1].
        chosen_on: Where the threshold in use comes from.
        sensitivity: What the last point asks for on the validation images, in (0, 1].
        prevalence: Share of positives, in (0, 1), to state PPV and NPV at.
        groups: The group of each test image, such as its patient, (N,).

    Returns:
        A dict for each point: name, threshold, chosen_on, num_positives and num_negatives of the
        test images, and sensitivity, specificity, ppv and npv, each also as ``_ci95`` [low, high];
        None where there is nothing to count. With a prevalence also ``prevalence``,
        ``ppv_at_prevalence`` and ``npv_at_prevalence``.

    Raises:
        ValueError: If an argument is not of that kind.
    """
    probability, labels = checked(test_probability, test_target)
    val_probability, val_labels = checked(val_probability, val_target)
    if not 0 <= threshold_in_use <= 1:
        raise ValueError(f"expected a threshold in [0, 1], got {threshold_in_use}")
    if prevalence is not None and not 0 < prevalence < 1:
        raise ValueError(f"expected a prevalence between 0 and 1, got {prevalence}")
    if groups is not None and len(groups) != len(labels):
        raise ValueError(f"expected {len(labels)} groups, got {len(groups)}")
    group = np.arange(len(labels)) if groups is None else numbered(groups)
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


def _rates(
    predicted: NDArray[np.bool_], positive: NDArray[np.bool_], group: NDArray[np.intp]
) -> dict[str, Any]:
    """The four rates and their intervals."""
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
        trials = effective_trials(right[among], group[among])
        rates |= {name: share, f"{name}_ci95": [*wilson_interval(share * trials, trials)]}
    return rates


def _at_prevalence(rates: dict[str, Any], prevalence: float) -> dict[str, Any]:
    """PPV and NPV by Bayes, and their intervals."""
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
        if right == wrong == 0:  # nothing is ever predicted so
            continue
        low, high = rates[f"{other}_ci95"]
        ends = ratio_interval(right, tuple(rates[f"{own}_ci95"]), wrong, (1 - high, 1 - low))
        ratio = right / wrong if wrong else math.inf
        found[key] = _from_odds(ratio * before)
        found[f"{key}_ci95"] = [_from_odds(end * before) for end in ends]
    return found


def _from_odds(odds: float) -> float:
    return 1.0 if odds == math.inf else odds / (1 + odds)
