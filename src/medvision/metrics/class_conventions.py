"""What papers and libraries call accuracy, F1 and AUROC, from one set of class probabilities.

Pure NumPy in float64. For two classes "positive" is class 1, predicted where p >= threshold; for
three or more the predicted class has the largest probability, and no threshold plays a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.class_convention_list import CLASSIFICATION
from medvision.metrics.classification import ClassifiedImages
from medvision.metrics.ranking import Ranking, counts_at_least

Floats = NDArray[np.float64]

_SIDES = ("precision", "recall")


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
        ``binary_only`` as ``ClassConvention`` has them, ``value`` in [0, 1], and ``difference``
        from medvision's own of that score; None where undefined.

    Raises:
        ValueError: If shapes, probabilities, targets, names or threshold are not of that kind.
    """
    images = ClassifiedImages(probability, target, class_names=class_names, threshold=threshold)
    scores = {name: float(value[0]) for name, value in images.scores().items()}
    probabilities, labels = np.asarray(probability, np.float64), np.asarray(target)
    values = {name: scores[name] for name in ("accuracy", "balanced_accuracy", "f1", "auroc")}
    values |= _f1_kinds(images, scores)
    if images.labelled.shape[1] == 2:
        values |= _binary_kinds(images, probabilities[:, 1], class_names, labels)
    else:
        values |= _auroc_kinds(probabilities, images.labelled)
    rows = []
    for convention in CLASSIFICATION:
        if not convention.fits(len(class_names)):
            continue
        value = values.get(convention.key, np.nan)
        rows.append(
            {
                **convention.to_dict(num_classes=len(class_names)),
                "value": _or_none(value),
                "difference": _or_none(value - values[convention.score]),
            }
        )
    return rows


def _f1_kinds(images: ClassifiedImages, scores: dict[str, float]) -> dict[str, float]:
    """F1 averaged over classes in the ways that are common."""
    by_class = np.array([scores[f"f1/{name}"] for name in images.class_names])
    support = images.labelled.sum(axis=0)
    occur = ~np.isnan(by_class)
    # a class that is never predicted has precision 0 here, as in scikit-learn
    sides = [np.nan_to_num([scores[f"{side}/{n}"] for n in images.class_names]) for side in _SIDES]
    precision, recall = (side[occur].mean() if occur.any() else np.nan for side in sides)
    with np.errstate(invalid="ignore"):
        return {
            "f1_macro": float(by_class[occur].mean()) if occur.any() else np.nan,
            "f1_weighted": float(np.divide((np.nan_to_num(by_class) @ support), support.sum())),
            "f1_micro": scores["accuracy"],
            "f1_of_means": float(2 * precision * recall / np.float64(precision + recall)),
        }


def _binary_kinds(
    images: ClassifiedImages, positive: Floats, class_names: Sequence[str], labels: NDArray[Any]
) -> dict[str, float]:
    """What other thresholds give, and the AUROC of the predicted classes."""
    half = ClassifiedImages(
        np.stack([1 - positive, positive], axis=1), labels, class_names=class_names, threshold=0.5
    ).scores()
    is_positive = images.labelled[:, 1]
    false, true, _ = counts_at_least(positive, is_positive)
    false, true = np.append(false, 0), np.append(true, 0)  # the last cut predicts nothing
    num_positive, num_images = is_positive.sum(), len(is_positive)
    with np.errstate(invalid="ignore"):
        f1 = 2 * true / (true + false + num_positive)
    predicted = Ranking(images.predicted_class.astype(np.float64), is_positive)
    return {
        "accuracy_at_half": float(half["accuracy"][0]),
        "accuracy_best": float(
            (true + num_images - num_positive - false).max() / num_images if num_images else np.nan
        ),
        "f1_at_half": float(half["f1"][0]),
        "f1_best": float(np.nanmax(f1)) if num_positive else np.nan,
        "auroc_of_classes": _auroc(predicted, num_images),
    }


def _auroc_kinds(probability: Floats, labelled: NDArray[np.bool_]) -> dict[str, float]:
    """AUROC averaged over classes and over pairs of classes; none where a class is absent."""
    support = labelled.sum(axis=0)
    if not support.all():
        return {}
    classes = range(labelled.shape[1])
    one_to_rest = np.array([_ranked(probability[:, k], labelled[:, k]) for k in classes])
    pairs, shares = [], []
    for a, b in combinations(classes, 2):
        chosen = labelled[:, a] | labelled[:, b]
        sides = [_ranked(probability[chosen, k], labelled[chosen, k]) for k in (a, b)]
        pairs.append(np.mean(sides))
        shares.append(chosen.mean())
    return {
        "auroc_weighted": float(np.average(one_to_rest, weights=support)),
        "auroc_micro": _ranked(probability.ravel(), labelled.ravel()),
        "auroc_one_to_one": float(np.mean(pairs)),
        "auroc_one_to_one_weighted": float(np.average(pairs, weights=shares)),
    }


def _ranked(score: Floats, positive: NDArray[np.bool_]) -> float:
    return _auroc(Ranking(score, positive), len(score))


def _auroc(ranking: Ranking, num_images: int) -> float:
    return float(ranking.areas(np.ones((1, num_images)))[0][0])


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
