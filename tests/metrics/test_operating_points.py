import math
from typing import Any

import numpy as np
import pytest

from medvision.metrics import choose_threshold, threshold_at_sensitivity, wilson_interval
from medvision.metrics.intervals import ratio_interval
from medvision.metrics.thresholds import operating_points

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
def test_a_validation_split_of_one_class_gives_no_threshold(target: list[int]) -> None:
    points = operating_points(
        [0.4, 0.6][: len(target)], target, *draw(0), threshold_in_use=0.5, chosen_on="fixed"
    )
    assert [point["name"] for point in points] == ["in use"]


def test_scores_without_images_to_count_are_none() -> None:
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


def test_the_requested_sensitivity_defines_the_last_point() -> None:
    points = operating_points(
        *draw(0), *draw(1), threshold_in_use=0.5, chosen_on="val", sensitivity=0.8
    )
    assert points[2]["name"] == "80 % sensitivity"
    assert points[2]["threshold"] == threshold_at_sensitivity(*draw(0), sensitivity=0.8)


def at_prevalence(prevalence: float, predicted: list[int], target: list[int]) -> dict[str, Any]:
    probability = np.where(np.array(predicted) == 1, 0.9, 0.1)
    (point,) = operating_points(
        [], [], probability, target, threshold_in_use=0.5, chosen_on="fixed", prevalence=prevalence
    )
    return point


def test_ppv_and_npv_at_a_prevalence_by_hand() -> None:
    # sensitivity 9/10, specificity 8/10; of 1000 patients 50 ill: 45 found, 190 false alarms
    target = [1] * 10 + [0] * 10
    predicted = [1] * 9 + [0] + [1] * 2 + [0] * 8
    point = at_prevalence(0.05, predicted, target)
    assert point["prevalence"] == 0.05
    assert point["ppv_at_prevalence"] == pytest.approx(45 / (45 + 190))
    assert point["npv_at_prevalence"] == pytest.approx(760 / (760 + 5))
    for name in ("ppv_at_prevalence", "npv_at_prevalence"):
        low, high = point[f"{name}_ci95"]
        assert 0 < low < point[name] < high < 1
    # the ratio of likelihoods is that of 0.9 and 0.2, each with its Wilson interval
    ratio = ratio_interval(0.9, wilson_interval(9, 10), 0.2, wilson_interval(2, 10))
    odds = [end * 0.05 / 0.95 for end in ratio]
    assert point["ppv_at_prevalence_ci95"] == pytest.approx([o / (1 + o) for o in odds])


def test_the_ppv_at_the_share_of_the_test_images_is_their_own() -> None:
    target = [1] * 6 + [0] * 14
    point = at_prevalence(0.3, [1, 1, 1, 1, 0, 0] + [1] * 3 + [0] * 11, target)
    assert point["ppv_at_prevalence"] == pytest.approx(point["ppv"]) == pytest.approx(4 / 7)
    assert point["npv_at_prevalence"] == pytest.approx(point["npv"]) == pytest.approx(11 / 13)


def test_a_perfect_test_still_has_an_uncertain_ppv_at_a_low_prevalence() -> None:
    point = at_prevalence(0.01, [1] * 20 + [0] * 20, [1] * 20 + [0] * 20)
    low, high = point["ppv_at_prevalence_ci95"]
    assert (point["ppv_at_prevalence"], high) == (1, 1)
    assert low < 0.1  # 20 of 20 negatives leave room for a false alarm in six
    assert point["npv_at_prevalence"] == 1


def test_a_class_that_is_never_predicted_has_no_ppv_at_any_prevalence() -> None:
    point = at_prevalence(0.1, [0, 0, 0], [1, 0, 0])
    assert point["ppv_at_prevalence"] is point["ppv_at_prevalence_ci95"] is None
    assert point["npv_at_prevalence"] == pytest.approx(0.9)
    one_class = at_prevalence(0.1, [0, 1], [0, 0])
    assert one_class["npv_at_prevalence"] is one_class["npv_at_prevalence_ci95"] is None


def covered(groups: int, per_group: int, *, grouped: bool) -> dict[str, float]:
    """Coverage of the intervals: sensitivity 0.9, specificity 0.8, 5 % ill."""
    truth = {"sensitivity": 0.9, "ppv_at_prevalence": 0.045 / (0.045 + 0.19)}
    rng, hits = np.random.default_rng(0), dict.fromkeys(truth, 0)
    target = np.repeat([1, 0], groups * per_group)
    group = np.arange(2 * groups).repeat(per_group)
    for _ in range(300):
        # individual probability per patient; correlation of the images 0.3
        chance = np.where(
            np.arange(2 * groups) < groups,
            rng.beta(0.9 * 7 / 3, 0.1 * 7 / 3, 2 * groups),
            1 - rng.beta(0.8 * 7 / 3, 0.2 * 7 / 3, 2 * groups),
        )
        if per_group == 1:
            chance = np.repeat([0.9, 0.2], groups)
        probability = np.where(rng.random(len(target)) < chance[group], 0.9, 0.1)
        (point,) = operating_points(
            [],
            [],
            probability,
            target,
            threshold_in_use=0.5,
            chosen_on="fixed",
            prevalence=0.05,
            groups=group if grouped else None,
        )
        for name, value in truth.items():
            low, high = point[f"{name}_ci95"]
            hits[name] += low <= value <= high
    return {name: count / 300 for name, count in hits.items()}


def test_intervals_cover_as_promised_with_groups_and_without() -> None:
    for share in [*covered(50, 1, grouped=False).values(), *covered(20, 5, grouped=True).values()]:
        assert 0.91 <= share <= 0.99
    assert covered(20, 5, grouped=False)["sensitivity"] < 0.88  # groups not given


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"threshold in \[0, 1\], got 50"):
        operating_points(*draw(0), *draw(1), threshold_in_use=50, chosen_on="fixed")
    with pytest.raises(ValueError, match="prevalence between 0 and 1, got 2"):
        operating_points(*draw(0), *draw(1), threshold_in_use=0.5, chosen_on="val", prevalence=2)
    with pytest.raises(ValueError, match="expected 200 groups, got 1"):
        operating_points(*draw(0), *draw(1), threshold_in_use=0.5, chosen_on="val", groups=["a"])
