import math
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import optimize, special, stats

from medvision.metrics import mean_interval
from medvision.metrics.intervals import (
    auroc_interval,
    effective_size,
    jackknife,
    jackknife_variance,
    jeffreys_interval,
    mean_of_intervals,
    proportion_interval,
    variance_interval,
    wilson_interval,
)


def dice_like(rng: np.random.Generator, size: int, *, missed: float = 0.0) -> np.ndarray:
    """Scores typical of segmentation: most near 0.91, a share of 0; mean 0.909 (1 - missed)."""
    return np.where(rng.random(size) < missed, 0.0, rng.beta(40, 4, size))


def by_optimizer(values: np.ndarray, distance: float) -> float:
    """Smallest mean of weights on the values and 0, from a general constrained optimizer."""
    support, size = np.append(values, 0.0), len(values)
    found = optimize.minimize(
        lambda q: q @ support,
        np.append(np.full(size, 0.98 / size), 0.02),
        bounds=[(1e-9, 1)] * (size + 1),
        constraints=[
            {"type": "eq", "fun": lambda q: q.sum() - 1},
            {
                "type": "ineq",
                "fun": lambda q: distance - np.log(1 / (size * q[:-1])).sum() / size,
            },
        ],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return float(found.fun)


@pytest.mark.parametrize("values", [[0.9, 0.8, 0.95, 0.85, 0.7], [0.9, 0.0, 0.6, 1.0, 0.3, 0.8]])
def test_a_general_optimizer_finds_the_same_ends(values: list[float]) -> None:
    x = np.array(values)
    distance = stats.t.ppf(0.975, len(x) - 1) ** 2 / (2 * len(x))
    if len(x) == 5:  # four degrees of freedom: c is bounded by the exact interval
        distance = min(distance, math.log(40) / len(x))
    low, high = mean_interval(x)
    student = stats.t.interval(0.95, len(x) - 1, x.mean(), stats.sem(x))
    expected = by_optimizer(x, distance), 1 - by_optimizer(1 - x, distance)
    if len(x) == 5:
        expected = min(expected[0], student[0]), min(max(expected[1], student[1]), 1)
    assert (low, high) == pytest.approx(expected, abs=1e-4)


def test_zeros_and_ones_have_the_likelihood_ratio_interval() -> None:
    low, high = mean_interval([1.0] * 15 + [0.0] * 5)
    limit = stats.t.ppf(0.975, 19) ** 2
    for end in (low, high):
        ratio = 2 * (15 * math.log(0.75 / end) + 5 * math.log(0.25 / (1 - end)))
        assert ratio == pytest.approx(limit, abs=1e-6)


def test_equal_values_have_a_width_by_hand() -> None:
    # all mass but exp(-t^2 / 2n) may lie on a bound where nothing was seen
    share = math.exp(-(stats.t.ppf(0.975, 11) ** 2) / 24)
    assert mean_interval([0.9] * 12) == pytest.approx((0.9 * share, 1 - 0.1 * share), abs=1e-9)
    assert mean_interval([1.0] * 12) == pytest.approx((share, 1), abs=1e-9)
    assert mean_interval([0.0] * 12) == pytest.approx((0, 1 - share), abs=1e-9)


def test_many_ordinary_values_have_the_interval_of_student() -> None:
    values = np.random.default_rng(3).beta(2, 2, 600)
    student = stats.t.interval(0.95, 599, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(student, abs=1e-3)


@pytest.mark.parametrize(
    ("size", "missed"), [(12, 0.0), (12, 0.05), (30, 0.05), (30, 0.15), (100, 0.05)]
)
def test_rare_failures_are_covered(size: int, missed: float) -> None:
    rng = np.random.default_rng(size)
    covered = 0
    for _ in range(300):
        low, high = mean_interval(dice_like(rng, size, missed=missed))
        covered += low <= (1 - missed) * 40 / 44 <= high
    assert covered / 300 >= 0.93 - 0.03  # two standard errors of 300 sets


def test_the_upper_bound_scales_the_interval() -> None:
    values = dice_like(np.random.default_rng(5), 40)
    low, high = mean_interval(values)
    assert mean_interval(300 * values, upper=300) == pytest.approx((300 * low, 300 * high))


def test_without_an_upper_bound_the_largest_value_counts_and_100_images_are_needed() -> None:
    values = np.random.default_rng(6).exponential(10, 120)
    low, high = mean_interval(values, upper=None)
    assert low == pytest.approx(mean_interval(values, upper=300)[0])
    assert values.mean() < high < mean_interval(values, upper=300)[1]
    assert np.isnan(mean_interval(values[:99], upper=None)).all()
    assert np.isnan(mean_interval([3.0] * 120, lower=None, upper=None)).all()  # no width


def test_the_bounds_move_with_the_values() -> None:
    values = np.random.default_rng(9).normal(0, 1, 120).clip(-3, 3)
    low, high = mean_interval(values, lower=-3, upper=3)
    assert mean_interval(values + 3, upper=6) == pytest.approx((low + 3, high + 3), abs=1e-9)
    open_low, open_high = mean_interval(values, lower=None, upper=None)
    student = stats.t.interval(0.95, 119, values.mean(), stats.sem(values))
    assert (open_low, open_high) == pytest.approx(student, abs=0.03)


def test_groups_of_one_image_change_nothing() -> None:
    values = dice_like(np.random.default_rng(4), 30)
    names = [f"patient {row}" for row in range(30)]
    assert mean_interval(values, groups=names) == mean_interval(values)


def test_copies_of_an_image_add_nothing() -> None:
    values = dice_like(np.random.default_rng(7), 40)
    copies = mean_interval(values.repeat(3), groups=np.arange(40).repeat(3))
    assert copies == pytest.approx(mean_interval(values), abs=1e-9)


def test_images_of_patients_are_covered_only_with_their_groups() -> None:
    rng = np.random.default_rng(8)
    patient = np.repeat(np.arange(25), 4)
    covered = np.zeros(2)
    for _ in range(300):
        mean = rng.beta(8, 2, 25)[patient]
        values = rng.beta(40 * mean, 40 * (1 - mean))
        ends = [mean_interval(values, groups=groups) for groups in (patient, None)]
        covered += [low <= 0.8 <= high for low, high in ends]
    assert covered[0] / 300 >= 0.90
    assert covered[1] / 300 < 0.8


def test_a_patient_with_half_of_the_images_counts_as_one() -> None:
    group = np.concatenate([np.zeros(50, int), np.arange(1, 51)])
    alike = np.array([0.2] * 50 + [0.5, 0.9] * 25)
    # all values of a group are equal: rho is 1 and the size is n^2 / sum of n_g^2
    assert effective_size(alike, group) == pytest.approx(100**2 / (50**2 + 50))
    rng = np.random.default_rng(0)
    apart = [effective_size(rng.random(100), group) for _ in range(20)]
    assert np.mean(apart) > 60


def test_weighted_values_count_by_their_weight() -> None:
    values, weights = [0.9, 0.5, 0.8, 0.6], [1000, 1, 1, 1]
    low, high = mean_interval(values, weights=weights)
    assert high - low > 0.8  # one image holds nearly all pixels
    even = mean_interval(values * 10, weights=[7] * 40)
    assert even == pytest.approx(mean_interval(values * 10), abs=1e-9)


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        pytest.param([], None, id="none"),
        pytest.param([0.7], None, id="one-value"),
        pytest.param([float("nan"), 0.6, float("nan")], None, id="one-value-left"),
        pytest.param([0.2, 0.4], ["p", "p"], id="one-group"),
    ],
)
def test_too_few_values_have_no_interval(values: list[float], groups: list[str] | None) -> None:
    assert np.isnan(mean_interval(values, groups=groups)).all()


def test_nan_values_are_excluded() -> None:
    values = dice_like(np.random.default_rng(5), 40)
    groups = np.arange(40) // 4
    holes, members = np.insert(values, [3, 20], np.nan), np.insert(groups, [3, 20], 99)
    assert mean_interval(holes) == mean_interval(values)
    assert mean_interval(holes, groups=members) == mean_interval(values, groups=groups)


def test_the_interval_stays_in_range_and_widens_with_confidence() -> None:
    values = [0.1, 0.9, 0.95, 1.0]
    ends = [mean_interval(values, confidence=level) for level in (0.5, 0.9, 0.99)]
    assert all(0 <= low <= high <= 1 for low, high in ends)
    assert ends[2][0] <= ends[1][0] < ends[0][0] < ends[0][1] < ends[1][1] <= ends[2][1]


def test_the_mean_of_two_recalls_by_hand() -> None:
    ends = [wilson_interval(8, 10), wilson_interval(45, 50)]
    low = 0.85 - math.hypot(0.8 - ends[0][0], 0.9 - ends[1][0]) / 2
    high = 0.85 + math.hypot(ends[0][1] - 0.8, ends[1][1] - 0.9) / 2
    assert mean_of_intervals([0.8, 0.9], ends) == pytest.approx((low, high))
    together = mean_of_intervals([0.8, 0.9], ends, np.ones((2, 2)))
    assert together == pytest.approx(tuple(np.mean(ends, axis=0)))
    assert np.isnan(mean_of_intervals([0.8, 0.9], [ends[0], (math.nan, math.nan)])).all()


def test_jeffreys_by_quantiles_of_beta_and_exact_at_the_bounds() -> None:
    expected = stats.beta.ppf([0.025, 0.975], 8.5, 2.5)
    assert jeffreys_interval(8, 10) == pytest.approx(tuple(expected), abs=1e-12)
    exact = stats.binomtest(10, 10).proportion_ci(0.95, method="exact")
    assert jeffreys_interval(10, 10) == pytest.approx((exact.low, 1))
    assert jeffreys_interval(0, 10) == pytest.approx((0, 1 - exact.low))


def test_the_area_interval_solves_newcombes_equation() -> None:
    value, positives, negatives = 0.9, 10, 90

    def variance(area: float) -> float:
        mean = (positives + negatives) / 2 - 1
        inner = 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
        return area * (1 - area) * inner / (positives * negatives)

    ends = auroc_interval(value, variance(value), positives=10, negatives=90)
    for end in ends:
        assert (value - end) ** 2 == pytest.approx(special.ndtri(0.975) ** 2 * variance(end))
    wide = auroc_interval(value, 4 * variance(value), positives=10, negatives=90)
    assert wide[0] < ends[0] < value < ends[1] < wide[1]


def test_a_perfect_ranking_has_a_width_and_mirrors_the_worst() -> None:
    low, high = auroc_interval(1.0, 0.0, positives=10, negatives=20)
    assert high == 1
    assert 0.7 < low < 0.9
    assert auroc_interval(0.0, 0.0, positives=10, negatives=20) == pytest.approx((0, 1 - low))
    assert np.isnan(auroc_interval(1.0, 0.0, positives=1, negatives=20)).all()


def test_a_variance_of_a_proportion_gives_wilsons_interval_with_students_t() -> None:
    low, high = variance_interval(0.8, 0.8 * 0.2 / 1000, size=1000)
    assert (low, high) == pytest.approx(wilson_interval(800, 1000), abs=1e-3)
    scaled = variance_interval(0.6, 4 * 0.8 * 0.2 / 1000, size=1000, bounds=(-1, 1))
    assert scaled == pytest.approx((2 * low - 1, 2 * high - 1))
    assert variance_interval(1.0, 0.0, size=10)[0] < 0.8
    assert np.isnan(variance_interval(0.8, 0.1, size=1)).all()


def test_the_jackknife_of_a_mean_is_its_variance() -> None:
    values = np.random.default_rng(0).random(40)

    def score(times: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": times @ values / times.sum(axis=1)}

    found = jackknife_variance(jackknife(score, np.arange(40))["mean"])
    assert found == pytest.approx(values.var(ddof=1) / 40)
    blocks = jackknife(score, np.arange(40), max_blocks=8)["mean"]
    assert len(blocks) == 8


def test_one_group_of_several_trials_has_no_interval() -> None:
    assert np.isnan(proportion_interval([True, False], groups=["p", "p"])).all()
    assert proportion_interval([True, True, False]) == wilson_interval(2, 3)


def test_ten_thousand_values_are_fast() -> None:
    values = dice_like(np.random.default_rng(7), 10_000)
    started_s = time.process_time()
    low, high = mean_interval(values)
    assert time.process_time() - started_s < 1  # 0.01 s on an idle core
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 100, rel=0.1)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="expected 2 groups, got 1"):
        mean_interval([0.1, 0.2], groups=["a"])
    with pytest.raises(
        ValueError, match=r"expected finite values in \[0, 1\] or NaN, got 0.1 to inf"
    ):
        mean_interval([0.1, float("inf")])
    with pytest.raises(
        ValueError, match=r"expected finite values in \[0, 1\] or NaN, got 0.1 to 12.0"
    ):
        mean_interval([0.1, 12.0])
    with pytest.raises(ValueError, match=r"between 0 and 1, got 95"):
        mean_interval([0.1, 0.2], confidence=95)


def test_scores_of_images_intervals_and_conventions_need_no_torch() -> None:
    program = (
        "from medvision.metrics import calibration_bins, choose_threshold, mean_interval; "
        "from medvision.metrics import classification_intervals, classification_scores; "
        "from medvision.metrics import pooled_score_intervals, precision_recall_points, roc_points;"
        "from medvision.metrics.conventions import SegmentationConventions; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
