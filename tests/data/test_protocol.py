import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from medvision.data.samples import Sample
from medvision.data.splits.assign import PROTOCOLS, SplitResult, apply_protocol, join_groups
from medvision.errors import MedvisionError


def images(number: int, *, start: int = 0, **fields: str) -> list[Sample]:
    return [
        Sample(path=f"{'ab'[k % 2]}/{k:04d}.png", target="ab"[k % 2], **fields)
        for k in range(start, start + number)
    ]


def apply(
    samples: Sequence[Sample], protocol: str, near_duplicates: Any = None, **options: Any
) -> SplitResult:
    defaults = {"fold": 0, "folds": 5, "seed": 0, "val_fraction": 0.1, "test_fraction": 0.1}
    stratify_by = [sample.target for sample in samples]
    return apply_protocol(
        samples,
        protocol=protocol,
        near_duplicates=near_duplicates,
        stratify_by=stratify_by,
        every_stratum=True,
        **{**defaults, **options},
    )


def splits(result: SplitResult) -> dict[str, str]:
    return {sample.path: sample.split for sample in result.samples}


def alone(number: int) -> list[int]:
    return list(range(number))


def u(seed: int, group: str) -> float:
    return int(hashlib.sha256(f"{seed}\0{group}".encode()).hexdigest()[:16], 16) / 2**64


def paired_groups(number: int) -> list[int]:
    """Return groups in which the k-th images of both halves are near-duplicates."""
    return [*range(number // 2), *range(number // 2)]


# Groups.


def test_a_single_image_has_no_group_and_near_duplicates_that_of_the_first() -> None:
    samples = images(5)
    joined = join_groups(samples, [7, 3, 7, 9, 7])
    assert [s.group for s in joined] == ["a/0000", "", "a/0000", "", "a/0000"]
    assert [(s.path, s.target) for s in joined] == [(s.path, s.target) for s in samples]


def test_groups_and_near_duplicates_are_joined_transitively() -> None:
    samples = [
        *images(2, group="p1"),
        *images(2, start=2, group="p2"),
        *images(2, start=4, group="p3"),
        *images(2, start=6),
    ]
    near = [0, 1, 1, 2, 3, 4, 5, 2]  # p1 and p2 by 1, and image 7 to p2 by 2
    groups = [sample.group for sample in join_groups(samples, near)]
    assert groups == ["b/0007"] * 4 + ["p3"] * 2 + ["", "b/0007"]


def test_near_duplicates_of_one_patient_keep_the_patient() -> None:
    samples = images(3, group="p1")
    assert join_groups(samples, [0, 0, 0]) == samples


def test_unknown_near_duplicates_change_no_group() -> None:
    samples = [*images(2, group="p1"), *images(2, start=2)]
    assert join_groups(samples, None) == samples
    assert join_groups([], []) == []


# Official.


def test_official_keeps_the_given_split_and_draws_val_from_whole_groups_of_train() -> None:
    given = [*images(400, split="train"), *images(50, start=400, split="test")]
    near = [*(k // 4 for k in range(400)), *range(1000, 1050)]
    result = apply(given, "official", near)
    found = splits(result)
    assert all(found[sample.path] == "test" for sample in given[400:])
    places = defaultdict(set)
    for sample, number in zip(result.samples, near, strict=True):
        places[number].add(sample.split)
    assert all(len(place) == 1 for place in places.values())
    assert {"val"} in places.values()


def test_official_without_a_given_split_is_the_draw_by_the_formula() -> None:
    result = apply(images(300), "official", alone(300), seed=3)
    for sample in result.samples:
        value = u(3, sample.path.removesuffix(".png"))
        assert sample.split == ("test" if value < 0.1 else "val" if value < 0.2 else "train")


def test_official_reports_groups_and_images_on_both_sides_and_moves_nothing() -> None:
    given = [
        *images(100, split="train"),
        *images(20, start=100, split="val"),
        *images(40, start=120, split="test"),
    ]
    near = alone(160)
    near[120] = near[121] = near[3]  # two test images, one group
    near[122] = near[100]  # val and test
    result = apply(given, "official", near)
    assert [sample.split for sample in result.samples] == [sample.split for sample in given]
    assert result.notes == [
        "LEAK: 2 groups (3 of 40 test images, 1 of 20 val images) in more than one of the"
        " given splits; nothing was moved"
    ]


def test_a_group_across_splits_gives_no_image_to_a_drawn_val() -> None:
    given = [*images(200, split="train"), *images(200, start=200, split="test")]
    near = paired_groups(400)
    near[150:200] = range(1000, 1050)  # these have no near-duplicate in test
    result = apply(given, "official", near, val_fraction=0.5)
    assert {s.split for s in result.samples[:150]} == {"train"}
    assert {s.split for s in result.samples[150:200]} == {"train", "val"}


def test_a_new_image_joins_the_kept_split_of_its_near_duplicate() -> None:
    kept = [*images(50, split="train"), *images(9, start=50, split="val")]
    kept += images(9, start=60, split="test")
    result = apply([*kept, *images(2, start=80)], "official", [*range(68), 51, 60])
    assert result.samples[-2].split == "val"
    assert result.samples[-1].split == "test"
    assert splits(result).items() >= {s.path: s.split for s in kept}.items()
    assert not any("LEAK" in note for note in result.notes)


def test_a_new_image_that_links_two_kept_groups_is_reported_and_moves_nothing() -> None:
    kept = [
        *images(50, group="p1", split="train"),
        *images(9, start=50, split="val"),
        *images(9, start=60, group="p2", split="test"),
    ]
    new = images(1, start=80, group="p1")  # the patient of train, a near-duplicate of a test image
    result = apply([*kept, *new], "official", [*range(68), 60])
    assert splits(result).items() >= {s.path: s.split for s in kept}.items()
    assert result.notes[0] == (
        "LEAK: 1 group (9 of 9 test images) in more than one of the given splits; nothing was moved"
    )


# Merged.


def test_merged_discards_splits_and_groups_and_reports_that_it_leaks() -> None:
    given = [*images(200, group="p1", split="train"), *images(200, start=200, split="test")]
    near = paired_groups(400)
    result = apply(given, "merged", near)
    for sample in result.samples:
        value = u(0, sample.path.removesuffix(".png"))
        assert sample.split == ("test" if value < 0.1 else "val" if value < 0.2 else "train")
        assert sample.group == ""
    place = [sample.split for sample in result.samples]
    torn = sum(place[k] == "test" and place[(k + 200) % 400] == "train" for k in range(400))
    assert torn > 10
    assert result.notes[0] == (
        "THE MERGED PROTOCOL LEAKS: images of one patient and near-duplicates can be in different"
        " splits;"
        f" {torn} of {place.count('test')} test images have a near-duplicate in train;"
        " data.protocol=grouped keeps them together"
    )


def test_merged_reports_unknown_near_duplicates() -> None:
    assert apply(images(100), "merged").notes[0] == (
        "THE MERGED PROTOCOL LEAKS: images of one patient and near-duplicates can be in different"
        " splits;"
        " near-duplicates were not searched; data.protocol=grouped keeps them together"
    )


# Grouped and kfold.


@pytest.mark.parametrize("protocol", ["grouped", "kfold"])
def test_no_group_is_ever_divided(protocol: str) -> None:
    given = [
        *(s for k in range(60) for s in images(3, start=3 * k, group=f"p{k}", split="train")),
        *images(220, start=180, split="test"),
    ]
    near = paired_groups(400)
    result = apply(given, protocol, near)
    by_near_duplicate, by_patient = defaultdict(set), defaultdict(set)
    for old, new, number in zip(given, result.samples, near, strict=True):
        by_near_duplicate[number].add(new.split)
        by_patient[old.group_key].add(new.split)
    assert all(len(found) == 1 for found in [*by_near_duplicate.values(), *by_patient.values()])
    assert {s.split for s in result.samples} == {"train", "val", "test"}
    assert not any("LEAK" in note for note in result.notes)


@pytest.mark.parametrize("protocol", ["grouped", "kfold"])
def test_unknown_near_duplicates_are_noted_by_the_protocols_that_use_them(protocol: str) -> None:
    note = "near-duplicates were not searched: only known groups stay together"
    assert apply(images(200), protocol).notes == [note]
    assert apply(images(200), protocol, alone(200)).notes == []


def test_every_image_is_tested_in_exactly_one_fold() -> None:
    samples, near = images(300, split="train"), paired_groups(300)
    tested: Counter[str] = Counter()
    for fold in range(4):
        result = apply(samples, "kfold", near, fold=fold, folds=4)
        for sample in result.samples:
            value = u(0, sample.group_key)
            assert (sample.split == "test") == (fold / 4 <= value < (fold + 1) / 4)
            tested[sample.path] += sample.split == "test"
    assert len(tested) == 300
    assert set(tested.values()) == {1}


@pytest.mark.parametrize("fold", range(5))
def test_val_of_a_fold_is_a_share_of_the_images_outside_test(fold: int) -> None:
    result = apply(images(5000), "kfold", alone(5000), fold=fold, val_fraction=0.2)
    counts = Counter(sample.split for sample in result.samples)
    assert counts["test"] == pytest.approx(1000, abs=100)  # 3.5 standard deviations
    assert counts["val"] == pytest.approx(0.2 * (5000 - counts["test"]), abs=90)


def test_val_fraction_zero_gives_no_val_in_any_fold() -> None:
    result = apply(images(200), "kfold", alone(200), val_fraction=0.0)
    assert {sample.split for sample in result.samples} == {"train", "test"}


# Stability and shares.


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_existing_images_keep_their_split_when_new_ones_are_added(protocol: str) -> None:
    old, near = images(300), paired_groups(300)
    before = splits(apply(old, protocol, near))
    new = [
        Sample(path="new/x.png", target="a"),
        *images(99, start=300),
    ]  # x is a near-duplicate of 5
    after = splits(apply([*old, *new], protocol, [*near, 5, *range(400, 499)]))
    assert {path: after[path] for path in before} == before
    if protocol != "merged":
        assert after["new/x.png"] == after["b/0005.png"] == after["b/0155.png"]


def test_a_new_near_duplicate_that_is_first_alphabetically_moves_at_most_its_own_group() -> None:
    old, near = images(300), paired_groups(300)
    before = splits(apply(old, "grouped", near))
    for number in range(40):
        new = Sample(path=f"a/+{number}.png", target="a")
        after = splits(apply([*old, new], "grouped", [*near, number]))
        moved = {path for path in before if before[path] != after[path]}
        assert moved <= {old[number].path, old[number + 150].path}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_order_and_numbering_of_near_duplicates_do_not_matter(protocol: str) -> None:
    samples, near = images(200), np.array(paired_groups(200))
    before = splits(apply(samples, protocol, near))
    after = splits(apply(samples[::-1], protocol, 1000 - near[::-1]))
    assert after == before


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_classes_that_a_split_lacks_are_noted(protocol: str) -> None:
    given = images(400)
    given[7] = Sample(path="rare/x.png", target="rare")
    notes = apply(given, protocol, alone(400)).notes
    assert any("contains no rare" in note for note in notes)


# Errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"protocol": "group"},
            "unknown protocol group (data.protocol); did you mean grouped?",
        ),
        (
            {"protocol": "xyz"},
            "unknown protocol xyz (data.protocol); use official, merged, grouped, kfold",
        ),
        (
            {"protocol": "kfold", "folds": 1},
            "expected at least 2 folds, got 1 (data.folds); the default is 5",
        ),
        (
            {"protocol": "kfold", "fold": 5},
            "expected a fold from 0 to 4, got 5 (data.fold); data.folds is 5",
        ),
        (
            {"protocol": "kfold", "fold": -1},
            "expected a fold from 0 to 4, got -1 (data.fold); data.folds is 5",
        ),
        (
            {"protocol": "kfold", "folds": 10_000},
            "fold 0 of 10000 contains 0 of 40 groups (data.folds);"
            " use fewer folds, another draw with data.split_seed=1, or more images",
        ),
    ],
)
def test_errors_name_their_config_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MedvisionError, match=f"^{re.escape(message)}$"):
        apply(images(40), near_duplicates=alone(40), **options)


def test_near_duplicates_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 5 groups, got 2"):
        apply(images(5), "grouped", [0, 1])
