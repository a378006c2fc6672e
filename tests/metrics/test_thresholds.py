from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from medvision.errors import MedvisionError
from medvision.metrics import choose_threshold, threshold_at_sensitivity, threshold_by_rule
from medvision.metrics.thresholds import RULES


@pytest.mark.parametrize(
    ("probability", "target", "expected"),
    [
        pytest.param([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1], 0.4, id="half-way"),
        # below 0.3 and below 0.9 are equally good, J = 1/2; 0.25 is 0.25 and 0.8 is 0.3 away
        pytest.param([0.2, 0.3, 0.7, 0.9], [0, 1, 0, 1], 0.25, id="tie-nearest-half"),
        pytest.param([0.2, 0.3, 0.8, 0.9], [0, 1, 0, 1], 0.25, id="tie-again"),
        pytest.param([0.2, 0.4, 0.6, 0.8], [0, 1, 0, 1], 0.3, id="equally-near-takes-the-lower"),
        pytest.param([0.3, 0.3], [0, 1], 0.65, id="one-probability-cuts-nothing"),
        pytest.param([0.0, 1.0], [1, 0], 0.0, id="worse-than-chance-predicts-everything"),
        pytest.param([0.4, 0.6], [1, 0], 0.2, id="worse-than-chance-all-or-nothing"),
        pytest.param([0.0, 0.0, 1.0], [0, 0, 1], 0.5, id="certain"),
    ],
)
def test_value_by_hand(probability: list[float], target: list[int], expected: float) -> None:
    assert choose_threshold(probability, target) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(2, size=80)
    probability = np.round((rng.random(80) * 0.7 + 0.2 * target) * 50) / 50
    cuts = [balanced_accuracy_score(target, probability >= t) for t in np.arange(0.01, 1, 0.02)]
    chosen = choose_threshold(probability, target)
    assert balanced_accuracy_score(target, probability >= chosen) == pytest.approx(max(cuts))


def test_the_threshold_nearest_one_half_within_one_standard_error_is_chosen() -> None:
    # 50 negatives below 0.2; of 50 positives 48 above 0.6, 2 at 0.3: the best cut is at 0.25
    probability = [0.1] * 25 + [0.2] * 25 + [0.3] * 2 + [0.6] * 48
    target = [0] * 50 + [1] * 50
    assert choose_threshold(probability, target) == pytest.approx(0.25)
    # at 0.45 the balanced accuracy is 0.98; the error of (51 / 52, 51 / 52) is 0.0137 < 0.02
    assert choose_threshold(probability, target, standard_errors=1) == pytest.approx(0.25)
    assert choose_threshold(probability, target, standard_errors=2) == pytest.approx(0.45)


def test_few_images_keep_the_threshold_at_one_half() -> None:
    probability, target = [0.05, 0.1, 0.15, 0.2, 0.4, 0.7, 0.8, 0.9], [0] * 4 + [1] * 4
    assert choose_threshold(probability, target) == pytest.approx(0.3)
    assert choose_threshold(probability, target, standard_errors=1) == pytest.approx(0.55)


def test_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    probability, target = rng.random(50), rng.integers(2, size=50)
    order = rng.permutation(50)
    assert choose_threshold(probability, target) == choose_threshold(
        probability[order], target[order]
    )


def test_neighbouring_floats_are_separated() -> None:
    low = 0.5
    high = float(np.nextafter(low, 1))
    assert low < choose_threshold([low, high], [0, 1]) <= high


@pytest.mark.parametrize("target", [[0, 0], [1, 1]])
def test_images_of_one_class_give_no_threshold(target: list[int]) -> None:
    with pytest.raises(MedvisionError, match="cannot be chosen from images of one class"):
        choose_threshold([0.2, 0.7], target)


def test_no_images_give_no_threshold() -> None:
    with pytest.raises(MedvisionError, match="cannot be chosen"):
        choose_threshold([], [])


def draw(seed: int, size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = (rng.random(size) < 0.3).astype(int)
    probability = np.round(1 / (1 + np.exp(-rng.normal(2 * target - 1, 1))), 2)
    return probability, target


@pytest.mark.parametrize(
    ("probability", "target", "sensitivity", "expected"),
    [
        pytest.param([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1], 0.95, 0.4, id="half-way"),
        pytest.param([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1], 0.5, 0.75, id="half-of-them"),
        pytest.param([0.1, 0.3, 0.5, 0.9], [1, 0, 0, 1], 1.0, 0.05, id="down-to-the-lowest"),
        pytest.param([0.1, 0.3, 0.5, 0.9], [1, 0, 0, 1], 0.5, 0.7, id="past-the-negatives"),
        pytest.param([0.3, 0.3, 0.8], [1, 0, 1], 0.95, 0.15, id="tie-cannot-be-cut"),
        pytest.param([0.0, 1.0], [1, 0], 0.95, 0.0, id="everything"),
        pytest.param([0.4, 0.6], [1, 1], 0.95, 0.2, id="positives-alone-suffice"),
    ],
)
def test_threshold_at_a_sensitivity_by_hand(
    probability: list[float], target: list[int], sensitivity: float, expected: float
) -> None:
    found = threshold_at_sensitivity(probability, target, sensitivity=sensitivity)
    assert found == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("size", [20, 40, 60, 100, 140])
def test_exactly_95_of_100_are_sufficient(size: int) -> None:
    probability = np.linspace(0.1, 0.9, size)
    threshold = threshold_at_sensitivity(probability, np.ones(size, int))
    assert (probability >= threshold).mean() == 0.95


@pytest.mark.parametrize("seed", range(4))
def test_no_larger_threshold_is_as_sensitive(seed: int) -> None:
    probability, target = draw(seed)
    threshold = threshold_at_sensitivity(probability, target)
    positives = probability[target == 1]
    assert (positives >= threshold).mean() >= 0.95
    larger = probability[probability > threshold].min() + 1e-9
    assert (positives >= larger).mean() < 0.95


def test_neighbouring_floats_are_separated_for_a_sensitivity() -> None:
    low = 0.5
    high = float(np.nextafter(low, 1))
    assert low < threshold_at_sensitivity([low, high], [0, 1]) <= high


@pytest.mark.parametrize("seed", range(3))
def test_every_rule_equals_its_function(seed: int) -> None:
    images = draw(seed)
    found = {rule: threshold_by_rule(rule, *images, sensitivity=0.9) for rule in RULES}
    assert {rule: threshold for rule, (threshold, _) in found.items()} == {
        "validation": choose_threshold(*images, standard_errors=1),
        "youden": choose_threshold(*images),
        "sensitivity": threshold_at_sensitivity(*images, sensitivity=0.9),
    }
    assert found["sensitivity"][1] == (
        "the largest threshold that finds 90 % of the positive validation images"
    )


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="other values or NaN"):
        choose_threshold([0.1, float("nan")], [0, 1])
    with pytest.raises(ValueError, match="targets 0 and 1"):
        choose_threshold([0.1, 0.2], [0, 255])
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2,\)"):
        choose_threshold([0.1, 0.2, 0.3], [0, 1])
    with pytest.raises(MedvisionError, match=r"without positive images \(validation images\)"):
        threshold_at_sensitivity([0.2, 0.3], [0, 0])
    with pytest.raises(ValueError, match=r"sensitivity in \(0, 1\], got 95"):
        threshold_at_sensitivity([0.2, 0.3], [0, 1], sensitivity=95)
    with pytest.raises(ValueError, match="other values or NaN"):
        threshold_at_sensitivity([float("nan"), 0.3], [0, 1])
    with pytest.raises(ValueError, match="targets 0 and 1"):
        threshold_at_sensitivity([0.1, 0.3], [0, 2])
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2,\)"):
        threshold_at_sensitivity([0.1, 0.2, 0.3], [0, 1])
    with pytest.raises(
        ValueError, match="one of the rules validation, youden, sensitivity, got best"
    ):
        threshold_by_rule("best", [0.1, 0.2], [0, 1])
