from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from medvision.metrics import precision_recall_points, roc_points
from medvision.metrics.ranking import Ranking


def sample(seed: int, size: int = 60, *, levels: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and labels correlated with them."""
    rng = np.random.default_rng(seed)
    positive = rng.random(size) < 0.4
    return np.round((rng.random(size) + 0.4 * positive) * levels) / levels, positive


def areas(score: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    auroc, average_precision = Ranking(score, positive).areas(np.ones((1, len(score))))
    return float(auroc[0]), float(average_precision[0])


def test_areas_by_hand() -> None:
    score, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])
    # pairs won: 0.4 beats 0.1 and ties 0.4, 0.8 beats both; precisions: 2/3 at 0.4, 1 at 0.8
    assert areas(score, positive) == pytest.approx((3.5 / 4, (2 / 3 + 1) / 2), abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [1, 9, 10**6])
def test_scikit_learn_agrees(seed: int, levels: int) -> None:
    score, positive = sample(seed, levels=levels)
    expected = (
        sklearn_metrics.roc_auc_score(positive, score),
        sklearn_metrics.average_precision_score(positive, score),
    )
    assert areas(score, positive) == pytest.approx(expected, abs=1e-12)


def test_weights_are_repeated_images() -> None:
    score, positive = sample(0)
    weights = np.random.default_rng(1).integers(0, 4, (6, len(score)))
    weighted = np.array(Ranking(score, positive).areas(weights.astype(float))).T
    for times, ours in zip(weights, weighted, strict=True):
        rows = np.repeat(np.arange(len(score)), times)
        assert ours == pytest.approx(areas(score[rows], positive[rows]), abs=1e-12)


def test_scores_that_need_two_classes_are_undefined_for_one() -> None:
    score = np.array([0.2, 0.6])
    auroc, average_precision = areas(score, np.array([True, True]))
    assert np.isnan(auroc)
    assert average_precision == 1
    assert np.isnan(areas(score, np.array([False, False]))).all()


def test_roc_points_are_those_of_scikit_learn() -> None:
    score, positive = sample(2)
    ours = roc_points(score, positive)
    expected = sklearn_metrics.roc_curve(positive, score, drop_intermediate=False)
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-15)
    assert np.trapezoid(ours[1], ours[0]) == pytest.approx(areas(score, positive)[0], abs=1e-12)


def test_precision_recall_points_are_those_of_scikit_learn() -> None:
    score, positive = sample(3)
    precision, recall, threshold = precision_recall_points(score, positive)
    expected = sklearn_metrics.precision_recall_curve(positive, score)
    np.testing.assert_allclose(precision, expected[0][::-1], atol=1e-15)
    np.testing.assert_allclose(recall, expected[1][::-1], atol=1e-15)
    np.testing.assert_allclose(threshold, [np.inf, *expected[2][::-1]])
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(areas(score, positive)[1])


def test_rates_without_images_to_count_are_undefined() -> None:
    false_positive_rate, true_positive_rate, _ = roc_points([0.1, 0.9], [False, False])
    assert np.isnan(true_positive_rate).all()
    np.testing.assert_array_equal(false_positive_rate, [0, 0.5, 1])
    assert np.isnan(precision_recall_points([], np.empty(0, bool))[1]).all()


def test_wrong_scores_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \(2,\) and \(1,\)"):
        roc_points([0.1, 0.2], [True])
    with pytest.raises(ValueError, match="expected finite scores"):
        roc_points([0.1, float("nan")], [True, False])
    with pytest.raises(ValueError, match="expected bool labels, got int64"):
        precision_recall_points([0.1, 0.2], np.array([0, 1], dtype=np.int64))
