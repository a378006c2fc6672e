"""Paired differences: exact tests by an independent reference, calibration, degenerate data."""

import itertools

import numpy as np
import pytest
from scipy import stats

from medvision.metrics.intervals import group_numbers
from medvision.metrics.paired import (
    PairedDifference,
    auroc_score,
    holm_adjusted,
    mean_score,
    paired_differences,
)
from medvision.metrics.ranking import placements


def compared(
    a: object, b: object, groups: tuple[object, ...] = (), **settings: int
) -> PairedDifference:
    values = np.stack([np.asarray(a, float), np.asarray(b, float)], axis=1)
    score = mean_score(values, group_numbers(groups or None, len(values)))
    return paired_differences({"dice": score}, [(0, 1)], **settings)["dice"][0]


def test_the_difference_is_that_of_b_to_a() -> None:
    found = compared([0.5, 0.6, 0.7, 0.8], [0.6, 0.6, 0.9, 0.9])
    assert (found.a, found.b) == (pytest.approx(0.65), pytest.approx(0.75))
    assert found.difference == pytest.approx(0.1)
    assert (found.num_images, found.num_units, found.alike) == (4, 4, False)


def test_few_images_are_exchanged_in_every_way() -> None:
    a, b = np.array([0.5, 0.6, 0.7, 0.2, 0.9]), np.array([0.7, 0.8, 0.6, 0.6, 0.95])
    found = compared(a, b)
    swapped = [
        abs(np.mean((b - a) * np.array(signs))) for signs in itertools.product((1, -1), repeat=5)
    ]
    reached = np.mean(np.array(swapped) >= abs(np.mean(b - a)) - 1e-12)
    assert found.p_value == pytest.approx(reached)
    assert found.num_permutations == 32


def test_two_accuracies_are_compared_as_by_mcnemar() -> None:
    a, b = np.zeros(60), np.zeros(60)
    a[:3], b[3:14] = 1, 1  # 3 images correct only in A, 11 only in B
    exact = stats.binomtest(11, 14).pvalue
    found = compared(a, b)
    assert found.num_permutations == 9999
    assert found.p_value == pytest.approx(exact, abs=4 * (exact / 9999) ** 0.5)


def test_p_is_never_zero_and_resolves_less_than_a_thousandth() -> None:
    found = compared(np.full(50, 0.5), np.linspace(0.6, 0.9, 50))
    assert found.p_value == 1e-4
    assert found.probability_better is not None
    assert 0.999 < found.probability_better < 1


def test_interval_and_probability_are_those_of_student_for_a_normal_sample() -> None:
    difference = stats.norm.ppf((np.arange(30) + 0.5) / 30) * 0.05 + 0.01
    found = compared(np.full(30, 0.5), 0.5 + difference, num_resamples=20_000)
    error = stats.sem(difference)
    assert found.interval == pytest.approx(stats.t.interval(0.95, 29, 0.01, error), abs=0.002)
    assert found.standard_error == pytest.approx(error, rel=0.03)
    assert found.probability_better == pytest.approx(stats.t.cdf(0.01 / error, 29), abs=0.02)


def test_exchanging_a_and_b_reverses_the_result() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(40), rng.random(40)
    there, back = compared(a, b), compared(b, a)
    assert there.interval is not None
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert back.p_value == there.p_value
    assert back.difference == -there.difference
    assert (there.probability_better or 0) + (back.probability_better or 0) == pytest.approx(1)


def test_the_order_of_images_in_their_groups_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(40), rng.random(40)
    groups = tuple(np.repeat(np.arange(20), 2))
    order = np.arange(40).reshape(20, 2)[:, ::-1].ravel()
    assert compared(a, b, groups) == compared(a[order], b[order], groups)


def test_equal_scores_give_no_difference_with_uncertainty() -> None:
    found = compared([0.5] * 50, [0.5] * 50)
    assert (found.difference, found.p_value, found.alike) == (0, 1, True)
    assert found.probability_better == pytest.approx(0.5)
    bound = 1 - 0.025 ** (1 / 50)  # of the share of images that differ
    assert found.interval == pytest.approx((-bound, bound))
    assert found.images_needed is None


@pytest.mark.parametrize(
    ("a", "groups"),
    [pytest.param([0.4], (), id="one-image"), pytest.param([0.4, 0.5], (7, 7), id="one-group")],
)
def test_a_single_unit_has_no_interval(a: list[float], groups: tuple[object, ...]) -> None:
    found = compared(a, [0.9] * len(a), groups)
    assert found.p_value == 1
    assert found.num_units == 1
    assert found.interval is found.probability_better is found.standard_error is None


def test_the_area_has_no_interval_if_a_class_has_one_image() -> None:
    target = np.array([1, 0, 0, 0])
    placed = np.stack(
        [placements(np.array(values), target == 1) for values in ([4.0, 1, 2, 3], [2.0, 1, 3, 4])],
        axis=1,
    )
    score = auroc_score({1: placed}, target, np.arange(4))
    found = paired_differences({"auroc": score}, [(0, 1)])["auroc"][0]
    assert found.difference == pytest.approx(1 / 3 - 1)
    assert found.interval is None


def test_resamples_without_a_class_are_left_out() -> None:
    rng = np.random.default_rng(2)
    target = np.zeros(30, dtype=int)
    target[:6] = 1
    placed = np.stack([placements(rng.random(30), target == 1) for _ in range(2)], axis=1)
    score = auroc_score({1: placed}, target, np.arange(30))
    found = paired_differences({"auroc": score}, [(0, 1)])["auroc"][0]
    assert found.interval is not None
    assert np.isfinite(found.interval).all()


def test_five_units_that_differ_have_no_interval_because_no_p_can_be_small() -> None:
    few, enough = (compared(np.full(n, 0.5), 0.5 + 0.01 * np.arange(1, n + 1)) for n in (5, 6))
    assert few.interval is few.probability_better is None
    assert few.p_value == 2 / 2**5
    assert enough.interval is not None
    assert enough.p_value == 2 / 2**6


def test_an_undefined_score_is_refused() -> None:
    score = mean_score([[np.nan, np.nan]], np.arange(1))
    with pytest.raises(ValueError, match="expected scores that are defined, got NaN for dice"):
        paired_differences({"dice": score}, [(0, 1)])


def test_images_needed_for_a_difference_of_this_size() -> None:
    difference = np.tile([0.3, -0.2], 50)  # 0.05 in the mean, standard deviation 0.25
    found = compared(np.full(100, 0.5), 0.5 + difference, num_resamples=20_000)
    assert found.images_needed == pytest.approx(7.849 * 0.25**2 / 0.05**2, rel=0.05)


def test_the_false_positive_rate_is_as_promised() -> None:
    rng = np.random.default_rng(3)
    found = []
    for seed in range(300):
        common = rng.normal(0, 0.1, (40, 1))
        values = common + rng.normal(0, 0.05, (40, 2))
        score = mean_score(values, np.arange(40))
        found += paired_differences(
            {"dice": score}, [(0, 1)], num_resamples=200, num_permutations=199, seed=seed
        )["dice"]
    positives = sum(difference.p_value <= 0.05 for difference in found)
    assert 3 <= positives <= 28  # 15 of 300 expected; binomial, 1 in 1000 beyond
    covered = sum(d.interval is not None and d.interval[0] <= 0 <= d.interval[1] for d in found)
    assert covered >= 0.9 * 300


def test_correlated_groups_must_be_given() -> None:
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(12), 6)
    with_groups = without = 0
    for seed in range(120):
        difference = rng.normal(0, 0.1, 12)[groups] + rng.normal(0, 0.03, 72)
        few = {"num_resamples": 100, "num_permutations": 199, "seed": seed}
        with_groups += compared(np.zeros(72), difference, tuple(groups), **few).p_value <= 0.05
        without += compared(np.zeros(72), difference, **few).p_value <= 0.05
    assert with_groups <= 16  # 6 of 120 expected
    assert without > 40


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        pytest.param([0.01, 0.04, 0.03], [0.03, 0.06, 0.06], id="steps"),
        pytest.param([0.5, 0.6], [1.0, 1.0], id="at-most-one"),
        pytest.param([0.02], [0.02], id="one"),
        pytest.param([], [], id="none"),
    ],
)
def test_holm_by_hand(raw: list[float], adjusted: list[float]) -> None:
    assert holm_adjusted(raw) == pytest.approx(adjusted)


def test_all_pairs_are_those_of_each_alone() -> None:
    values = np.random.default_rng(5).random((30, 3))
    score = mean_score(values, np.arange(30))
    both = paired_differences({"dice": score}, [(0, 1), (0, 2)])["dice"]
    assert both[0] == compared(values[:, 0], values[:, 1])
    assert both[1] == compared(values[:, 0], values[:, 2])


def test_the_interval_contains_differences_that_the_test_does_not_reject() -> None:
    difference = np.random.default_rng(7).standard_t(3, 12) * 0.1 + 0.05
    found = compared(np.zeros(12), difference)
    assert found.interval is not None
    for end, inwards in zip(found.interval, (1e-6, -1e-6), strict=True):
        inside = compared(np.zeros(12), difference - (end + inwards))
        outside = compared(np.zeros(12), difference - (end - 2000 * inwards))
        assert inside.p_value <= 0.1
        assert outside.p_value <= 0.05  # the bootstrap interval may be wider, never narrower


def test_an_interval_without_zero_has_a_small_p() -> None:
    rng = np.random.default_rng(8)
    for seed in range(60):
        difference = rng.standard_t(2, 13) * 0.1 + 0.08
        found = compared(np.zeros(13), difference, num_resamples=300, seed=seed)
        assert found.interval is not None
        if found.interval[0] > 0 or found.interval[1] < 0:
            assert found.p_value <= 0.05
