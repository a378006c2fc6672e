from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from medvision.audit import memory
from medvision.audit.dataset import AuditedSet
from medvision.audit.memory import mask_dice, memory_baseline, nearest

MakeSet = Callable[..., AuditedSet]


def noise(number: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, 48, 48), np.uint8)


def flat(*levels: int) -> np.ndarray:
    return np.stack([np.full((48, 48), level, np.uint8) for level in levels])


@pytest.mark.parametrize("block", [1, 7, 512])
def test_the_nearest_neighbour_is_exact_for_any_block_size(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    thumbnails = noise(40)
    thumbnails[30:] = thumbnails[:10] // 2 + noise(10, seed=1) // 8
    queries, known = np.arange(20, 40), np.arange(0, 25)
    levels = (thumbnails >> 1).reshape(40, -1).astype(np.int64)
    expected = []
    for row in queries:
        distance = ((levels[known] - levels[row]) ** 2).sum(axis=1)
        distance[known == row] = np.iinfo(np.int64).max
        expected.append(int(distance.argmin()))
    monkeypatch.setattr(memory, "_QUERIES", block)
    monkeypatch.setattr(memory, "_ROWS", block)
    assert nearest(thumbnails, queries, known).tolist() == expected


def test_the_first_of_equal_neighbours_is_used() -> None:
    thumbnails = np.concatenate([flat(10), noise(1), noise(1), noise(1)])
    assert nearest(thumbnails, np.array([3]), np.array([0, 1, 2])).tolist() == [1]


def test_accuracy_and_chance_by_hand(make_set: MakeSet) -> None:
    data = make_set(
        6,
        targets=["a", "b", "b", "a", "b", "a"],
        splits=["train", "train", "train", "test", "test", "test"],
        thumbnail=flat(10, 200, 220, 14, 190, 240),
        near_duplicates=[0, 1, 2, 0, 3, 4],
    )
    found = memory_baseline(data)
    assert found is not None
    assert found.rows.tolist() == [3, 4, 5]
    assert found.neighbour.tolist() == [0, 1, 2]
    assert found.score.tolist() == [1, 1, 0]
    record = found.to_dict()
    assert record["protocol"] == "test split"
    assert record["accuracy"] == pytest.approx(2 / 3)
    assert record["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert record["chance"] == pytest.approx(1 / 3)  # b is most frequent in train
    assert record["with_twin"]["num_images"] == 1
    assert record["with_twin"]["accuracy"] == 1
    assert record["with_twin"]["accuracy_ci95"] == pytest.approx([0.2065, 1], abs=1e-4)  # 1 of 1
    assert record["without_twin"]["accuracy"] == 0.5
    assert (record["num_images"], record["of_images"]) == (3, 3)


def test_images_of_val_are_neither_queries_nor_candidates(make_set: MakeSet) -> None:
    data = make_set(
        3, targets=["a", "b", "b"], splits=["train", "val", "test"], thumbnail=flat(10, 200, 200)
    )
    found = memory_baseline(data)
    assert found is not None
    assert found.neighbour.tolist() == [0]


def test_each_image_is_left_out_in_turn_without_a_test_split(make_set: MakeSet) -> None:
    data = make_set(
        4,
        targets=["a", "a", "b", "b"],
        thumbnail=flat(10, 12, 200, 206),
        near_duplicates=[0, 0, 1, 2],
    )
    found = memory_baseline(data)
    assert found is not None
    assert found.protocol == "leave one out"
    assert found.neighbour.tolist() == [1, 0, 3, 2]
    assert found.score.tolist() == [1, 1, 1, 1]
    assert found.has_near_duplicate.tolist() == [True, True, False, False]  # not of themselves
    assert found.to_dict()["accuracy_ci95"] == pytest.approx([4 / (4 + 1.959964**2), 1])  # Wilson


def test_dice_is_that_of_the_neighbours_mask(make_set: MakeSet) -> None:
    masks = np.zeros((3, 48, 48), np.uint8)
    masks[0, :, :24], masks[1, :24], masks[2, :, :12] = 255, 200, 255
    masks[2, :, 12:24] = 127  # less than half of the cell
    data = make_set(
        3,
        splits=["train", "train", "test"],
        thumbnail=flat(10, 200, 20),
        mask={"thumbnail": masks},
    )
    found = memory_baseline(data)
    assert found is not None
    record = found.to_dict()
    assert record["dice"] == pytest.approx(2 * 12 / (24 + 12))
    assert record["chance"] == pytest.approx(2 * 12 / (48 + 12))
    assert "balanced_accuracy" not in record
    assert "48 px" in record["measured_on"]
    assert record["with_twin"] == {"num_images": 0, "dice": None, "dice_ci95": None}


def test_two_empty_masks_have_dice_one() -> None:
    empty, full = np.zeros((48, 48), np.uint8), np.full((48, 48), 255, np.uint8)
    assert mask_dice(empty, empty) == 1
    assert mask_dice(empty, full) == pytest.approx(0, abs=1e-9)


def test_intervals_are_wider_where_images_share_a_group(make_set: MakeSet) -> None:
    def width(groups: list[str]) -> float:
        data = make_set(
            41,
            targets=["b"] + ["a", "b"] * 20,
            splits=["train"] + ["test"] * 40,
            groups=["t", *groups],
        )
        found = memory_baseline(data)
        assert found is not None
        low, high = found.to_dict()["accuracy_ci95"]
        return float(high - low)

    alone = width([str(k) for k in range(40)])
    assert width([str(k % 2) + str(k // 10) for k in range(40)]) > 1.5 * alone


def test_only_some_of_very_many_images_are_queried(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MAX_QUERIES", 4)
    found = memory_baseline(make_set(10, targets=["a", "b"] * 5))
    assert found is not None
    assert found.rows.tolist() == [0, 3, 6, 9]
    assert found.to_dict()["num_images"] == 4
    assert found.to_dict()["of_images"] == 10


def test_a_single_image_has_no_baseline(make_set: MakeSet) -> None:
    data = make_set(1)
    assert memory_baseline(data) is None
    assert memory_baseline(replace(data)) is None


def test_the_whole_group_is_left_out_where_groups_are_known(make_set: MakeSet) -> None:
    data = make_set(
        4,
        targets=["a", "a", "b", "a"],
        thumbnail=flat(10, 14, 18, 90),
        groups=["one", "one", "two", "two"],
    )
    found = memory_baseline(data)
    assert found is not None
    assert found.protocol == "leave one group out"
    assert found.neighbour.tolist() == [2, 2, 1, 1]
    assert found.score.tolist() == [0, 0, 0, 1]
    alone = memory_baseline(replace(data, samples=data.samples.with_column(groups=[""] * 4)))
    assert alone is not None
    assert (alone.protocol, alone.neighbour.tolist()) == ("leave one out", [1, 0, 1, 2])
