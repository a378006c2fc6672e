"""What a classifier of two classes does at a threshold: sensitivity, specificity, PPV and NPV."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from medvision.metrics.ranking import counts_at_least
from medvision.metrics.thresholds import choose_threshold
from medvision.types import MedvisionError

SENSITIVITY = 0.95
"""What the point for ruling out a disease asks for on the validation images."""


def wilson_interval(
    successes: int, trials: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    r"""Score interval of a proportion of independent trials.

    .. math:: \frac{s + z^2/2 \pm z \sqrt{s (n - s) / n + z^2/4}}{n + z^2}

    for s successes in n trials and the normal quantile z. It stays in [0, 1] and has a width
    where every trial ends alike. Images of one patient are not independent: with several of
    them it is too narrow.

    Args:
        successes: s in [0, n].
        trials: n; of none nothing is known.
        confidence: Wished coverage, in (0, 1).

    Returns:
        Low and high end in [0, 1]; both NaN without trials.

    Raises:
        ValueError: If an argument is not of that kind.

    References:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"expected successes in [0, {trials}], got {successes}")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    if trials == 0:
        return math.nan, math.nan
    z = float(special.ndtri((1 + confidence) / 2))
    failures, size = trials - successes, trials + z**2
    half = z * math.sqrt(successes * failures / trials + z**2 / 4)
    # exact at 0 and 1, where the two terms cancel
    low = (successes + z**2 / 2 - half) / size if successes else 0.0
    high = (successes + z**2 / 2 + half) / size if failures else 1.0
    return low, high


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
    below, above = float(distinct[cut - 1]) if cut else 0.0, float(distinct[cut])
    threshold = below + (above - below) / 2
    return threshold if threshold > below else above  # neighbours without a float between


def operating_points(
    val_probability: ArrayLike,
    val_target: ArrayLike,
    test_probability: ArrayLike,
    test_target: ArrayLike,
    *,
    threshold_in_use: float,
    chosen_on: Literal["val", "fixed"],
) -> list[dict[str, Any]]:
    """Measure on the test images the threshold in use and two chosen on the validation images.

    The two are that of the best Youden's J and the largest of 95 % sensitivity; both are left out
    where the validation images are not of both classes. With TP, FP, FN and TN counting test
    images, predicted positive being p >= threshold: sensitivity TP / (TP + FN), specificity
    TN / (TN + FP), PPV TP / (TP + FP) and NPV TN / (TN + FN), each with its Wilson interval.

    PPV and NPV hold where the disease is as frequent as among these test images, which are often
    collected half and half: in a screening population the PPV is far lower.

    Args:
        val_probability: p in [0, 1] of class 1 for the validation images, (M,).
        val_target: Their class indices 0 or 1, (M,).
        test_probability: The same for the test images, (N,).
        test_target: Their class indices, (N,).
        threshold_in_use: In [0, 1].
        chosen_on: Where the threshold in use comes from.

    Returns:
        A dict for each point: name, threshold, chosen_on, num_positives and num_negatives of the
        test images, and sensitivity, specificity, ppv and npv, each also as ``_ci95`` [low, high];
        None where there is nothing to count.

    Raises:
        ValueError: If an argument is not of that kind.
    """
    probability, labels = _checked(test_probability, test_target)
    val_probability, val_labels = _checked(val_probability, val_target)
    if not 0 <= threshold_in_use <= 1:
        raise ValueError(f"expected a threshold in [0, 1], got {threshold_in_use}")
    points: list[tuple[str, float, str]] = [("in use", float(threshold_in_use), chosen_on)]
    if len(np.unique(val_labels)) == 2:
        youden = choose_threshold(val_probability, val_labels, standard_errors=0)
        sensitive = threshold_at_sensitivity(val_probability, val_labels)
        points += [
            ("Youden's J", youden, "val"),
            (f"{100 * SENSITIVITY:.0f} % sensitivity", sensitive, "val"),
        ]
    return [
        {
            "name": name,
            "threshold": threshold,
            "chosen_on": chosen,
            "num_positives": int((labels == 1).sum()),
            "num_negatives": int((labels == 0).sum()),
            **_rates(probability >= threshold, labels == 1),
        }
        for name, threshold, chosen in points
    ]


def _rates(predicted: NDArray[np.bool_], positive: NDArray[np.bool_]) -> dict[str, Any]:
    """The four rates and their intervals."""
    found, rejected = int((predicted & positive).sum()), int((~predicted & ~positive).sum())
    counts = {
        "sensitivity": (found, int(positive.sum())),
        "specificity": (rejected, int((~positive).sum())),
        "ppv": (found, int(predicted.sum())),
        "npv": (rejected, int((~predicted).sum())),
    }
    rates: dict[str, Any] = {}
    for name, (right, of) in counts.items():
        rates[name] = right / of if of else None
        rates[f"{name}_ci95"] = [*wilson_interval(right, of)] if of else None
    return rates


def _checked(
    probability: ArrayLike, target: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.integer[Any]]]:
    """Both as arrays (N,)."""
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
