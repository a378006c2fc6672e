from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from medvision.metrics import classification_scores
from medvision.metrics.classification import ClassifiedImages

TUMOURS = ("glioma", "meningioma", "healthy", "pituitary")


def sample(num_classes: int, size: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, and targets correlated with them."""
    rng = np.random.default_rng(seed)
    target = rng.integers(num_classes, size=size)
    logits = np.round(rng.normal(size=(size, num_classes)) + 1.2 * np.eye(num_classes)[target], 1)
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), target


def two(positive: list[float], target: list[int], threshold: float = 0.5) -> dict[str, float]:
    probability = np.stack([1 - np.array(positive), positive], axis=1)
    return classification_scores(
        probability, np.array(target), class_names=("normal", "pneumonia"), threshold=threshold
    )


def test_two_classes_by_hand() -> None:
    scores = two([0.1, 0.6, 0.5, 0.9, 0.2], [0, 0, 1, 1, 1])
    expected = {
        "accuracy": 3 / 5,
        "balanced_accuracy": (1 / 2 + 2 / 3) / 2,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "specificity": 1 / 2,
        "f1": 2 * 2 / (2 * 2 + 1 + 1),
        "auroc": 4 / 6,
        "precision/normal": 1 / 2,
        "recall/normal": 1 / 2,
        "specificity/normal": 2 / 3,
        "auroc/normal": 4 / 6,
        "confusion/normal/pneumonia": 1,
        "confusion/pneumonia/normal": 1,
        "confusion/pneumonia/pneumonia": 2,
        "confusion/normal/normal": 1,
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-15)
    for score in ("precision", "recall", "specificity", "f1", "auroc", "average_precision"):
        assert scores[score] == scores[f"{score}/pneumonia"]


def test_the_threshold_itself_is_predicted_positive() -> None:
    assert two([0.3, 0.2], [1, 0], threshold=0.3)["accuracy"] == 1
    assert two([0.3, 0.2], [1, 0], threshold=0.31)["recall"] == 0


def test_the_first_of_equal_probabilities_is_predicted() -> None:
    probability = np.array([[0.4, 0.4, 0.2]])
    scores = classification_scores(probability, np.array([0]), class_names=("a", "b", "c"))
    assert scores["accuracy"] == 1


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_scikit_learn_agrees_on_two_classes(threshold: float) -> None:
    probability, target = sample(2)
    scores = classification_scores(
        probability, target, class_names=("no", "yes"), threshold=threshold
    )
    predicted = probability[:, 1] >= threshold
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        target, predicted, average="binary"
    )
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(target, predicted),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(target, predicted),
        "precision": precision,
        "recall": recall,
        "specificity": sklearn_metrics.recall_score(target, predicted, pos_label=0),
        "f1": f1,
        "auroc": sklearn_metrics.roc_auc_score(target, probability[:, 1]),
        "average_precision": sklearn_metrics.average_precision_score(target, probability[:, 1]),
        "average_precision/no": sklearn_metrics.average_precision_score(
            1 - target, -probability[:, 1]
        ),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_scikit_learn_agrees_on_four_classes() -> None:
    probability, target = sample(4)
    scores = classification_scores(probability, target, class_names=TUMOURS)
    predicted = probability.argmax(axis=1)
    one_hot = np.eye(4)[target]
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(target, predicted)
    confusion = sklearn_metrics.confusion_matrix(target, predicted)
    by_class = {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "specificity": [
            sklearn_metrics.recall_score(target != k, predicted != k) for k in range(4)
        ],
        "auroc": sklearn_metrics.roc_auc_score(one_hot, probability, average=None),
        "average_precision": sklearn_metrics.average_precision_score(
            one_hot, probability, average=None
        ),
    }
    expected = {name: float(np.mean(values)) for name, values in by_class.items()}
    expected["accuracy"] = sklearn_metrics.accuracy_score(target, predicted)
    expected["balanced_accuracy"] = sklearn_metrics.balanced_accuracy_score(target, predicted)
    for k, name in enumerate(TUMOURS):
        expected |= {f"{score}/{name}": values[k] for score, values in by_class.items()}
        for j, other in enumerate(TUMOURS):
            expected[f"confusion/{name}/{other}"] = confusion[k, j]
    expected["mcc"] = sklearn_metrics.matthews_corrcoef(target, predicted)
    expected["kappa"] = sklearn_metrics.cohen_kappa_score(target, predicted)
    assert set(scores) == {*expected, "ece", "brier"}
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_scores_without_images_to_count_are_nan() -> None:
    scores = two([0.1, 0.2], [0, 0])
    undefined = {
        *("precision", "recall", "auroc", "average_precision", "f1"),
        *("precision/pneumonia", "recall/pneumonia", "f1/pneumonia", "average_precision/pneumonia"),
        *("auroc/normal", "auroc/pneumonia", "specificity/normal", "mcc", "kappa"),
    }
    assert {name for name, value in scores.items() if np.isnan(value)} == undefined
    assert scores["accuracy"] == scores["balanced_accuracy"] == scores["specificity"] == 1


def test_kappa_of_ordered_classes_weights_squared_distances() -> None:
    probability, target = sample(4)
    scores = classification_scores(probability, target, class_names=TUMOURS, ordered=True)
    expected = sklearn_metrics.cohen_kappa_score(
        target, probability.argmax(axis=1), weights="quadratic"
    )
    assert scores["kappa"] == pytest.approx(expected, abs=1e-12)


def test_a_class_that_is_never_predicted_has_precision_zero() -> None:
    probability, target = sample(4)
    probability[:, 2] = 0
    probability /= probability.sum(axis=1, keepdims=True)
    scores = classification_scores(probability, target, class_names=TUMOURS)
    expected = sklearn_metrics.precision_score(
        target, probability.argmax(axis=1), average="macro", zero_division=0
    )
    assert scores["precision"] == pytest.approx(expected, abs=1e-12)
    assert scores[f"precision/{TUMOURS[2]}"] == 0


def test_one_answer_for_all_images_has_no_correlation() -> None:
    scores = two([0.1, 0.2, 0.3], [0, 1, 0])
    assert (scores["mcc"], scores["kappa"]) == (0, 0)
    assert np.isnan(two([0.1, 0.9], [0, 0])["mcc"])  # images of one class


def test_f1_of_misses_only_is_zero() -> None:
    scores = two([0.1, 0.2], [0, 1])
    assert scores["precision"] == 0
    assert (scores["recall"], scores["f1"]) == (0, 0)


def test_means_exclude_a_class_that_does_not_occur() -> None:
    probability, target = sample(4)
    kept = target != 1
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = sklearn_metrics.balanced_accuracy_score(
            target[kept], probability[kept].argmax(axis=1)
        )
    scores = classification_scores(probability[kept], target[kept], class_names=TUMOURS)
    others = [name for name in TUMOURS if name != "meningioma"]
    assert np.isnan(scores["auroc/meningioma"])
    assert scores["auroc"] == pytest.approx(np.mean([scores[f"auroc/{n}"] for n in others]))
    assert scores["recall"] == scores["balanced_accuracy"] == pytest.approx(expected)
    assert scores["precision/meningioma"] == 0  # predicted, never correct


def test_no_images_have_no_scores() -> None:
    scores = classification_scores(np.empty((0, 3)), np.empty(0, int), class_names="abc")
    counts = {name: scores.pop(name) for name in list(scores) if name.startswith("confusion")}
    assert np.isnan(list(scores.values())).all()
    assert set(counts.values()) == {0}


@pytest.mark.parametrize("num_classes", [2, 4])
def test_order_does_not_matter(num_classes: int) -> None:
    probability, target = sample(num_classes)
    names = TUMOURS[:num_classes]
    expected = classification_scores(probability, target, class_names=names)
    order = np.random.default_rng(1).permutation(len(target))
    shuffled = classification_scores(probability[order], target[order], class_names=names)
    assert shuffled == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_weights_are_repeated_images(num_classes: int) -> None:
    probability, target = sample(num_classes, size=40)
    names = TUMOURS[:num_classes]
    weights = np.random.default_rng(2).integers(0, 3, (5, 40))
    weights[0, target == 0] = 0  # a class missing in a resample
    scores = ClassifiedImages(probability, target, class_names=names).scores(weights)
    for row, times in enumerate(weights):
        repeated = np.repeat(np.arange(40), times)
        expected = classification_scores(probability[repeated], target[repeated], class_names=names)
        ours = {name: values[row] for name, values in scores.items()}
        assert ours == pytest.approx(
            {name: expected[name] for name in ours}, abs=1e-12, nan_ok=True
        )


def test_small_probabilities_rank_both_classes() -> None:
    scores = two([1e-30, 1e-25, 1e-20], [0, 0, 1])  # 1 - p is 1 for all
    assert scores["auroc/normal"] == scores["auroc/pneumonia"] == 1


def test_more_than_twenty_classes_have_no_confusion() -> None:
    names = [f"class {k}" for k in range(21)]
    probability = np.eye(21)
    scores = classification_scores(probability, np.arange(21), class_names=names)
    assert not [name for name in scores if name.startswith("confusion")]
    assert scores["accuracy"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("a", "a")}, "distinct class names"),
        ({"class_names": ("a", "b", "c")}, r"got \(2, 2\) and \(2,\)"),
        ({"target": np.array([0, 255])}, r"targets in \[0, 2\), got 0 to 255"),
        ({"target": np.array([0.0, 1.0])}, "integer targets, got float64"),
        ({"probability": np.array([[0.5, 0.5], [np.nan, 0.5]])}, "rows sum to 1"),
        ({"probability": np.array([[0.5, 0.5], [0.9, 0.9]])}, "rows sum to 1"),
        ({"threshold": 50}, r"threshold in \[0, 1\], got 50"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str) -> None:
    good = {
        "probability": np.array([[0.5, 0.5], [0.1, 0.9]]),
        "target": np.array([0, 1]),
        "class_names": ("a", "b"),
    }
    with pytest.raises(ValueError, match=message):
        classification_scores(**(good | change))
