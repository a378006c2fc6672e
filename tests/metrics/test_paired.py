"""Scores as sums over images equal the scores defined elsewhere."""

import numpy as np
import pytest
from numpy.typing import NDArray

from medvision.metrics.classification import ClassifiedImages
from medvision.metrics.intervals import group_numbers, resampled_scores
from medvision.metrics.paired import (
    auroc_score,
    balanced_accuracy_score,
    mean_score,
)
from medvision.metrics.ranking import placements

SIZE = 40


def classified(num_classes: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Probabilities (N, K) with ties, and targets (N,)."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(1, 6, (SIZE, num_classes)).astype(float)
    return raw / raw.sum(axis=1, keepdims=True), rng.integers(0, num_classes, SIZE)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_scores_are_those_of_the_classifier_metrics(num_classes: int) -> None:
    probability, target = classified(num_classes)
    names = [str(k) for k in range(num_classes)]
    reference = ClassifiedImages(probability, target, class_names=names)
    right = (reference.predicted_class == target)[:, None].astype(float)
    ranked = [1] if num_classes == 2 else range(num_classes)
    placed = {k: placements(probability[:, k], target == k)[:, None] for k in ranked}
    unit = np.arange(SIZE)
    expected = {name: float(value[0]) for name, value in reference.scores().items()}
    found = {
        "accuracy": mean_score(right, unit),
        "balanced_accuracy": balanced_accuracy_score(right, target, unit),
        "auroc": auroc_score(placed, target, unit),
    }
    for name, score in found.items():
        assert score.scores[0] == pytest.approx(expected[name]), name
        assert score.parts.sum(axis=0)[0] == pytest.approx(expected[name]), name


def test_resampled_means_are_those_of_the_repeated_images() -> None:
    probability, target = classified(3, seed=1)
    names = ["a", "b", "c"]
    reference = ClassifiedImages(probability, target, class_names=names)
    right = (reference.predicted_class == target)[:, None].astype(float)
    times = np.random.default_rng(2).integers(0, 3, (6, SIZE)).astype(float)
    times[0, target == 2] = 0  # a class that was not drawn
    expected = reference.scores(times)
    unit = np.arange(SIZE)
    assert mean_score(right, unit).resampled(times)[:, 0] == pytest.approx(expected["accuracy"])
    assert balanced_accuracy_score(right, target, unit).resampled(times)[:, 0] == pytest.approx(
        expected["balanced_accuracy"]
    )


def test_the_resampled_area_is_near_the_exact_one() -> None:
    rng = np.random.default_rng(3)
    positive = rng.random(400) < 0.4
    value = rng.normal(positive * 1.5, 1)
    score = auroc_score({1: placements(value, positive)[:, None]}, positive * 1, np.arange(400))
    probability = 1 / (1 + np.exp(-value))
    reference = ClassifiedImages(
        np.stack([1 - probability, probability], axis=1), positive * 1, class_names=["n", "p"]
    )
    times = rng.multinomial(400, np.full(400, 1 / 400), size=300).astype(float)
    exact, found = reference.scores(times)["auroc"], score.resampled(times)[:, 0]
    assert (exact - found).std() < 0.1 * exact.std()


def test_placements_by_hand() -> None:
    values = placements(np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True]))
    assert values.tolist() == [1.0, 0.75, 0.75, 1.0]
    assert np.isnan(placements(np.array([0.1, 0.2]), np.array([True, True]))).all()


def test_an_image_undefined_for_one_model_is_excluded_for_both() -> None:
    score = mean_score([[0.2, 0.4], [np.nan, 0.9], [0.6, 0.8]], np.arange(3))
    assert score.scores == pytest.approx([0.4, 0.6])
    assert (score.num_images, score.behind) == (2, 2)


def test_groups_are_weighted_by_their_images() -> None:
    unit = group_numbers(["p", "p", "q"], 3)
    score = mean_score([[0.0], [0.3], [0.9]], unit)
    assert unit.tolist() == [0, 0, 1]
    assert score.parts[:, 0] == pytest.approx([0.1, 0.3])
    assert score.resampled(np.array([[2.0, 0.0], [1.0, 1.0]]))[:, 0] == pytest.approx([0.15, 0.4])
    assert group_numbers(None, 3).tolist() == [0, 1, 2]


def test_a_score_without_images_to_count_is_undefined() -> None:
    one_class = np.ones(4, dtype=int)
    placed = placements(np.arange(4.0), one_class == 1)[:, None]
    assert np.isnan(auroc_score({1: placed}, one_class, np.arange(4)).scores).all()
    assert np.isnan(mean_score([[np.nan], [np.nan]], np.arange(2)).scores).all()


def test_all_scores_use_the_same_resamples() -> None:
    values = np.random.default_rng(4).random((20, 1))
    scores = {"a": mean_score(values, np.arange(20)), "b": mean_score(1 - values, np.arange(20))}
    found = resampled_scores(
        lambda times: {name: score.resampled(times) for name, score in scores.items()},
        20,
        50,
        np.random.default_rng(0),
    )
    assert found["a"] + found["b"] == pytest.approx(np.ones((50, 1)))


def test_weights_add_up_to_one_and_are_equal_for_a_mean() -> None:
    probability, target = classified(3, seed=5)
    unit = np.arange(SIZE)
    mean = mean_score(probability, unit)
    assert mean.weights == pytest.approx(np.full(SIZE, 1 / SIZE))
    placed = {k: placements(probability[:, k], target == k)[:, None] for k in range(3)}
    assert auroc_score(placed, target, unit).weights.sum() == pytest.approx(1)
    balanced = balanced_accuracy_score(probability, target, unit).weights
    assert balanced[target == 0].sum() == pytest.approx(1 / 3)
