import math

import numpy as np
import pytest
from scipy import stats

from medvision.metrics import wilson_interval
from medvision.metrics.intervals import effective_trials, ratio_interval


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


def test_the_interval_of_no_trials_is_undefined() -> None:
    assert np.isnan(wilson_interval(0, 0)).all()


def test_failures_mirror_successes() -> None:
    low, high = wilson_interval(3, 17)
    assert wilson_interval(14, 17) == pytest.approx((1 - high, 1 - low), abs=1e-15)


def test_independent_trials_count_each_and_a_group_counts_once() -> None:
    right = np.array([True, False, True, True])
    assert effective_trials(right, np.arange(4)) == 4
    assert effective_trials(right, np.zeros(4, int)) == 1


def test_groups_of_equal_trials_count_about_one_trial_each() -> None:
    right = np.repeat(np.arange(40) % 4 > 0, 5)
    group = np.arange(40).repeat(5)
    # equal within a group: each counts once; and the t quantile of 39 degrees of freedom
    expected = 40 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 39)) ** 2
    assert effective_trials(right, group) == pytest.approx(expected)


def test_groups_with_equal_shares_keep_all_trials_but_for_few_degrees_of_freedom() -> None:
    right = np.tile([True, True, False], 10)
    expected = 30 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 9)) ** 2
    assert effective_trials(right, np.arange(10).repeat(3)) == pytest.approx(expected)


def test_only_successes_count_as_many_trials_as_groups() -> None:
    assert effective_trials(np.ones(12, bool), np.arange(4).repeat(3)) == 4


def test_independent_trials_in_groups_keep_nearly_all_trials() -> None:
    rng = np.random.default_rng(0)
    found = [effective_trials(rng.random(300) < 0.8, np.arange(100).repeat(3)) for _ in range(50)]
    assert 240 < np.mean(found) <= 300


@pytest.mark.parametrize(("over", "under"), [(9, 2), (50, 10), (99, 40)])
def test_the_ratio_lies_within_and_mirrors_its_inverse(over: int, under: int) -> None:
    p, q = over / 100, under / 100
    ends = wilson_interval(over, 100), wilson_interval(under, 100)
    low, high = ratio_interval(p, ends[0], q, ends[1])
    assert 0 < low < p / q < high
    inverse = ratio_interval(q, ends[1], p, ends[0])
    assert inverse == pytest.approx((1 / high, 1 / low))


def test_the_formula_by_hand() -> None:
    # p 0.5 in (0.4, 0.6), q 0.25 in (0.2, 0.3)
    low = (0.125 - math.sqrt(0.125**2 - 0.4 * 0.3 * 0.6 * 0.2)) / (0.3 * 0.2)
    high = (0.125 + math.sqrt(0.125**2 - 0.6 * 0.2 * 0.4 * 0.3)) / (0.2 * 0.3)
    assert ratio_interval(0.5, (0.4, 0.6), 0.25, (0.2, 0.3)) == pytest.approx((low, high))


def test_a_proportion_of_zero_gives_an_unbounded_ratio() -> None:
    never, often = wilson_interval(0, 20), wilson_interval(15, 20)
    low, high = ratio_interval(0.75, often, 0.0, never)
    assert high == math.inf
    assert 0 < low < 0.75 / never[1] * 1.3
    assert ratio_interval(0.0, never, 0.75, often)[0] == 0


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"successes in \[0, 3\], got 4"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        wilson_interval(1, 3, confidence=95)
