from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from scipy import stats

from medvision.metrics import (
    calibration_intervals,
    classification_intervals,
    classification_scores,
    mean_interval,
    wilson_interval,
)
from medvision.metrics.classification import ClassifiedImages
from medvision.metrics.intervals import auroc_interval, effective_trials
from medvision.metrics.thresholds import operating_points

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


def test_scores_of_two_classes_are_covered_as_promised() -> None:
    rng = np.random.default_rng(0)
    # softmax of two normals: p rises with their difference, N(+-1.5, 2)
    right = stats.norm.cdf(1.5 / 2**0.5)
    truth = {
        "accuracy": right,
        "balanced_accuracy": right,
        "recall": right,
        "auroc": stats.norm.cdf(3 / 2),
    }
    covered = dict.fromkeys(truth, 0)
    target = np.repeat([0, 1], [70, 10])
    for _ in range(250):
        odds = np.exp(rng.normal(size=(80, 2)) + 1.5 * np.eye(2)[target])
        probability = odds / odds.sum(axis=1, keepdims=True)
        intervals = classification_intervals(probability, target, class_names=TWO, only=list(truth))
        assert list(intervals) == [name for name in truth if name in intervals]
        for name, value in truth.items():
            covered[name] += intervals[name][0] <= value <= intervals[name][1]
    for count in covered.values():
        assert 0.91 <= count / 250 <= 0.995


def test_grouped_images_require_their_groups() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 5)
    with_groups = without_groups = 0
    for _ in range(100):
        right = rng.random(30) < 0.8  # all images of a patient are equally hard
        probability, target = certain(list(right[groups]), list(rng.integers(2, size=150)))
        hits = []
        for chosen in (groups, None):
            low, high = classification_intervals(
                probability, target, class_names=TWO, groups=chosen, only=["accuracy"]
            )["accuracy"]
            hits.append(low <= 0.8 <= high)
        with_groups += hits[0]
        without_groups += hits[1]
    assert 0.88 <= with_groups / 100 <= 1
    assert without_groups / 100 < 0.75


@pytest.mark.parametrize("grouped", [False, True])
def test_accuracy_has_wilsons_interval(grouped: bool) -> None:
    probability, target = draw(np.random.default_rng(2), 90)
    groups = [f"patient {row // 3}" for row in range(90)] if grouped else None
    right = (probability[:, 1] >= 0.5) == target
    trials = effective_trials(right, np.arange(90) // 3) if grouped else 90
    intervals = classification_intervals(probability, target, class_names=TWO, groups=groups)
    assert intervals["accuracy"] == wilson_interval(right.mean() * trials, trials)


def test_a_score_has_one_interval_everywhere() -> None:
    probability, target = draw(np.random.default_rng(21), 80)
    groups = [f"patient {row // 2}" for row in range(80)]
    intervals = classification_intervals(
        probability, target, class_names=TWO, groups=groups, threshold=0.4
    )
    (point,) = operating_points(
        [], [], probability[:, 1], target, threshold_in_use=0.4, chosen_on="fixed", groups=groups
    )
    same = {"recall": "sensitivity", "specificity": "specificity", "precision": "ppv"}
    for score, rate in same.items():
        assert intervals[score] == tuple(point[f"{rate}_ci95"])
        assert intervals[score] == intervals[f"{score}/pneumonia"]
    assert intervals["precision/normal"] == tuple(point["npv_ci95"])


def test_balanced_accuracy_by_hand() -> None:
    right = [True] * 9 + [False] + [True] * 45 + [False] * 5
    intervals = classification_intervals(
        *certain(right, [1] * 10 + [0] * 50), class_names=TWO, only=["balanced_accuracy"]
    )
    ends = [stats.beta.ppf([0.025, 0.975], k + 0.5, n - k + 0.5) for k, n in ((9, 10), (45, 50))]
    low = 0.9 - np.hypot(*(0.9 - end[0] for end in ends)) / 2
    high = 0.9 + np.hypot(*(end[1] - 0.9 for end in ends)) / 2
    assert intervals["balanced_accuracy"] == pytest.approx((low, high), abs=1e-9)


def test_the_area_rests_on_the_variance_of_delong() -> None:
    rng = np.random.default_rng(5)
    positives, negatives = rng.normal(1, 2, 12), rng.normal(0, 1, 30)
    wins = (positives[:, None] > negatives).astype(float)
    variance = wins.mean(1).var(ddof=1) / 12 + wins.mean(0).var(ddof=1) / 30
    expected = auroc_interval(wins.mean(), variance, positives=12, negatives=30)
    p = 1 / (1 + np.exp(-np.concatenate([positives, negatives])))
    both, target = np.stack([1 - p, p], 1), np.repeat([1, 0], [12, 30])
    found = classification_intervals(both, target, class_names=TWO, only=["auroc"])
    assert found["auroc"] == pytest.approx(expected, abs=1e-9)
    twice = classification_intervals(
        both.repeat(2, 0), target.repeat(2), groups=np.arange(42).repeat(2), class_names=TWO
    )
    assert twice["auroc"] == pytest.approx(expected, abs=0.01)  # copies add nothing


@pytest.mark.parametrize("num_classes", [2, 4])
def test_every_score_lies_in_its_interval(num_classes: int) -> None:
    names = ("a", "b", "c", "d")[:num_classes]
    probability, target = draw(np.random.default_rng(4), 150, num_classes=num_classes)
    intervals = classification_intervals(probability, target, class_names=names)
    scores = classification_scores(probability, target, class_names=names)
    assert set(intervals) == {name for name in scores if not name.startswith("confusion/")}
    for name, (low, high) in intervals.items():
        assert 0 <= low < scores[name] < high <= 1


def test_a_perfect_classifier_has_no_interval_of_width_zero() -> None:
    probability, target = certain([True] * 20, [0] * 14 + [1] * 6)
    intervals = classification_intervals(probability, target, class_names=TWO)
    wilson = {n: stats.binomtest(n, n).proportion_ci(method="wilson").low for n in (6, 14, 20)}
    exact = {n: stats.binomtest(n, n).proportion_ci(method="exact").low for n in (6, 14)}
    assert intervals["accuracy"] == pytest.approx((wilson[20], 1), abs=1e-12)
    assert intervals["specificity"] == intervals["recall/normal"]
    assert intervals["specificity"] == pytest.approx((wilson[14], 1), abs=1e-12)
    for name in ("recall", "precision", "recall/pneumonia"):
        assert intervals[name] == pytest.approx((wilson[6], 1), abs=1e-12)
    low = wilson[6]
    assert intervals["f1"] == pytest.approx((2 * low / (1 + low), 1), abs=1e-12)
    both = 1 - np.hypot(1 - exact[6], 1 - exact[14]) / 2
    assert intervals["balanced_accuracy"] == pytest.approx((both, 1), abs=1e-12)
    assert all(low < high for low, high in intervals.values())


def test_a_classifier_that_is_never_right_mirrors_a_perfect_one() -> None:
    wrong, right = (
        classification_intervals(
            *certain([all_right] * 10, [0] * 5 + [1] * 5), class_names=TWO, confidence=0.9
        )
        for all_right in (False, True)
    )
    for name in ("accuracy", "balanced_accuracy", "recall", "specificity", "auroc"):
        low, high = right[name]
        assert wrong[name] == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_bounds_count_groups() -> None:
    probability, target = certain([True] * 12, [0, 1] * 6)
    groups = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    found = classification_intervals(probability, target, class_names=TWO, groups=groups)
    assert found["accuracy"] == pytest.approx(wilson_interval(3, 3), abs=1e-12)


def test_scores_that_need_two_classes_are_undefined_for_one() -> None:
    probability, target = certain([True, False, True], [1, 1, 1])
    intervals = classification_intervals(probability, target, class_names=TWO)
    undefined = {name for name, ends in intervals.items() if np.isnan(ends).all()}
    assert undefined == {
        "specificity",
        "auroc",
        "ece",  # too few images
        "recall/normal",
        "specificity/pneumonia",
        "average_precision/normal",
        "auroc/normal",
        "auroc/pneumonia",
        "mcc",
        "kappa",
    }


def test_two_positives_give_an_area_with_an_interval_and_one_does_not() -> None:
    rng = np.random.default_rng(5)
    probability, _ = draw(rng, 30)
    low, high = classification_intervals(probability, np.array([1, 1] + [0] * 28), class_names=TWO)[
        "auroc"
    ]
    assert 0 <= low < high <= 1
    one = classification_intervals(probability, np.array([1] + [0] * 29), class_names=TWO)
    assert np.isnan([one["auroc"], one["average_precision"]]).all()
    assert not np.isnan([one["recall"], one["balanced_accuracy"]]).any()


def test_no_images_have_no_interval() -> None:
    intervals = classification_intervals(np.empty((0, 2)), np.empty(0, int), class_names=TWO)
    assert np.isnan(list(intervals.values())).all()


def test_a_single_group_has_no_interval() -> None:
    probability, target = draw(np.random.default_rng(6), 40, shift=0.5)
    intervals = classification_intervals(probability, target, class_names=TWO, groups=["p"] * 40)
    assert np.isnan(list(intervals.values())).all()


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
    target = rng.integers(0, 3, 60)
    found = classification_intervals(probability, target, class_names=[*"abc"])
    scores_of = ClassifiedImages(probability, target, class_names=[*"abc"]).scores()
    for name in ("more", "more/b"):
        assert 0 <= found[name][0] < scores_of[name][0] < found[name][1] <= 1


@pytest.mark.parametrize(("overconfident", "true"), [(False, 0.0), (True, 0.1241)])
def test_the_calibration_error_is_not_counted_twice(overconfident: bool, true: float) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(40):
        chance = rng.random(200)
        target = (rng.random(200) < chance).astype(int)
        positive = np.clip((chance - 0.5) * 2 + 0.5, 0, 1) if overconfident else chance
        probability = np.stack([1 - positive, positive], axis=1)
        low, high = calibration_intervals(probability, target, seed=seed)["ece"]
        assert low < high
        covered += low <= true <= high
    assert covered / 40 >= 0.88  # 0.95 minus two standard errors


def test_a_calibration_error_of_few_images_has_no_interval() -> None:
    probability, target = draw(np.random.default_rng(3), 12)
    assert not np.isnan(calibration_intervals(probability, target)["ece"]).any()
    assert np.isnan(calibration_intervals(probability[:9], target[:9])["ece"]).all()
    groups = np.arange(12) // 4
    assert np.isnan(calibration_intervals(probability, target, groups=groups)["ece"]).all()


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
    for _ in range(150):
        target = np.arange(90) % 3
        predicted = [rng.choice(3, p=shares[k]) for k in target]
        probability = np.full((90, 3), 0.2)
        probability[np.arange(90), predicted] = 0.6
        intervals = classification_intervals(
            probability, target, class_names=names, only=list(truth)
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
    expected = mean_interval(errors, groups=groups, upper=2)
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
    assert first["ece"] != other["ece"]


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


def test_agreement_of_two_classes_is_mover_over_jeffreys_intervals() -> None:
    target = np.repeat([1, 0], [10, 20])
    right = np.r_[np.ones(8), np.zeros(2), np.ones(18), np.zeros(2)].astype(bool)
    positive = np.where(right, target, 1 - target) * 0.8 + 0.1
    both = np.stack([1 - positive, positive], axis=1)
    found = classification_intervals(both, target, class_names=TWO, only=["mcc", "kappa"])

    def kappa(sensitivity: float, specificity: float) -> float:
        predicted = (10 * sensitivity + 20 * (1 - specificity)) / 30
        expected = predicted / 3 + (1 - predicted) * 2 / 3
        return ((10 * sensitivity + 20 * specificity) / 30 - expected) / (1 - expected)

    value = kappa(0.8, 0.9)
    one, other = (
        stats.beta.ppf([0.025, 0.975], hits + 0.5, n - hits + 0.5)
        for hits, n in ((8, 10), (18, 20))
    )
    low, high = (
        np.hypot(value - kappa(one[side], 0.9), value - kappa(0.8, other[side])) for side in (0, 1)
    )
    assert found["kappa"] == pytest.approx((value - low, value + high), abs=1e-6)
    assert -1 < found["mcc"][0] < found["mcc"][1] < 1


def test_agreement_of_several_classes_needs_two_images_of_each() -> None:
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(3), 40)
    names, few, enough = (
        "abc",
        np.repeat([0, 1, 2], [20, 19, 1]),
        np.repeat([0, 1, 2], [20, 10, 10]),
    )
    for target, known in ((few, False), (enough, True)):
        found = classification_intervals(probability, target, class_names=names, only=["mcc"])
        assert np.isfinite(found["mcc"]).all() == known


def test_one_image_of_three_classes_has_an_interval_without_a_warning() -> None:
    probability = np.array([[0.8, 0.1, 0.1]])
    names = ("a", "b", "c")
    found = classification_intervals(probability, np.array([0]), class_names=names)
    score = classification_scores(probability, np.array([0]), class_names=names)
    low, high = found["specificity"]  # mean over b and c, of unknown correlation
    assert 0 <= low < found["specificity/b"][0] < score["specificity"] == high == 1
