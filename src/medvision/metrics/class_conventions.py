"""Accuracy, F1 and AUROC as papers and libraries compute them, from one set of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.classification import ClassifiedImages
from medvision.metrics.ranking import Ranking, counts_at_least


@dataclass(frozen=True, kw_only=True)
class ClassConvention:
    """One way to make a number of class probabilities.

    Attributes:
        key: Stable name.
        score: What it is called: ``accuracy``, ``f1`` or ``auroc``; the key of medvision's own.
        name: A few words; ``name_of_more`` for three classes or more, where it differs.
        tools: Who reports it; ``tools_of_more`` for three classes or more, where they differ.
        definition: One sentence.
        classes: Of how many classes it is a convention of its own.
        binary_only: Whether it is defined for two classes only.
        optimistic: Whether something was chosen on the images that are scored: no test score.
    """

    key: str
    score: Literal["accuracy", "f1", "auroc"]
    name: str
    tools: str
    definition: str
    classes: Literal["any", "two", "more"] = "any"
    name_of_more: str = ""
    tools_of_more: str = ""
    binary_only: bool = False
    optimistic: bool = False

    def fits(self, num_classes: int) -> bool:
        """Whether a table of that many classes has it, be it to say that it is for two only."""
        return self.classes in ("any", "more" if num_classes > 2 else "two")

    def to_dict(self, *, num_classes: int) -> dict[str, Any]:
        """What a table of that many classes says of it."""
        more = num_classes > 2
        return {
            "key": self.key,
            "score": self.score,
            "name": (self.name_of_more if more else "") or self.name,
            "tools": (self.tools_of_more if more else "") or self.tools,
            "definition": self.definition,
            "own": self.key == self.score,
            "optimistic": self.optimistic,
            "binary_only": self.binary_only,
        }


CLASSIFICATION = (
    ClassConvention(
        key="accuracy",
        score="accuracy",
        name="threshold in use",
        name_of_more="most probable class",
        tools="medvision; scikit-learn accuracy_score",
        definition="Share of the images whose predicted class is the true one.",
    ),
    ClassConvention(
        key="balanced_accuracy",
        score="accuracy",
        name="balanced: mean recall of the classes",
        tools="medvision balanced_accuracy; torchmetrics MulticlassAccuracy",
        definition="Mean over the classes that occur of the share of their images found.",
    ),
    ClassConvention(
        key="accuracy_at_half",
        score="accuracy",
        name="threshold 0.5",
        tools="most libraries: round(p), argmax",
        definition="Accuracy with the positive class predicted where p >= 0.5.",
        binary_only=True,
    ),
    ClassConvention(
        key="accuracy_best",
        score="accuracy",
        name="best threshold on this set",
        tools="scripts that tune it on the test set",
        definition="The largest accuracy over all thresholds: chosen on the images scored.",
        binary_only=True,
        optimistic=True,
    ),
    ClassConvention(
        key="f1",
        score="f1",
        name="positive class",
        name_of_more="macro: mean over classes",
        tools="medvision; scikit-learn f1_score (binary)",
        tools_of_more="medvision; scikit-learn f1_score (macro)",
        definition="2 TP / (2 TP + FP + FN) of the positive class; for three classes or more the"
        " mean over the classes that are labelled or predicted.",
    ),
    ClassConvention(
        key="f1_macro",
        score="f1",
        name="macro: mean over classes",
        tools="scikit-learn f1_score (macro)",
        definition="Mean of the F1 of both classes, one against the other.",
        classes="two",
    ),
    ClassConvention(
        key="f1_weighted",
        score="f1",
        name="weighted by class size",
        tools="scikit-learn f1_score (weighted)",
        definition="Mean of the F1 of each class, weighted by its number of images.",
    ),
    ClassConvention(
        key="f1_micro",
        score="f1",
        name="micro (accuracy)",
        tools="scikit-learn f1_score (micro)",
        tools_of_more="scikit-learn f1_score (micro); torchmetrics F1Score",
        definition="TP, FP and FN of all classes added up before dividing, which is accuracy.",
    ),
    ClassConvention(
        key="f1_of_means",
        score="f1",
        name="of mean precision and mean recall",
        tools="papers that combine the two means",
        definition="2 P R / (P + R) of the precision and the recall averaged over classes; a class"
        " that is never predicted has precision 0.",
    ),
    ClassConvention(
        key="f1_at_half",
        score="f1",
        name="positive class, threshold 0.5",
        tools="most libraries: round(p), argmax",
        definition="F1 of the positive class, predicted where p >= 0.5.",
        binary_only=True,
    ),
    ClassConvention(
        key="f1_best",
        score="f1",
        name="positive class, best threshold on this set",
        tools="maximum of the precision-recall curve",
        definition="The largest F1 of the positive class over all thresholds: chosen on the images"
        " scored.",
        binary_only=True,
        optimistic=True,
    ),
    ClassConvention(
        key="auroc",
        score="auroc",
        name="of probabilities",
        name_of_more="macro, one class against the rest",
        tools="medvision; scikit-learn roc_auc_score",
        tools_of_more="medvision; scikit-learn roc_auc_score (ovr, macro)",
        definition="Share of the (negative, positive) pairs in which the positive has the larger"
        " probability; for three classes or more the mean over one class against the rest.",
    ),
    ClassConvention(
        key="auroc_of_classes",
        score="auroc",
        name="of predicted classes (balanced accuracy)",
        tools="roc_auc_score, given classes by mistake",
        definition="The same of predicted classes in place of probabilities: one point of the"
        " curve, which is balanced accuracy.",
        binary_only=True,
    ),
    ClassConvention(
        key="auroc_weighted",
        score="auroc",
        name="weighted, one class against the rest",
        tools="scikit-learn roc_auc_score (ovr, weighted)",
        definition="Mean over one class against the rest, weighted by its number of images;"
        " undefined where a class is absent.",
        classes="more",
    ),
    ClassConvention(
        key="auroc_micro",
        score="auroc",
        name="micro, one class against the rest",
        tools="scikit-learn roc_auc_score (ovr, micro)",
        definition="All pairs of image and class ranked together; undefined where a class is"
        " absent.",
        classes="more",
    ),
    ClassConvention(
        key="auroc_one_to_one",
        score="auroc",
        name="macro, one class against one",
        tools="scikit-learn roc_auc_score (ovo, macro)",
        definition="Mean over all pairs of classes (Hand and Till 2001); undefined where a class"
        " is absent.",
        classes="more",
    ),
    ClassConvention(
        key="auroc_one_to_one_weighted",
        score="auroc",
        name="weighted, one class against one",
        tools="scikit-learn roc_auc_score (ovo, weighted)",
        definition="The same, weighted by the number of images of the two classes; undefined where"
        " a class is absent.",
        classes="more",
    ),
)
"""Of classifications; medvision's own first of each score."""


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
