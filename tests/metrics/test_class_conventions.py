import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional import f1_score as torchmetrics_f1

from medvision.metrics import classification_scores
from medvision.metrics.conventions import classification_conventions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NAMES = ("glioma", "meningioma", "none", "pituitary")


def two_classes(threshold: float, *, ties: bool = False) -> tuple[Floats, Ints, float]:
    rng = np.random.default_rng(0)
    p = rng.random(90) ** 0.7
    target = (rng.random(90) < 0.2 + 0.6 * p).astype(np.int64)
    if ties:
        p = np.round(4 * p) / 4  # many at 0.5 exactly
    return np.stack([1 - p, p], axis=1), target, threshold


def one_never_predicted() -> tuple[Floats, Ints, float]:
    probability, target, _ = two_classes(0.5)
    return probability, target, 1.0


@pytest.fixture(
    params=[
        pytest.param(two_classes(0.5), id="half"),
        pytest.param(two_classes(0.31), id="another threshold"),
        pytest.param(two_classes(0.5, ties=True), id="ties at a half"),
        pytest.param(two_classes(0.75, ties=True), id="ties at the threshold"),
        pytest.param(one_never_predicted(), id="nothing predicted"),
    ]
)
def binary(request: pytest.FixtureRequest) -> tuple[Floats, Ints, float]:
    return request.param


def several(absent: int | None = None, num_classes: int = 4) -> tuple[Floats, Ints]:
    rng = np.random.default_rng(1)
    target = rng.choice(num_classes, 120, p=np.arange(1, num_classes + 1) / 10)
    if absent is not None:
        target[target == absent] = 0
    logits = rng.normal(0, 1, (120, num_classes))
    logits[np.arange(120), target] += 1.0
    logits[:, 1] -= 9  # never predicted
    odds = np.exp(logits)
    return odds / odds.sum(1, keepdims=True), target


def values_of(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    return {row["key"]: row["value"] for row in rows}


def quiet(score: Any, *args: Any, **options: Any) -> float:
    """Value of scikit-learn, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(score(*args, **options))


def test_two_classes_agree_with_scikit_learn(binary: tuple[Floats, Ints, float]) -> None:
    probability, target, threshold = binary
    rows = classification_conventions(
        probability, target, class_names=("well", "ill"), threshold=threshold
    )
    p = probability[:, 1]
    predicted, half = (p >= threshold).astype(int), (p >= 0.5).astype(int)
    precision, recall, _ = precision_recall_curve(target, p)
    means = [
        quiet(score, target, predicted, average="macro", zero_division=0)
        for score in (precision_score, recall_score)
    ]
    false, true, _ = roc_curve(target, p, drop_intermediate=False)
    positives, negatives = target.sum(), (1 - target).sum()
    expected = {
        "accuracy": accuracy_score(target, predicted),
        "balanced_accuracy": balanced_accuracy_score(target, predicted),
        "accuracy_at_half": accuracy_score(target, half),
        "accuracy_best": ((true * positives + (1 - false) * negatives) / len(target)).max(),
        "f1": f1_score(target, predicted),
        "f1_macro": f1_score(target, predicted, average="macro"),
        "f1_weighted": f1_score(target, predicted, average="weighted"),
        "f1_micro": f1_score(target, predicted, average="micro"),
        "f1_of_means": 2 * means[0] * means[1] / sum(means),
        "f1_at_half": f1_score(target, half),
        "f1_best": (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max(),
        "auroc": roc_auc_score(target, p),
        "auroc_of_classes": roc_auc_score(target, predicted),
    }
    assert values_of(rows) == pytest.approx(expected, abs=1e-9)
    assert [row["key"] for row in rows if row["own"]] == ["accuracy", "f1", "auroc"]


@pytest.mark.parametrize("num_classes", [3, 4])
def test_several_classes_agree_with_scikit_learn_and_torchmetrics(num_classes: int) -> None:
    probability, target = several(num_classes=4)
    if num_classes == 3:
        kept = target < 3
        probability, target = probability[kept, :3], target[kept]
        probability /= probability.sum(1, keepdims=True)
    names = NAMES[:num_classes]
    values = values_of(classification_conventions(probability, target, class_names=names))
    predicted = probability.argmax(1)
    means = [
        quiet(score, target, predicted, average="macro", zero_division=0)
        for score in (precision_score, recall_score)
    ]
    expected = {
        "accuracy": accuracy_score(target, predicted),
        "balanced_accuracy": balanced_accuracy_score(target, predicted),
        "f1": f1_score(target, predicted, average="macro"),
        "f1_weighted": f1_score(target, predicted, average="weighted"),
        "f1_micro": f1_score(target, predicted, average="micro"),
        "f1_of_means": 2 * means[0] * means[1] / sum(means),
        "auroc": roc_auc_score(target, probability, multi_class="ovr"),
        "auroc_weighted": roc_auc_score(target, probability, multi_class="ovr", average="weighted"),
        "auroc_micro": roc_auc_score(target, probability, multi_class="ovr", average="micro"),
        "auroc_one_to_one": roc_auc_score(target, probability, multi_class="ovo"),
        "auroc_one_to_one_weighted": roc_auc_score(
            target, probability, multi_class="ovo", average="weighted"
        ),
    }
    found = {key: value for key, value in values.items() if value is not None}
    assert found == pytest.approx(expected, abs=1e-9)
    sides = torch.tensor(predicted), torch.tensor(target)
    balanced = MulticlassAccuracy(num_classes)(*sides).item()
    assert values["balanced_accuracy"] == pytest.approx(balanced, abs=1e-6)
    micro = torchmetrics_f1(*sides, task="multiclass", num_classes=num_classes).item()
    assert values["f1_micro"] == pytest.approx(micro, abs=1e-6)


def test_own_rows_are_the_scores_of_the_run() -> None:
    probability, target = several()
    rows = classification_conventions(probability, target, class_names=NAMES)
    scores = classification_scores(probability, target, class_names=NAMES)
    for row in rows:
        if row["own"]:
            assert (row["value"], row["difference"]) == (scores[row["key"]], 0)
        elif row["value"] is not None:
            own = scores[row["score"]]
            assert row["difference"] == pytest.approx(row["value"] - own, abs=1e-12)


def test_an_absent_class_leaves_the_averages_of_its_auroc_undefined() -> None:
    probability, target = several(absent=3)
    values = values_of(classification_conventions(probability, target, class_names=NAMES))
    assert values["auroc"] is not None
    undefined = {key for key in values if key.startswith("auroc_") and values[key] is None}
    assert undefined == {
        "auroc_of_classes",  # of two classes only
        "auroc_weighted",
        "auroc_micro",
        "auroc_one_to_one",
        "auroc_one_to_one_weighted",
    }


def test_images_of_one_class_have_no_auroc_and_no_f1() -> None:
    probability = np.array([[0.9, 0.1], [0.4, 0.6]])
    rows = classification_conventions(probability, np.array([0, 0]), class_names=("well", "ill"))
    values = values_of(rows)
    assert values["auroc"] is values["auroc_of_classes"] is values["f1_best"] is None
    assert values["accuracy"] == 0.5
    assert values["accuracy_best"] == 1
    assert values["f1"] == 0


def test_scores_chosen_on_these_images_are_named_optimistic() -> None:
    probability, target, _ = two_classes(0.5)
    rows = classification_conventions(probability, target, class_names=("well", "ill"))
    chosen = {row["key"]: row["value"] for row in rows if row["optimistic"]}
    values = values_of(rows)
    assert chosen.keys() == {"accuracy_best", "f1_best"}
    for name in ("accuracy", "f1"):
        assert values[f"{name}_best"] >= max(values[name], values[f"{name}_at_half"])  # type: ignore[operator, type-var]


def test_thresholds_are_binary_only_for_several_classes() -> None:
    rows = classification_conventions(*several(), class_names=NAMES)
    left_out = {row["key"] for row in rows if row["binary_only"]}
    assert left_out == {row["key"] for row in rows if row["value"] is None}
    assert "f1_macro" not in values_of(rows)  # the medvision convention
    assert left_out >= {"accuracy_best", "f1_at_half"}


def test_invalid_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="rows sum to 1"):
        classification_conventions(np.ones((2, 2)), np.zeros(2, int), class_names=("a", "b"))
