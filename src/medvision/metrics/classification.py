r"""Scores of K-class image classification, from predicted probabilities.

For two classes, class 1 (the positive class) is predicted where p >= threshold. For K >= 3 the
class with the largest probability is predicted, the first on ties. TP, FP, FN and TN count images,
one class against the rest:

- ``accuracy``: share of images whose predicted class is correct.
- ``balanced_accuracy``: mean recall of the classes that occur among the targets.
- ``precision`` TP / (TP + FP); ``recall`` TP / (TP + FN); ``specificity`` TN / (TN + FP);
  ``f1`` 2 TP / (2 TP + FP + FN).
- ``auroc``: share of the (negative, positive) pairs in which the positive has the larger
  probability, ties counting half. Exact at image level, without bins. Probabilities that are
  rounded to 1 are no ties if those of the other classes differ.
- ``average_precision``: mean over the positives of the precision among the images with at least
  the same probability.
- ``ece``: expected calibration error over 15 equal-width bins of the confidence in the most
  probable class (``medvision.metrics.calibration``).
- ``brier``: mean squared error of the probabilities. For two classes that of class 1, in [0, 1];
  for K >= 3 summed over the classes, in [0, 2].

- ``mcc``: Matthews correlation coefficient of true and predicted class, in [-1, 1]; 0 where every
  image is predicted as one class.
- ``kappa``: Cohen's kappa of true and predicted class, in [-1, 1]; for ordered classes with weights
  that grow with the square of the distance between the classes.

``precision/<name>`` and so on are per-class scores. Without a name they are the scores of class 1
for two classes, and for K >= 3 the mean over the classes for which they are defined. A score with
nothing to count (0/0: recall or average precision without positives, AUROC with one class only) is
NaN, never 0; but the precision of a class that is labelled and never predicted is 0, as in
scikit-learn, so that no mean rises when a class is given up. ``confusion/<true>/<predicted>``
counts images.

Pure NumPy in float64. Every score also takes integer weights, the number of times that each image
occurs in each of R resamples, and equals the score of the images repeated that many times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.calibration import Calibration
from medvision.metrics.ranking import Ranking, class_ranks

MAX_CONFUSION_CLASSES = 20
"""Largest K with confusion counts, of which there are K * K."""

Floats = NDArray[np.float64]


class ClassifiedImages:
    """Images with their probabilities, prepared once and scored under many weightings.

    Args:
        probability: Probabilities (N, K), rows summing to 1; for two classes columns 1 - p and p.
        target: Class indices in [0, K), (N,).
        class_names: The K >= 2 classes.
        threshold: Decision threshold in [0, 1], for two classes.
        ordered: True if the classes are in a meaningful order, such as grades.

    Raises:
        ValueError: If shapes, probabilities, targets, names or threshold are invalid.
    """

    def __init__(
        self,
        probability: ArrayLike,
        target: ArrayLike,
        *,
        class_names: Sequence[str],
        threshold: float = 0.5,
        ordered: bool = False,
    ) -> None:
        num_classes = len(class_names)
        probabilities, labels = np.asarray(probability, np.float64), np.asarray(target)
        _check(probabilities, labels, class_names, threshold)
        labels = labels.astype(np.int64)
        self.class_names = tuple(class_names)
        if num_classes == 2:
            self.predicted_class = (probabilities[:, 1] >= threshold).astype(np.int64)
        else:
            self.predicted_class = probabilities.argmax(axis=1)
        self.ranked = scores = class_ranks(probabilities)
        classes = np.arange(num_classes)
        self.labelled = labels[:, None] == classes
        self.predicted = self.predicted_class[:, None] == classes
        self._counted = np.hstack(
            [self.labelled & self.predicted, self.predicted, self.labelled]
        ).astype(np.float64)
        self._ordered = ordered
        self._squares = np.subtract(self.predicted_class, labels, dtype=np.float64) ** 2
        self._calibration = Calibration(probabilities, labels)
        self._rankings = [Ranking(scores[:, k], self.labelled[:, k]) for k in classes]

    def __len__(self) -> int:
        return len(self.labelled)

    def scores(self, weights: NDArray[np.number] | None = None) -> dict[str, Floats]:
        """Compute every score of the module docstring but the confusion, float64 (R,) each.

        Args:
            weights: Number of times each image occurs in each of R resamples, (R, N). If None, each
                image occurs once and R = 1.
        """
        times = np.ones((1, len(self))) if weights is None else weights.astype(np.float64)
        hits, predicted, labelled = np.split(times @ self._counted, 3, axis=1)
        total = times.sum(axis=1, keepdims=True)
        areas = np.array([ranking.areas(times) for ranking in self._rankings])  # (K, 2, R)
        with np.errstate(invalid="ignore"):  # 0/0 is NaN: undefined
            precision = hits / predicted
            precision[(predicted == 0) & (labelled > 0)] = 0.0
            by_class = {
                "precision": precision,
                "recall": hits / labelled,
                "specificity": (total - predicted - labelled + hits) / (total - labelled),
                "f1": 2 * hits / (predicted + labelled),
                "auroc": areas[:, 0].T,
                "average_precision": areas[:, 1].T,
            }
            accuracy = hits.sum(axis=1) / total[:, 0]
        two = len(self.class_names) == 2
        return {
            "accuracy": accuracy,
            "balanced_accuracy": mean_over_defined(by_class["recall"]),
            "mcc": _mcc(hits, predicted, labelled),
            "kappa": _kappa(hits, predicted, labelled, times @ self._squares, self._ordered),
            **{name: v[:, 1] if two else mean_over_defined(v) for name, v in by_class.items()},
            **self._calibration.scores(times),
            **{
                f"{score}/{name}": values[:, k]
                for score, values in by_class.items()
                for k, name in enumerate(self.class_names)
            },
        }

    def confusion(self) -> dict[str, int]:
        """Count images by true and predicted class, for at most 20 classes."""
        names = self.class_names
        if len(names) > MAX_CONFUSION_CLASSES:
            return {}
        counts = self.labelled.T.astype(np.int64) @ self.predicted.astype(np.int64)
        return {
            f"confusion/{true}/{predicted}": int(counts[i, j])
            for i, true in enumerate(names)
            for j, predicted in enumerate(names)
        }


def classification_scores(
    probability: ArrayLike,
    target: ArrayLike,
    *,
    class_names: Sequence[str],
    threshold: float = 0.5,
    ordered: bool = False,
) -> dict[str, float]:
    """Compute every score of the module docstring.

    Args:
        probability: Probabilities (N, K), rows summing to 1; for two classes columns 1 - p and p.
        target: Class indices in [0, K), (N,).
        class_names: The K >= 2 classes.
        threshold: In [0, 1]; for two classes, class 1 is predicted where p >= threshold.
        ordered: True if the classes are in a meaningful order, such as grades.

    Returns:
        Scores in [0, 1] (``brier`` of K >= 3 in [0, 2], ``mcc`` and ``kappa`` in [-1, 1]) or NaN,
        and counts, by name.

    Raises:
        ValueError: If shapes, probabilities, targets, names or threshold are invalid.
    """
    images = ClassifiedImages(
        probability, target, class_names=class_names, threshold=threshold, ordered=ordered
    )
    scores = {name: float(value[0]) for name, value in images.scores().items()}
    return scores | {name: float(count) for name, count in images.confusion().items()}


def _mcc(hits: Floats, predicted: Floats, labelled: Floats) -> Floats:
    r"""Compute the Matthews correlation coefficient of K classes, (R,).

    .. math:: \frac{c s - \sum_k p_k t_k}{\sqrt{s^2 - \sum_k p_k^2} \sqrt{s^2 - \sum_k t_k^2}}

    with s images, of which c are correct, :math:`p_k` predicted as class k and :math:`t_k` of it.

    Args:
        hits: Correct images of each class, (R, K).
        predicted: Images predicted as each class, (R, K).
        labelled: Images of each class, (R, K).

    References:
        Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient,
        Computational Biology and Chemistry 2004
    """
    size, correct = labelled.sum(axis=1), hits.sum(axis=1)
    over = correct * size - (predicted * labelled).sum(axis=1)
    of_predicted, of_labelled = (size**2 - (n**2).sum(axis=1) for n in (predicted, labelled))
    under = np.sqrt(of_predicted * of_labelled)
    none: Floats = np.where(of_labelled > 0, 0.0, np.nan)
    return np.divide(over, under, out=none, where=under > 0)


def _kappa(
    hits: Floats, predicted: Floats, labelled: Floats, squares: Floats, ordered: bool
) -> Floats:
    r"""Compute Cohen's kappa, (R,): 1 minus the observed over the expected disagreement.

    A disagreement counts 1, or for ordered classes the square of the distance of the classes.

    Args:
        hits: Correct images of each class, (R, K).
        predicted: Images predicted as each class, (R, K).
        labelled: Images of each class, (R, K).
        squares: Sum over the images of the squared distance of both classes, (R,).
        ordered: True for ordered classes.

    References:
        Cohen, A coefficient of agreement for nominal scales, 1960; Weighted kappa, 1968
    """
    size, places = labelled.sum(axis=1), np.arange(labelled.shape[1])
    with np.errstate(invalid="ignore"):  # 0/0 is NaN: undefined
        if ordered:
            first = (predicted @ places, labelled @ places)
            second = predicted @ places**2 + labelled @ places**2
            return np.asarray(1 - squares / (second - 2 * first[0] * first[1] / size))
        observed = size - hits.sum(axis=1)
        return np.asarray(1 - observed / (size - (predicted * labelled).sum(axis=1) / size))


def mean_over_defined(values: Floats) -> Floats:
    """Mean over the last axis, ignoring NaN; NaN if all are NaN."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0).sum(axis=-1) / defined.sum(axis=-1))


def _check(
    probability: Floats, target: NDArray[np.generic], names: Sequence[str], threshold: float
) -> None:
    """Raise ``ValueError`` unless the arguments match the class docstring."""
    num_classes = len(names)
    if num_classes < 2 or len(set(names)) < num_classes:
        raise ValueError(f"expected two or more distinct class names, got {list(names)}")
    if probability.shape != (*target.shape, num_classes) or target.ndim != 1:
        raise ValueError(
            f"expected probabilities (N, {num_classes}) and targets (N,), "
            f"got {probability.shape} and {target.shape}"
        )
    in_range = (probability >= 0) & (probability <= 1)  # NaN is not
    if not (in_range.all() and np.allclose(probability.sum(axis=1), 1, atol=1e-4)):
        raise ValueError("expected probabilities in [0, 1] whose rows sum to 1, got other values")
    if not np.issubdtype(target.dtype, np.integer):
        raise ValueError(f"expected integer targets, got {target.dtype}")
    if target.size and not (target.min() >= 0 and target.max() < num_classes):
        raise ValueError(
            f"expected targets in [0, {num_classes}), got {target.min()} to {target.max()}"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold in [0, 1], got {threshold}")
