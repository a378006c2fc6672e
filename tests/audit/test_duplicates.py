from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from medvision.audit.check import duplicate_findings, repeated_images
from medvision.audit.dataset import AuditedSet
from medvision.audit.duplicates import Pair, duplicate_numbers, find_duplicates, shared_foreground
from medvision.data.duplicates.search import RELATIONS, NearDuplicates, join

MakeSet = Callable[..., AuditedSet]
Found = tuple[int, int, float, str]


def with_pairs(data: AuditedSet, pairs: Sequence[Found]) -> AuditedSet:
    """Return the set with these pairs, grouped by them and by equal pixels."""
    first = np.array([pair[0] for pair in pairs], np.int64)
    second = np.array([pair[1] for pair in pairs], np.int64)
    _, original, which = np.unique(
        data.properties.pixel_hash, return_index=True, return_inverse=True
    )
    rows = np.arange(len(data))
    groups = join(rows, np.append(first, rows), np.append(second, original[which]))
    return replace(
        data,
        near_duplicates=NearDuplicates(
            groups=groups,
            first=first,
            second=second,
            similarity=np.array([pair[2] for pair in pairs], np.float32),
            relation=np.array([RELATIONS.index(pair[3]) for pair in pairs], np.uint8),
        ),
    )


def kinds(data: AuditedSet) -> dict[str, tuple[str, int]]:
    found = find_duplicates(data)
    findings = [*duplicate_findings(data, found), *repeated_images(data, found)]
    return {finding.kind: (finding.severity, finding.count) for finding in findings}


def numbers(data: AuditedSet) -> dict[str, Any]:
    return duplicate_numbers(data, find_duplicates(data))


@pytest.fixture
def leaky(make_set: MakeSet) -> AuditedSet:
    """Test 0 = train 2 = train 3, test 1 ~ train 4, val 5 = train 3; 6 and 7 are alone."""
    data = make_set(
        list("abcdefgh"),
        targets=["x"] * 6 + ["y"] * 2,
        splits=["test", "test", "train", "train", "train", "val", "train", "test"],
        pixel_hash=["p", "q", "p", "p", "r", "p", "s", "t"],
    )
    return with_pairs(
        data,
        [(0, 2, 1, "identical"), (0, 3, 1, "identical"), (1, 4, 0.995, "mirrored")],
    )


def test_counts_by_hand(leaky: AuditedSet) -> None:
    found = numbers(leaky)
    exact, near = found["exact_duplicates"], found["near_duplicates"]
    assert (exact["groups"], exact["images"], exact["test_images_in_train"]) == (1, 4, 1)
    assert (near["groups"], near["images"], near["test_images_in_train"]) == (2, 6, 2)
    assert (near["val_images_in_train"], near["test_images_in_val"]) == (1, 1)
    assert (exact["groups_across_splits"], near["groups_across_splits"]) == (1, 2)
    assert exact["members"] == [["a", "c", "d", "f"]]
    assert near["members"] == [["a", "c", "d", "f"], ["b", "e"]]
    assert near["threshold"] == 0.99
    assert near["pairs_by_relation"]["mirrored"] == 1
    assert found["label_conflicts"] == []


def test_every_leaking_image_is_named_with_its_most_similar_near_duplicate(
    leaky: AuditedSet,
) -> None:
    crossing = find_duplicates(leaky).crossing
    pairs = [(pair.first, pair.second, pair.relation) for pair in crossing["test", "train"]]
    assert pairs == [(0, 2, "identical"), (1, 4, "mirrored")]
    assert [pair.rows for pair in crossing["val", "train"]] == [(5, 2)]
    assert [pair.rows for pair in crossing["test", "val"]] == [(0, 5)]
    record = numbers(leaky)["near_duplicates"]["pairs_across_splits"][1]
    assert record == {
        "files": ["b", "e"],
        "splits": ["test", "train"],
        "relation": "mirrored",
        "similarity": 0.995,
        "labels": ["x", "x"],
    }


def test_test_images_in_train_or_in_val_are_a_leak(leaky: AuditedSet) -> None:
    assert kinds(leaky) == {
        "exact_duplicates_test_train": ("leak", 1),
        "near_duplicates_test_train": ("leak", 2),
        "exact_duplicates_val_train": ("warning", 1),
        "exact_duplicates_test_val": ("leak", 1),
        "exact_duplicates": ("note", 4),
        "near_duplicates": ("note", 6),
    }
    found = duplicate_findings(leaky, find_duplicates(leaky))
    texts = [finding.text for finding in found]
    assert "1 of 3 test images is identical to one in train" in texts
    advice = {finding.kind: finding.advice for finding in found}
    assert advice["exact_duplicates_test_train"].startswith("a score on it measures memorisation")
    assert "2 of 3 test images have a near-duplicate in train, 1 of them identical" in texts


def test_repetitions_without_splits_are_a_warning_with_advice(make_set: MakeSet) -> None:
    data = with_pairs(make_set(4, targets=["x", "y", "x", "x"], pixel_hash=list("pqpr")), [])
    found = find_duplicates(data)
    exact, near = repeated_images(data, found)
    assert (exact.kind, exact.severity, exact.count) == ("exact_duplicates", "warning", 2)
    assert exact.text == "2 of 4 images are identical to another, in 1 group"
    assert exact.advice.endswith("keeps them together, unless data.protocol=merged")
    assert near.text.startswith("2 of 4 images have a near-duplicate (identical ones included)")
    assert all(not pairs for pairs in found.crossing.values())


def test_a_near_duplicate_of_a_copy_is_found_across_splits(make_set: MakeSet) -> None:
    # only b and c were compared, both of test; c equals d of train, so b leaks as c does
    data = make_set(
        list("abcd"),
        targets=["x"] * 4,
        splits=["train", "test", "test", "train"],
        pixel_hash=["o", "p", "q", "q"],
    )
    data = with_pairs(data, [(1, 2, 0.998, "same"), (2, 3, 1, "identical")])
    pairs = find_duplicates(data).crossing["test", "train"]
    assert [(p.rows, p.relation) for p in pairs] == [((2, 3), "identical"), ((1, 3), "same")]


@pytest.mark.parametrize("ends_agree", [False, True])
def test_the_ends_of_a_chain_leak_only_if_they_show_the_same_picture(
    make_set: MakeSet, ends_agree: bool
) -> None:
    one, other = scene(), scene()[::-1]
    shown = np.stack([one, one, one if ends_agree else other])
    data = make_set(3, targets=["x"] * 3, splits=["test", "val", "train"], thumbnail=shown)
    data = with_pairs(data, [(0, 1, 0.991, "same"), (1, 2, 0.991, "same")])
    crossing = find_duplicates(data).crossing["test", "train"]
    found = [(pair.rows, pair.relation) for pair in crossing]
    assert found == ([((0, 2), "chain")] if ends_agree else [])
    near = numbers(data)["near_duplicates"]
    assert (near["test_images_in_train"], near["test_images_in_val"]) == (int(ends_agree), 1)


def test_repeated_test_images_are_counted_once_each(make_set: MakeSet) -> None:
    data = make_set(
        4, targets=["x"] * 4, splits=["test", "test", "test", "train"], pixel_hash=list("ppqr")
    )
    findings = repeated_images(with_pairs(data, []), find_duplicates(with_pairs(data, [])))
    (finding,) = [f for f in findings if f.kind == "repeated_test_images"]
    assert finding.text.startswith("3 test images show 2 different pictures")
    assert (finding.severity, finding.files) == ("warning", ("images/00001.png",))


@pytest.mark.parametrize(("together", "reported"), [(3, True), (2, False)])
def test_a_group_with_more_than_half_of_the_images_is_reported(
    make_set: MakeSet, together: int, reported: bool
) -> None:
    hashes = ["p"] * together + list("qrst")[: 4 - together]
    data = with_pairs(make_set(4, targets=["x"] * 4, pixel_hash=hashes), [])
    found = repeated_images(data, find_duplicates(data))
    texts = [finding.text for finding in found if finding.kind == "one_large_group"]
    assert texts == reported * [
        "3 of 4 images are near-duplicates of each other, directly or through others, and stay in"
        " one split"
    ]


def test_test_images_that_repeat_training_images_do_not_repeat_each_other(
    make_set: MakeSet,
) -> None:
    splits = ["train", "train", "test", "test"]
    data = with_pairs(make_set(4, targets=["x"] * 4, splits=splits, pixel_hash=list("pqpq")), [])
    found = repeated_images(data, find_duplicates(data))
    assert {finding.kind for finding in found} == {"exact_duplicates", "near_duplicates"}


def test_equal_pixels_in_two_classes_are_a_conflict(make_set: MakeSet) -> None:
    data = with_pairs(
        make_set(["a", "b", "c"], targets=["x", "x", "y"], pixel_hash=["p", "p", "p"]), []
    )
    found = find_duplicates(data)
    assert [(p.rows, p.relation) for p in found.conflicts] == [((0, 2), "identical")]
    (finding,) = [f for f in duplicate_findings(data, found) if f.severity == "conflict"]
    assert finding.text == "1 pair of identical images has contradicting classes"
    assert finding.files == ("a", "c")
    assert numbers(data)["label_conflicts"] == [
        {
            "files": ["a", "c"],
            "splits": ["", ""],
            "relation": "identical",
            "similarity": 1.0,
            "labels": ["x", "y"],
            "group": ["a", "b", "c"],
        }
    ]


def test_every_contradicting_pair_is_reported_and_no_image_twice(make_set: MakeSet) -> None:
    data = make_set(5, targets=["x", "y", "x", "y", "z"])
    found = [(0, 1, 0.995, "same"), (2, 3, 0.999, "same"), (0, 3, 0.992, "same")]
    data = with_pairs(data, [*found, (3, 4, 0.991, "cropped")])
    assert [p.rows for p in find_duplicates(data).conflicts] == [(2, 3), (0, 1), (3, 4)]


def test_the_pair_across_splits_is_reported_among_equal_ones(make_set: MakeSet) -> None:
    data = make_set(
        3, targets=["x", "y", "y"], splits=["test", "test", "train"], pixel_hash=list("abb")
    )
    data = with_pairs(data, [(0, 1, 0.999, "same"), (1, 2, 1, "identical")])
    assert [p.rows for p in find_duplicates(data).conflicts] == [(0, 2)]


def squares(*sides: int) -> np.ndarray:
    masks = np.zeros((len(sides), 48, 48), np.uint8)
    for mask, side in zip(masks, sides, strict=True):
        mask[:side, :side] = 255
    return masks


@pytest.mark.parametrize(
    ("side", "kind", "severity", "words"),
    [
        pytest.param(20, "two_outlines", "note", "Dice 1.00 between", id="alike"),
        pytest.param(18, "two_outlines", "note", "Dice 0.90 between", id="nearly"),  # 648 / 724
        pytest.param(4, "mask_conflicts_exact", "conflict", "Dice 0.08 between", id="unlike"),
    ],
)
def test_two_masks_of_equal_pixels_are_judged_by_their_dice(
    make_set: MakeSet, side: int, kind: str, severity: str, words: str
) -> None:
    mask = {"mask_hash": ["m", "n"], "thumbnail": squares(20, side)}
    data = with_pairs(make_set(2, pixel_hash=["p", "p"], mask=mask), [(0, 1, 1, "identical")])
    assert kinds(data)[kind] == (severity, 1)
    (finding,) = [f for f in duplicate_findings(data, find_duplicates(data)) if f.kind == kind]
    assert words in finding.text
    same = with_pairs(
        make_set(2, pixel_hash=["p", "p"], mask=mask | {"mask_hash": ["m", "m"]}),
        [(0, 1, 1, "identical")],
    )
    assert "mask_conflicts_exact" not in kinds(same)


@pytest.mark.parametrize(
    ("side", "relation", "is_reported"),
    [
        pytest.param(16, "same", False, id="alike"),  # Dice 2 * 256 / (400 + 256) = 0.78
        pytest.param(12, "same", True, id="unlike"),  # 2 * 144 / (400 + 144) = 0.53
        pytest.param(0, "same", True, id="empty"),
        pytest.param(12, "mirrored", False, id="mirrored-masks-lie-elsewhere"),
        pytest.param(12, "cropped", True, id="cropped-masks-are-aligned"),
    ],
)
def test_masks_of_one_picture_conflict_below_a_stated_dice(
    make_set: MakeSet, side: int, relation: str, is_reported: bool
) -> None:
    data = make_set(
        2, mask={"thumbnail": squares(20, side)}, thumbnail=np.repeat(scene()[None], 2, axis=0)
    )
    data = with_pairs(data, [(0, 1, 0.995, relation)])
    assert ("mask_conflicts_near" in kinds(data)) == is_reported
    overlap = min(side, 20) ** 2
    (pair,) = find_duplicates(data).crossing["test", "train"] or [
        Pair(first=0, second=1, similarity=0.995, relation=relation)
    ]
    assert shared_foreground(data, pair) == pytest.approx(2 * overlap / (400 + side**2))


def scene() -> np.ndarray:
    """A picture with coarse and fine structure in all parts."""
    rng = np.random.default_rng(3)
    drawn = sum(
        sigma * cv2.GaussianBlur(rng.normal(0, 1, (48, 48)), (0, 0), sigma) for sigma in (1.5, 5)
    )
    return cv2.normalize(drawn, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def moved(picture: np.ndarray, pixels: int) -> np.ndarray:
    return np.roll(picture, pixels, axis=1)


def test_a_mask_that_follows_a_moving_camera_is_no_conflict(make_set: MakeSet) -> None:
    mask = squares(20, 20)
    mask[1] = moved(mask[0], 4)
    shown = np.stack([scene(), moved(scene(), 4)])
    data = with_pairs(
        make_set(2, mask={"thumbnail": mask}, thumbnail=shown), [(0, 1, 0.98, "cropped")]
    )
    assert find_duplicates(data).conflicts == []
    pair = Pair(first=0, second=1, similarity=0.98, relation="cropped")
    assert shared_foreground(data, pair) == pytest.approx(1, abs=0.02)
    stays = replace(
        data,
        properties=replace(data.properties, mask=replace(data.masks, thumbnail=squares(20, 20))),
    )
    assert shared_foreground(stays, pair) == pytest.approx(32 / 36, abs=0.01)


def test_hardly_overlapping_masks_of_pictures_that_are_only_alike_are_no_conflict(
    make_set: MakeSet,
) -> None:
    masks = {"thumbnail": squares(20, 0)}
    data = make_set(2, mask=masks, thumbnail=np.repeat(scene()[None], 2, axis=0))
    assert find_duplicates(with_pairs(data, [(0, 1, 0.92, "same")])).conflicts == []
    assert len(find_duplicates(with_pairs(data, [(0, 1, 0.98, "same")])).conflicts) == 1


def test_two_empty_masks_agree(make_set: MakeSet) -> None:
    pair = Pair(first=0, second=1, similarity=1.0, relation="identical")
    assert shared_foreground(make_set(2), pair) == 1


def test_a_set_without_repetitions_has_no_findings(make_set: MakeSet) -> None:
    data = make_set(4, targets=["x", "y"] * 2, splits=["train", "train", "test", "test"])
    assert kinds(data) == {}
    assert numbers(data)["near_duplicates"]["members"] == []


def test_two_thousand_copies_of_one_image_are_fast(make_set: MakeSet) -> None:
    number = 2000
    data = make_set(
        number,
        targets=["x", "y"] * (number // 2),
        splits=["train", "train", "test", "test"] * (number // 4),
        pixel_hash=["p"] * number,
    )
    found = find_duplicates(with_pairs(data, []))
    assert len(found.crossing["test", "train"]) == number // 2
    assert 1 <= len(found.conflicts) <= number // 2
