from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medvision.metrics import mean_interval
from medvision.metrics.lesions import detected_lesions, size_groups


def rows_of(dice: list[float], **more: list[float | None]) -> list[dict[str, float | None]]:
    columns = {"dice": dice, "iou": [d / (2 - d) for d in dice], **more}
    return [{name: values[row] for name, values in columns.items()} for row in range(len(dice))]


def cut(share: list[float]) -> list[tuple[str, int]]:
    """Names and sizes of the groups of images with these shares."""
    found = size_groups(rows_of([0.5] * len(share)), foreground_share=share)
    return [(group["name"], group["num_images"]) for group in found]


def test_values_by_hand() -> None:
    share = [0.10, 0.0, 0.02, 0.50, 0.01, 0.0, 0.20]
    dice = [0.7, 1.0, 0.2, 0.9, 0.1, 0.0, 0.8]
    found = size_groups(rows_of(dice), foreground_share=share)
    assert [group["name"] for group in found] == ["no lesion", "small", "medium", "large"]
    assert [group["num_images"] for group in found] == [2, 2, 1, 2]
    assert [group["dice"] for group in found] == pytest.approx([0.5, 0.15, 0.7, 0.85])
    assert [group["from_percent"] for group in found] == pytest.approx([0, 1, 10, 20])
    assert [group["to_percent"] for group in found] == pytest.approx([0, 2, 10, 50])
    assert found[1]["iou"] == pytest.approx((0.2 / 1.8 + 0.1 / 1.9) / 2)
    assert found[1]["dice_ci95"] == [*mean_interval([0.2, 0.1])]
    assert list(found[0]) == [
        "name",
        "from_percent",
        "to_percent",
        "num_images",
        "dice",
        "dice_ci95",
        "iou",
        "iou_ci95",
    ]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        pytest.param([0.1 * k for k in range(1, 10)], [3, 3, 3], id="thirds"),
        pytest.param([0.1, 0.2, 0.3, 0.4], [1, 2, 1], id="four"),  # as near as 1, 1, 2
        pytest.param([0.1, 0.2, 0.3], [1, 1, 1], id="three"),
        pytest.param([0.1, 0.2, 0.2, 0.2, 0.3, 0.4], [1, 3, 2], id="tie-stays-together"),
        pytest.param([0.1] * 8 + [0.2, 0.3], [8, 1, 1], id="many-small"),
        pytest.param([0.1, 0.2] + [0.3] * 8, [1, 1, 8], id="many-large"),
        pytest.param([0.1, 0.2] + [0.3] * 8 + [0.4], [2, 8, 1], id="many-medium"),
        pytest.param([0.1, 0.2, 0.3] + [0.4] * 20, [2, 1, 20], id="both-cuts-at-one-size"),
    ],
)
def test_sizes_are_divided_into_thirds(share: list[float], expected: list[int]) -> None:
    assert [count for _, count in cut(share)] == expected
    assert [name for name, _ in cut(share)] == ["small", "medium", "large"]


def test_fewer_than_three_sizes_give_fewer_groups() -> None:
    assert cut([0.2] * 5) == [("medium", 5)]
    assert cut([0.2, 0.4, 0.2]) == [("small", 2), ("large", 1)]
    assert cut([0.0, 0.0]) == [("no lesion", 2)]
    assert cut([0.0, 0.1]) == [("no lesion", 1), ("medium", 1)]
    assert cut([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_every_image_is_in_one_group_and_no_size_in_two(seed: int) -> None:
    rng = np.random.default_rng(seed)
    share = rng.integers(0, rng.integers(2, 30), size=50) / 40
    found = size_groups(rows_of([0.5] * 50), foreground_share=share)
    assert sum(group["num_images"] for group in found) == 50
    assert all(group["num_images"] > 0 for group in found)
    ends = [(group["from_percent"], group["to_percent"]) for group in found]
    assert all(low <= high for low, high in ends)
    assert all(high < low for (_, high), (low, _) in pairwise(ends))


@pytest.mark.parametrize("seed", range(20))
def test_no_other_division_is_closer_to_thirds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    share = np.sort(rng.choice([0.1, 0.2, 0.3, 0.4, 0.5], size=30, p=rng.dirichlet(np.ones(5))))
    places = np.flatnonzero(np.diff(share)) + 1
    if len(places) < 2:
        pytest.skip("fewer than three sizes")
    costs = [abs(a - 10) + abs(b - 20) for a in places for b in places if a < b]
    counts = [count for _, count in cut(list(share))]
    assert abs(counts[0] - 10) + abs(counts[0] + counts[1] - 20) == min(costs)


def test_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    share, dice = np.round(rng.random(40), 1), rng.random(40)
    order = rng.permutation(40)
    first = size_groups(rows_of(list(dice)), foreground_share=share)
    second = size_groups(rows_of(list(dice[order])), foreground_share=share[order])
    for a, b in zip(first, second, strict=True):
        assert [a[k] for k in ("name", "num_images")] == [b[k] for k in ("name", "num_images")]
        assert a["dice"] == pytest.approx(b["dice"])


def test_scores_at_the_size_of_the_file_come_first() -> None:
    rows = [{"dice": 0.1, "iou": 0.1, "dice_original": 0.8, "iou_original": 0.7}]
    found = size_groups(rows, foreground_share=[0.3])[0]
    assert (found["dice"], found["iou"]) == (0.8, 0.7)


def test_rows_read_from_a_file_may_be_text() -> None:
    rows = [
        {"dice": "0.8", "iou": "0.7", "hd95_px": ""},
        {"dice": "0.6", "iou": "0.5", "hd95_px": "3"},
    ]
    found = size_groups(rows, foreground_share=[0.3, 0.3])[0]
    assert (found["dice"], found["hd95_px"]) == (pytest.approx(0.7), 3)


def test_surface_distances_are_averaged_where_they_are_defined() -> None:
    nan = math.nan
    rows = rows_of([0.0, 0.9, 1.0], hd95_px=[nan, 4.0, nan], nsd_2px=[0.0, 0.8, None])
    nothing, lesions = size_groups(rows, foreground_share=[0.2, 0.2, 0.0])
    assert nothing["name"] == "no lesion"
    assert nothing["hd95_px"] is nothing["hd95_px_ci95"] is nothing["nsd_2px"] is None
    assert (lesions["hd95_px"], lesions["hd95_px_ci95"]) == (4.0, None)
    assert (nothing["hd95_px_undefined"], lesions["hd95_px_undefined"]) == (1, 1)
    assert lesions["nsd_2px"] == pytest.approx(0.4)


def test_an_image_of_ignored_pixels_is_not_counted() -> None:
    found = size_groups(rows_of([math.nan, 1.0, 0.5]), foreground_share=[0.0, 0.0, 0.2])
    assert [group["num_images"] for group in found] == [1, 1]


def test_groups_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(12), 6)
    dice = np.clip(rng.normal(0.7, 0.15, 12)[patient] + rng.normal(0, 0.02, 72), 0, 1)
    rows, share = rows_of(list(dice)), [0.2] * 72
    alone = size_groups(rows, foreground_share=share)[0]["dice_ci95"]
    grouped = size_groups(rows, foreground_share=share, groups=patient)[0]["dice_ci95"]
    assert grouped == [*mean_interval(dice, groups=patient)]
    assert grouped[1] - grouped[0] > 1.5 * (alone[1] - alone[0])


def test_wrong_arguments_are_named() -> None:
    rows = rows_of([0.5, 0.5])
    with pytest.raises(ValueError, match=r"for each of 2, got \(1,\)"):
        size_groups(rows, foreground_share=[0.2])
    with pytest.raises(ValueError, match=r"for each of 2, got \(2,\) and 1"):
        size_groups(rows, foreground_share=[0.2, 0.3], groups=["a"])
    with pytest.raises(ValueError, match=r"shares in \[0, 1\]"):
        size_groups(rows, foreground_share=[20, 30])
    with pytest.raises(ValueError, match=r"shares in \[0, 1\]"):
        size_groups(rows, foreground_share=[0.2, math.nan])


def blocks(*rows: str) -> NDArray[np.uint8]:
    """Mask drawn in text: a digit is a class, a dot the background."""
    return np.array([[0 if char == "." else int(char) for char in row] for row in rows], np.uint8)


def test_lesions_by_hand() -> None:
    labelled = blocks("11....1", "11...1.", ".......", "..111..", "1......")
    predicted = blocks("1......", ".......", "......1", "..111..", ".......")
    assert detected_lesions(predicted, labelled) == {
        "lesions": 4,  # the two pixels that touch at a corner are one
        "lesions_found": 2,
        "lesions_found_iou": 1,  # 1 of 4 pixels is not enough
        "false_positives": 1,
        "false_positives_iou": 2,
    }


def test_a_region_over_two_lesions_finds_both_and_matches_none() -> None:
    found = detected_lesions(blocks("1111111"), blocks("11...11"))
    assert (found["lesions_found"], found["lesions_found_iou"]) == (2, 0)
    assert (found["false_positives"], found["false_positives_iou"]) == (0, 1)


def test_lesions_of_classes_are_counted_apart_and_ignored_pixels_not_at_all() -> None:
    labelled = np.where(blocks("1..22..9") == 9, 255, blocks("1..22..9"))
    found = detected_lesions(
        blocks("2..22..1"), labelled, num_classes=3, class_names=("none", "liver", "tumour")
    )
    assert (found["lesions"], found["lesions_found"], found["false_positives"]) == (2, 1, 1)
    assert (found["lesions_found/liver"], found["lesions_found/tumour"]) == (0, 1)
    assert (found["false_positives/liver"], found["false_positives/tumour"]) == (0, 1)


def test_scipy_counts_the_same_lesions() -> None:
    rng = np.random.default_rng(0)
    labelled, predicted = (rng.random((2, 60, 80)) < 0.2).astype(np.uint8)
    lesions, num_lesions = ndimage.label(labelled, np.ones((3, 3)))
    regions, num_regions = ndimage.label(predicted, np.ones((3, 3)))
    hit = set(lesions[predicted > 0]) - {0}
    false = num_regions - len(set(regions[labelled > 0]) - {0})
    found = detected_lesions(predicted, labelled)
    assert (found["lesions"], found["lesions_found"]) == (num_lesions, len(hit))
    assert found["false_positives"] == false
