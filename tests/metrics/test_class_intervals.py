from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from scipy import stats

from medvision.metrics import (
    bootstrap_mean_interval,
    calibration_intervals,
    classification_intervals,
    classification_scores,
)
from medvision.metrics.classification import ClassifiedImages

TWO = ("normal", "pneumonia")


def draw(
    rng: np.random.Generator, size: int, *, num_classes: int = 2, shift: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a classifier that is often correct."""
    target = rng.integers(num_classes, size=size)
    odds = np.exp(rng.normal(size=(size, num_classes)) + shift * np.eye(num_classes)[target])
    return odds / odds.sum(axis=1, keepdims=True), target


def certain(right: list[bool], target: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities 0.1 and 0.9 of a classifier that is correct where stated."""
    labels = np.array(target)
    positive = np.where(np.array(right) == (labels == 1), 0.9, 0.1)
    return np.stack([1 - positive, positive], axis=1), labels


def test_accuracy_and_auroc_are_covered_as_promised() -> None:
    rng = np.random.default_rng(0)
    # softmax of two normals: p rises with their difference, N(+-1.5, 2)
    truth = {"accuracy": stats.norm.cdf(1.5 / 2**0.5), "auroc": stats.norm.cdf(3 / 2)}
    covered = dict.fromkeys(truth, 0)
    for seed in range(200):
        probability, target = draw(rng, 80)
        intervals = classification_intervals(
            probability, target, class_names=TWO, num_resamples=300, seed=seed
        )
        for name, value in truth.items():
            covered[name] += intervals[name][0] <= value <= intervals[name][1]
    for count in covered.values():
        assert 0.90 <= count / 200 <= 0.99


def test_grouped_images_require_their_groups() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 5)
    with_groups = without_groups = 0
    for seed in range(100):
        right = rng.random(30) < 0.8  # all images of a patient are equally hard
        probability, target = certain(list(right[groups]), list(rng.integers(2, size=150)))
        hits = []
        for chosen in (groups, None):
            low, high = classification_intervals(
                probability, target, class_names=TWO, groups=chosen, num_resamples=200, seed=seed
            )["accuracy"]
            hits.append(low <= 0.8 <= high)
        with_groups += hits[0]
        without_groups += hits[1]
    assert 0.88 <= with_groups / 100 <= 1
    assert without_groups / 100 < 0.75


@pytest.mark.parametrize("grouped", [False, True])
def test_accuracy_has_the_interval_of_a_mean(grouped: bool) -> None:
    probability, target = draw(np.random.default_rng(2), 90)
    groups = [f"patient {row // 3}" for row in range(90)] if grouped else None
    right = (probability[:, 1] >= 0.5) == target
    expected = bootstrap_mean_interval(right, groups=groups, seed=3)
    intervals = classification_intervals(
        probability, target, class_names=TWO, groups=groups, seed=3
    )
    assert intervals["accuracy"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_every_score_lies_in_its_interval(num_classes: int) -> None:
    names = ("a", "b", "c", "d")[:num_classes]
    probability, target = draw(np.random.default_rng(4), 150, num_classes=num_classes)
    intervals = classification_intervals(probability, target, class_names=names)
    scores = classification_scores(probability, target, class_names=names)
    assert set(intervals) == {name for name in scores if not name.startswith("confusion/")}
    for name, (low, high) in intervals.items():
        assert 0 <= low < scores[name] < high <= 1


def test_a_perfect_classifier_gets_the_exact_bounds() -> None:
    probability, target = certain([True] * 20, [0] * 14 + [1] * 6)
    intervals = classification_intervals(probability, target, class_names=TWO)
    exact = {n: (stats.binomtest(n, n).proportion_ci(method="exact").low, 1.0) for n in (6, 14, 20)}
    assert intervals["accuracy"] == pytest.approx(exact[20], abs=1e-12)
    assert intervals["specificity"] == intervals["recall/normal"] == pytest.approx(exact[14])
    for name in ("recall", "precision", "recall/pneumonia", "balanced_accuracy", "auroc"):
        assert intervals[name] == pytest.approx(exact[6], abs=1e-12)
    low = exact[6][0]
    assert intervals["f1"] == pytest.approx((2 * low / (1 + low), 1), abs=1e-12)
    assert intervals["average_precision"] == (1, 1)  # as documented


def test_a_classifier_that_is_never_right_gets_the_exact_bounds() -> None:
    probability, target = certain([False] * 10, [0] * 5 + [1] * 5)
    intervals = classification_intervals(probability, target, class_names=TWO, confidence=0.9)
    expected = stats.binomtest(0, 10).proportion_ci(0.9, method="exact").high
    assert intervals["accuracy"] == pytest.approx((0, expected), abs=1e-12)
    of_five = stats.binomtest(0, 5).proportion_ci(0.9, method="exact").high
    assert intervals["auroc"] == intervals["recall"] == pytest.approx((0, of_five), abs=1e-12)
    assert intervals["f1"] == pytest.approx((0, 2 * expected / (1 + expected)), abs=1e-12)


def test_exact_bounds_count_groups() -> None:
    probability, target = certain([True] * 12, [0, 1] * 6)
    groups = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    low, high = classification_intervals(probability, target, class_names=TWO, groups=groups)[
        "accuracy"
    ]
    assert (low, high) == pytest.approx((0.025 ** (1 / 3), 1), abs=1e-12)


def test_scores_that_need_two_classes_are_undefined_for_one() -> None:
    probability, target = certain([True, False, True], [1, 1, 1])
    intervals = classification_intervals(probability, target, class_names=TWO)
    undefined = {name for name, ends in intervals.items() if np.isnan(ends).all()}
    assert undefined == {
        "specificity",
        "auroc",
        "recall/normal",
        "specificity/pneumonia",
        "average_precision/normal",
        "auroc/normal",
        "auroc/pneumonia",
    }


def test_resamples_without_a_class_are_left_out() -> None:
    rng = np.random.default_rng(5)
    probability, _ = draw(rng, 30)
    target = np.array([1, 1] + [0] * 28)  # every seventh resample has no positive
    low, high = classification_intervals(probability, target, class_names=TWO)["auroc"]
    assert 0 <= low < high <= 1


def test_no_images_have_no_interval() -> None:
    intervals = classification_intervals(np.empty((0, 2)), np.empty(0, int), class_names=TWO)
    assert np.isnan(list(intervals.values())).all()


def test_a_single_group_is_a_point() -> None:
    probability, target = draw(np.random.default_rng(6), 40, shift=0.5)
    intervals = classification_intervals(probability, target, class_names=TWO, groups=["p"] * 40)
    scores = classification_scores(probability, target, class_names=TWO)
    for name, ends in intervals.items():
        assert ends == pytest.approx((scores[name], scores[name]), abs=1e-12)


def test_a_new_score_gets_an_interval_automatically(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = ClassifiedImages.scores

    def more(self: ClassifiedImages, weights: Any = None) -> dict[str, Any]:
        found = scores(self, weights)
        return found | {"more": found["recall"], "more/b": found["recall/b"]}

    monkeypatch.setattr(ClassifiedImages, "scores", more)
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(3), 60)
    found = classification_intervals(probability, rng.integers(0, 3, 60), class_names=[*"abc"])
    assert found["more"] == found["recall"]
    assert found["more/b"] == found["recall/b"]


def test_the_calibration_error_is_not_counted_twice() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(40):
        chance = rng.random(300)
        target = (rng.random(300) < chance).astype(int)
        positive = np.clip((chance - 0.5) * 2 + 0.5, 0, 1)  # overconfident: true error 0.124
        probability = np.stack([1 - positive, positive], axis=1)
        low, high = classification_intervals(
            probability, target, class_names=TWO, num_resamples=200, seed=seed
        )["ece"]
        covered += low <= 0.1241 <= high
    assert covered / 40 >= 0.8


def test_scores_of_two_classes_have_the_intervals_of_the_second_class() -> None:
    probability, target = draw(np.random.default_rng(11), 120)
    intervals = classification_intervals(probability, target, class_names=TWO)
    for score in ("precision", "recall", "specificity", "f1", "auroc", "average_precision"):
        assert intervals[score] == intervals[f"{score}/pneumonia"]
    assert intervals["recall"] == intervals["specificity/normal"]


def test_scores_of_single_classes_are_covered_as_promised() -> None:
    rng, names = np.random.default_rng(12), ("a", "b", "c")
    shares = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])  # true by predicted
    truth = {
        "precision/b": 0.6 / (0.2 + 0.6 + 0.1),
        "specificity/a": 1 - (0.2 + 0.1) / 2,
        "f1/c": 2 * 0.8 / (1 + 0.1 + 0.2 + 0.8),
    }
    covered = dict.fromkeys(truth, 0)
    for seed in range(150):
        target = np.arange(90) % 3
        predicted = [rng.choice(3, p=shares[k]) for k in target]
        probability = np.full((90, 3), 0.2)
        probability[np.arange(90), predicted] = 0.6
        intervals = classification_intervals(
            probability, target, class_names=names, num_resamples=200, seed=seed
        )
        for name, value in truth.items():
            covered[name] += intervals[name][0] <= value <= intervals[name][1]
    for count in covered.values():
        assert 0.88 <= count / 150 <= 1


@pytest.mark.parametrize("grouped", [False, True])
def test_the_brier_score_has_the_interval_of_a_mean(grouped: bool) -> None:
    probability, target = draw(np.random.default_rng(13), 90, num_classes=3)
    groups = [f"patient {row // 3}" for row in range(90)] if grouped else None
    errors = ((probability - np.eye(3)[target]) ** 2).sum(axis=1)
    expected = bootstrap_mean_interval(errors, groups=groups, seed=3)
    options: dict[str, Any] = {"groups": groups, "seed": 3}
    alone = calibration_intervals(probability, target, **options)
    assert alone["brier"] == pytest.approx(expected, abs=1e-12)
    among = classification_intervals(probability, target, class_names="abc", **options)
    assert alone == {name: among[name] for name in ("ece", "brier")}


def test_the_result_depends_only_on_the_seed() -> None:
    probability, target = draw(np.random.default_rng(8), 50)
    first, again, other = (
        classification_intervals(probability, target, class_names=TWO, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_six_hundred_images_of_four_classes_are_fast() -> None:
    probability, target = draw(np.random.default_rng(9), 600, num_classes=4)
    started_s = time.process_time()
    classification_intervals(probability, target, class_names="abcd")
    assert time.process_time() - started_s < 3  # 0.2 s on an idle core


def test_wrong_arguments_are_named() -> None:
    probability, target = draw(np.random.default_rng(10), 5)
    with pytest.raises(ValueError, match="expected 5 groups, got 1"):
        classification_intervals(probability, target, class_names=TWO, groups=["a"])
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        classification_intervals(probability, target, class_names=TWO, confidence=95)
