"""Spread over seeds compared with scipy, and undefined cases."""

import pytest
from scipy import stats

from medvision.metrics.paired import seed_spread


def test_the_interval_is_that_of_welch() -> None:
    a, b = [0.90, 0.91, 0.93], [0.94, 0.93, 0.97, 0.96]
    found = seed_spread(a, b)
    reference = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert found.interval == pytest.approx(tuple(reference))
    assert found.std_a == pytest.approx(stats.tstd(a))
    assert found.standard_error == pytest.approx((stats.tvar(a) / 3 + stats.tvar(b) / 4) ** 0.5)


def test_one_seed_has_no_spread() -> None:
    found = seed_spread([0.9], [0.8, 0.85])
    assert (found.std_a, found.standard_error, found.interval) == (None, None, None)
    assert found.std_b == pytest.approx(0.05 / 2**0.5)


def test_identical_seeds_give_the_difference_as_interval() -> None:
    found = seed_spread([0.5, 0.5], [0.75, 0.75])
    assert found.standard_error == 0
    assert found.interval == pytest.approx((0.25, 0.25))
