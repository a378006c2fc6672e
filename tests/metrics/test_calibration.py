from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from medvision.metrics import calibration_bins, classification_scores
from medvision.metrics.calibration import Calibration


def two_columns(positive: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(positive), positive], axis=1)


def ece(probability: np.ndarray, target: list[int], threshold: float = 0.5) -> float:
    names = [f"class {k}" for k in range(probability.shape[1])]
    scores = classification_scores(
        probability, np.array(target), class_names=names, threshold=threshold
    )
    return scores["ece"]


def test_value_by_hand() -> None:
    # confidences 0.95, 0.97 in one bin, one right: |1 - 1.92|; 0.55 in another, right: 0.45
    probability = two_columns([0.95, 0.03, 0.55])
    assert ece(probability, [1, 1, 1]) == pytest.approx((0.92 + 0.45) / 3, abs=1e-12)
    confidence, accuracy, count = calibration_bins(probability, np.array([1, 1, 1]))
    assert len(count) == 15
    assert (count[8], count[14], count.sum()) == (1, 2, 3)
    assert (confidence[8], accuracy[8]) == pytest.approx((0.55, 1))
    assert (confidence[14], accuracy[14]) == pytest.approx((0.96, 0.5))
    assert np.isnan(confidence[:8]).all()
    assert np.isnan(accuracy[:8]).all()


def test_a_bin_includes_its_upper_edge() -> None:
    probability = np.array([[0.6, 0.2, 0.2], [0.6 + 1e-9, 0.2, 0.2 - 1e-9], [1.0, 0.0, 0.0]])
    _, _, count = calibration_bins(probability, np.array([0, 0, 0]))
    assert (count[8], count[9], count[14]) == (1, 1, 1)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_bins_of_a_plot_add_up_to_the_error(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(num_classes), 200)
    target = rng.integers(num_classes, size=200)
    confidence, accuracy, count = calibration_bins(probability, target)
    expected = np.nansum(count * np.abs(accuracy - confidence)) / 200
    assert ece(probability, list(target)) == pytest.approx(expected, abs=1e-12)


def test_correct_certainty_has_no_error_and_wrong_certainty_the_largest() -> None:
    probability = two_columns([0.0, 1.0, 1.0])
    assert ece(probability, [0, 1, 1]) == 0
    assert ece(probability, [1, 0, 0]) == 1


def test_the_threshold_of_the_predictions_does_not_matter() -> None:
    probability = two_columns([0.2, 0.4, 0.5, 0.9])
    assert ece(probability, [0, 1, 1, 0], 0.3) == ece(probability, [0, 1, 1, 0], 0.7)


def test_a_probability_of_one_half_is_class_one() -> None:
    assert ece(two_columns([0.5]), [1]) == 0.5
    _, accuracy, _ = calibration_bins(two_columns([0.5]), np.array([1]))
    assert np.nanmax(accuracy) == 1


def test_the_brier_score_by_hand() -> None:
    two = classification_scores(two_columns([0.9, 0.3]), np.array([1, 1]), class_names=("a", "b"))
    assert two["brier"] == pytest.approx((0.1**2 + 0.7**2) / 2)  # of class 1 alone
    three = classification_scores(
        np.array([[0.5, 0.3, 0.2]]), np.array([1]), class_names=("a", "b", "c")
    )
    assert three["brier"] == pytest.approx(0.25 + 0.49 + 0.04)  # over the classes


@pytest.mark.parametrize("num_classes", [2, 4])
def test_scikit_learn_agrees_on_the_brier_score(num_classes: int) -> None:
    rng = np.random.default_rng(1)
    probability = rng.dirichlet(np.ones(num_classes), 100)
    target = rng.integers(num_classes, size=100)
    found = Calibration(probability, target).scores()["brier"]
    if num_classes == 2:
        expected = brier_score_loss(target, probability[:, 1])
    else:
        expected = 100 * ((np.eye(4)[target] - probability) ** 2).mean() * 4 / 100
    assert found == pytest.approx([expected])


def test_wrong_certainty_has_the_largest_brier_score() -> None:
    assert Calibration(two_columns([1.0]), np.array([0])).scores()["brier"] == 1
    assert Calibration(np.eye(3)[[0]], np.array([1])).scores()["brier"] == 2
    assert Calibration(np.eye(3)[[0]], np.array([0])).scores()["brier"] == 0


def test_weights_repeat_images() -> None:
    rng = np.random.default_rng(2)
    probability, target = rng.dirichlet(np.ones(3), 20), rng.integers(3, size=20)
    weights = rng.integers(0, 4, size=(2, 20))
    weighted = Calibration(probability, target).scores(weights)
    for row in range(2):
        rows = np.repeat(np.arange(20), weights[row])
        repeated = Calibration(probability[rows], target[rows]).scores()
        for name in ("ece", "brier"):
            assert weighted[name][row] == pytest.approx(repeated[name][0])


def test_no_images_have_no_score() -> None:
    scores = Calibration(np.empty((0, 2)), np.empty(0, np.int64)).scores()
    assert np.isnan([scores["ece"], scores["brier"]]).all()
