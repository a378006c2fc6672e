import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import stats

from medvision.metrics import bootstrap_mean_interval


def dice_like(rng: np.random.Generator, size: int) -> np.ndarray:
    """Scores typical of segmentation: skewed, most near 1; mean 0.8."""
    return rng.beta(4, 1, size)


@pytest.mark.parametrize("size", [40, 60, 100])
def test_independent_images_are_covered_as_promised(size: int) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(2000):
        low, high = bootstrap_mean_interval(dice_like(rng, size), num_resamples=400, seed=seed)
        covered += low <= 0.8 <= high
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.slow
def test_images_of_patients_are_covered_as_promised() -> None:
    rng = np.random.default_rng(8)
    patient = np.repeat(np.arange(60), rng.integers(1, 4, 60))  # some have more images than others
    with_groups = without_groups = 0
    for seed in range(2000):
        mean = rng.beta(8, 2, 60)[patient]  # mean Dice 0.8, correlated within a patient
        values = rng.beta(20 * mean, 20 * (1 - mean))
        low, high = bootstrap_mean_interval(values, groups=patient, num_resamples=400, seed=seed)
        with_groups += low <= 0.8 <= high
        low, high = bootstrap_mean_interval(values, num_resamples=400, seed=seed)
        without_groups += low <= 0.8 <= high
    assert 0.93 <= with_groups / 2000 <= 0.97
    assert without_groups / 2000 < 0.9


def test_few_images_are_covered_too() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(400):
        low, high = bootstrap_mean_interval(rng.normal(0, 1, 6), num_resamples=1000, seed=seed)
        covered += low <= 0 <= high
    assert 0.90 <= covered / 400 <= 0.985


def test_grouped_images_require_their_groups() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(20), 6)
    with_groups = without_groups = 0
    for seed in range(400):
        values = rng.normal(0, 1, 20)[groups] + rng.normal(0, 0.5, len(groups))
        low, high = bootstrap_mean_interval(values, groups=groups, num_resamples=600, seed=seed)
        with_groups += low <= 0 <= high
        low, high = bootstrap_mean_interval(values, num_resamples=600, seed=seed)
        without_groups += low <= 0 <= high
    assert 0.90 <= with_groups / 400 <= 0.985
    assert without_groups / 400 < 0.75


def test_a_normal_sample_gets_the_interval_of_student() -> None:
    values = stats.norm.ppf((np.arange(40) + 0.5) / 40)
    student = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values))
    interval = bootstrap_mean_interval(values, num_resamples=20_000)
    assert interval == pytest.approx(student, abs=0.02)


def test_scipy_agrees_up_to_the_expansion() -> None:
    values = dice_like(np.random.default_rng(3), 400)
    reference = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert bootstrap_mean_interval(values, num_resamples=20_000) == pytest.approx(
        tuple(reference), abs=1e-3
    )


def test_groups_of_one_image_change_nothing() -> None:
    values = dice_like(np.random.default_rng(4), 30)
    names = [f"patient {row}" for row in range(30)]
    assert bootstrap_mean_interval(values, groups=names) == pytest.approx(
        bootstrap_mean_interval(values), abs=1e-12
    )


def test_groups_are_weighted_by_their_size() -> None:
    values = [0.0] * 90 + [1.0] * 10
    low, high = bootstrap_mean_interval(values, groups=["a"] * 90 + ["b"] * 10)
    assert (low, high) == (0.0, 1.0)  # two groups: almost no information
    values = [0.2] * 50 + [0.4] * 50 + [0.3]
    low, high = bootstrap_mean_interval(values, groups=["a"] * 50 + ["b"] * 50 + ["c"])
    assert 0.2 <= low < 0.3 < high <= 0.4


@pytest.mark.parametrize(
    ("values", "groups", "expected"),
    [
        pytest.param([0.7], None, 0.7, id="one-value"),
        pytest.param([0.1] * 7, None, 0.1, id="all-equal"),
        pytest.param([0.1] * 6, [0, 0, 1, 1, 2, 2], 0.1, id="all-equal-in-groups"),
        pytest.param([0.2, 0.4], ["p", "p"], 0.3, id="one-group"),
        pytest.param([float("nan"), 0.6, float("nan")], None, 0.6, id="one-value-left"),
        pytest.param([0.2, 0.4, float("nan")], ["p", "p", "q"], 0.3, id="one-group-left"),
    ],
)
def test_values_without_spread_give_a_point(
    values: list[float], groups: list[object] | None, expected: float
) -> None:
    interval = bootstrap_mean_interval(values, groups=groups)
    assert interval == pytest.approx((expected, expected), abs=1e-15)


def test_nan_values_are_excluded() -> None:
    values = dice_like(np.random.default_rng(5), 40)
    groups = np.arange(40) // 4
    holes, members = np.insert(values, [3, 20], np.nan), np.insert(groups, [3, 20], 99)
    assert bootstrap_mean_interval(holes) == bootstrap_mean_interval(values)
    assert bootstrap_mean_interval(holes, groups=members) == bootstrap_mean_interval(
        values, groups=groups
    )


def test_the_mean_of_no_values_is_undefined() -> None:
    assert np.isnan(bootstrap_mean_interval([])).all()
    assert np.isnan(bootstrap_mean_interval([float("nan")] * 3)).all()


def test_the_interval_stays_within_the_values_and_widens_with_confidence() -> None:
    values = [0.1, 0.9, 0.95, 1.0]
    ends = [bootstrap_mean_interval(values, confidence=level) for level in (0.5, 0.9, 0.99)]
    assert all(0.1 <= low <= high <= 1 for low, high in ends)
    assert ends[2][0] <= ends[1][0] < ends[0][0] < ends[0][1] < ends[1][1] <= ends[2][1]


def test_the_result_depends_only_on_the_seed() -> None:
    values = dice_like(np.random.default_rng(6), 50)
    assert bootstrap_mean_interval(values, seed=1) == bootstrap_mean_interval(values, seed=1)
    assert bootstrap_mean_interval(values, seed=1) != bootstrap_mean_interval(values, seed=2)


def test_ten_thousand_values_are_fast() -> None:
    values = dice_like(np.random.default_rng(7), 10_000)
    started_s = time.process_time()
    low, high = bootstrap_mean_interval(values)
    assert time.process_time() - started_s < 5  # 0.2 s on an idle core
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 100, rel=0.1)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="expected 2 groups, got 1"):
        bootstrap_mean_interval([0.1, 0.2], groups=["a"])
    with pytest.raises(ValueError, match="expected finite values"):
        bootstrap_mean_interval([0.1, float("inf")])
    with pytest.raises(ValueError, match=r"between 0 and 1, got 95"):
        bootstrap_mean_interval([0.1, 0.2], confidence=95)


def test_intervals_and_conventions_need_no_torch() -> None:
    program = (
        "import sys; from medvision.metrics import bootstrap_mean_interval; "
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
