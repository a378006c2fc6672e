import math

import numpy as np
import pytest
from scipy import stats

from medvision.metrics import choose_threshold, threshold_at_sensitivity, wilson_interval
from medvision.metrics.operating_points import operating_points
from medvision.types import MedvisionError

KEYS = [
    "name",
    "threshold",
    "chosen_on",
    "num_positives",
    "num_negatives",
    "sensitivity",
    "sensitivity_ci95",
    "specificity",
    "specificity_ci95",
    "ppv",
    "ppv_ci95",
    "npv",
    "npv_ci95",
]


def draw(seed: int, size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = (rng.random(size) < 0.3).astype(int)
    probability = np.round(1 / (1 + np.exp(-rng.normal(2 * target - 1, 1))), 2)
    return probability, target


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        pytest.param(8, 10, (0.490, 0.943), id="8-of-10"),
        pytest.param(0, 10, (0.0, 0.278), id="none"),
        pytest.param(10, 10, (0.722, 1.0), id="all"),
        pytest.param(1, 1, (0.207, 1.0), id="one"),
    ],
)
def test_wilson_by_hand(successes: int, trials: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("trials", [1, 2, 7, 60, 5000])
def test_scipy_agrees(trials: int, confidence: float) -> None:
    for successes in {0, 1, trials // 3, trials - 1, trials}:
        reference = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
        found = wilson_interval(successes, trials, confidence=confidence)
        assert found == pytest.approx((reference.low, reference.high), abs=1e-12)
        assert 0 <= found[0] <= successes / trials <= found[1] <= 1


def test_nothing_is_known_from_no_trials() -> None:
    assert np.isnan(wilson_interval(0, 0)).all()


def test_failures_mirror_successes() -> None:
    low, high = wilson_interval(3, 17)
    assert wilson_interval(14, 17) == pytest.approx((1 - high, 1 - low), abs=1e-15)


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
def test_threshold_by_hand(
    probability: list[float], target: list[int], sensitivity: float, expected: float
) -> None:
    found = threshold_at_sensitivity(probability, target, sensitivity=sensitivity)
    assert found == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("size", [20, 40, 60, 100, 140])
def test_exactly_95_of_100_are_enough(size: int) -> None:
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


def test_neighbouring_floats_are_still_cut() -> None:
    low = 0.5
    high = float(np.nextafter(low, 1))
    assert low < threshold_at_sensitivity([low, high], [0, 1]) <= high


def test_values_by_hand() -> None:
    probability = [0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1, 0.6]
    target = [1, 1, 1, 0, 0, 0, 0, 0]
    point = operating_points(
        [0.2, 0.8], [1, 1], probability, target, threshold_in_use=0.5, chosen_on="fixed"
    )[0]
    assert list(point) == KEYS
    assert [point[key] for key in KEYS[:5]] == ["in use", 0.5, "fixed", 3, 5]
    rates = {"sensitivity": (2, 3), "specificity": (3, 5), "ppv": (2, 4), "npv": (3, 4)}
    for name, (right, of) in rates.items():
        assert point[name] == pytest.approx(right / of)
        assert point[f"{name}_ci95"] == pytest.approx([*wilson_interval(right, of)])


def test_thresholds_come_from_validation_and_values_from_test() -> None:
    validation, test = draw(0), draw(1)
    points = operating_points(*validation, *test, threshold_in_use=0.5, chosen_on="val")
    assert [point["name"] for point in points] == ["in use", "Youden's J", "95 % sensitivity"]
    assert [point["chosen_on"] for point in points] == ["val", "val", "val"]
    assert points[1]["threshold"] == choose_threshold(*validation)
    assert points[2]["threshold"] == threshold_at_sensitivity(*validation)
    probability, target = test
    for point in points:
        assert list(point) == KEYS
        found = probability[target == 1] >= point["threshold"]
        assert point["sensitivity"] == pytest.approx(found.mean())
    other = operating_points(*validation, *draw(2), threshold_in_use=0.5, chosen_on="val")
    assert [p["threshold"] for p in other] == [p["threshold"] for p in points]


@pytest.mark.parametrize("target", [[1, 1], [0, 0], []])
def test_validation_of_one_class_chooses_nothing(target: list[int]) -> None:
    points = operating_points(
        [0.4, 0.6][: len(target)], target, *draw(0), threshold_in_use=0.5, chosen_on="fixed"
    )
    assert [point["name"] for point in points] == ["in use"]


def test_what_has_nothing_to_count_is_none() -> None:
    only_positives = operating_points(
        *draw(0), [0.7, 0.8], [1, 1], threshold_in_use=0.5, chosen_on="val"
    )[0]
    assert only_positives["sensitivity"] == only_positives["ppv"] == 1
    assert only_positives["specificity"] is only_positives["specificity_ci95"] is None
    assert only_positives["npv"] is only_positives["npv_ci95"] is None
    nothing = operating_points(*draw(0), [], [], threshold_in_use=0.5, chosen_on="val")[0]
    assert all(nothing[name] is None for name in KEYS[5:])
    assert nothing["num_positives"] == nothing["num_negatives"] == 0


def test_every_value_is_plain() -> None:
    for point in operating_points(*draw(0), *draw(1), threshold_in_use=0.5, chosen_on="val"):
        kinds = {type(v) for v in point.values()}
        kinds |= {type(end) for name in KEYS if name.endswith("ci95") for end in point[name]}
        assert kinds == {str, float, int, list}
        assert all(math.isfinite(v) for v in point.values() if isinstance(v, float))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(MedvisionError, match=r"without positive images \(validation images\)"):
        threshold_at_sensitivity([0.2, 0.3], [0, 0])
    with pytest.raises(ValueError, match=r"sensitivity in \(0, 1\], got 95"):
        threshold_at_sensitivity([0.2, 0.3], [0, 1], sensitivity=95)
    with pytest.raises(ValueError, match="others or NaN"):
        threshold_at_sensitivity([math.nan, 0.3], [0, 1])
    with pytest.raises(ValueError, match="targets 0 and 1"):
        threshold_at_sensitivity([0.1, 0.3], [0, 2])
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2,\)"):
        threshold_at_sensitivity([0.1, 0.2, 0.3], [0, 1])
    with pytest.raises(ValueError, match=r"threshold in \[0, 1\], got 50"):
        operating_points(*draw(0), *draw(1), threshold_in_use=50, chosen_on="fixed")
    with pytest.raises(ValueError, match=r"successes in \[0, 3\], got 4"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        wilson_interval(1, 3, confidence=95)
