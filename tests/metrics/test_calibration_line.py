from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from medvision.metrics.calibration import calibration_line
from medvision.metrics.thresholds import decision_curve, net_benefits


def draw(
    size: int, slope: float, intercept: float, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities of images whose class follows a line on the logit scale."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 2, size)
    true = 1 / (1 + np.exp(-(intercept + slope * logit)))
    return 1 / (1 + np.exp(-logit)), rng.random(size) < true


def test_the_slope_is_that_of_logistic_regression() -> None:
    p, y = draw(400, 0.6, 0.3)
    logit = np.log(p / (1 - p))[:, None]
    expected = LogisticRegression(C=1e10, tol=1e-10).fit(logit, y).coef_.item()
    found = calibration_line(p, y)
    assert found["calibration_slope"] == pytest.approx(expected, abs=1e-4)
    low, high = found["calibration_slope_ci95"]  # type: ignore[misc]
    assert low < 0.6 < high < 1  # overconfident


def test_the_intercept_makes_the_mean_probability_that_of_the_classes() -> None:
    p, y = draw(400, 1.0, -0.8)
    found = calibration_line(p, y)
    moved = 1 / (1 + np.exp(-(np.log(p / (1 - p)) + found["calibration_intercept"])))
    assert moved.mean() == pytest.approx(y.mean(), abs=1e-9)
    low, high = found["calibration_intercept_ci95"]  # type: ignore[misc]
    assert low < -0.8 < high < 0


def test_a_calibrated_network_has_slope_one_and_intercept_zero() -> None:
    found = calibration_line(*draw(3000, 1.0, 0.0))
    assert found["calibration_slope"] == pytest.approx(1, abs=0.1)
    assert found["calibration_intercept"] == pytest.approx(0, abs=0.1)


def test_images_of_one_patient_widen_the_intervals() -> None:
    p, y = draw(100, 1.0, 0.0)
    alone = calibration_line(p, y)
    copies = calibration_line(np.repeat(p, 5), np.repeat(y, 5), groups=np.repeat(range(100), 5))
    for name in ("calibration_slope", "calibration_intercept"):
        assert copies[name] == pytest.approx(alone[name], abs=1e-6)
        widths = [np.ptp(found[f"{name}_ci95"]) for found in (alone, copies)]
        assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_classes_that_share_one_probability_and_are_separated_elsewhere_have_no_slope() -> None:
    line = calibration_line([0.1, 0.9, 0.1], [False, True, True])
    assert np.isnan(line["calibration_slope"])
    assert np.isnan(line["calibration_slope_ci95"]).all()
    assert np.isfinite(line["calibration_intercept"])


def test_separated_classes_have_no_slope() -> None:
    found = calibration_line([0.1, 0.2, 0.8, 0.9], [False, False, True, True])
    assert math.isnan(found["calibration_slope"])  # type: ignore[arg-type]
    assert found["calibration_intercept"] == pytest.approx(0, abs=1e-6)
    one_class = calibration_line([0.1, 0.2], [False, False])
    assert all(np.isnan(value).all() for value in one_class.values())


def test_probabilities_of_zero_and_one_are_finite() -> None:
    found = calibration_line([0.0, 1.0, 0.3, 0.6, 0.0], [False, True, True, False, True])
    assert np.isfinite(found["calibration_intercept"])


def test_net_benefit_by_hand() -> None:
    p, y = [0.9, 0.6, 0.3, 0.7], [1, 0, 1, 0]
    assert net_benefits(p, y, 0.2).mean() == pytest.approx(2 / 4 - 2 / 4 * 0.25)
    assert net_benefits(p, y, 0.65).mean() == pytest.approx(1 / 4 - 1 / 4 * 0.65 / 0.35)
    assert net_benefits([0.1, 0.1], [1, 0], 0.5).tolist() == [0, 0]  # nothing predicted
    curve = {point["threshold"]: point for point in decision_curve(p, y)}
    assert curve[0.2]["treat_all"] == pytest.approx(0.5 - 0.5 * 0.25)
    assert len(curve) == 19
