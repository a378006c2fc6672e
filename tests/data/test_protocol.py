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
    samples: Sequence[Sample], protocol: str, twins: Any = None, **options: Any
) -> SplitResult:
    defaults = {"fold": 0, "folds": 5, "seed": 0, "val_fraction": 0.1, "test_fraction": 0.1}
    stratify_by = [sample.target for sample in samples]
    return apply_protocol(
        samples,
        protocol=protocol,
        near_duplicates=twins,
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


def pairs_of_twins(number: int) -> list[int]:
    """The k-th image of the first half is the twin of the k-th of the second half."""
    return [*range(number // 2), *range(number // 2)]


# Groups.


def test_an_image_alone_has_no_group_and_twins_that_of_the_first() -> None:
    samples = images(5)
    joined = join_groups(samples, [7, 3, 7, 9, 7])
    assert [s.group for s in joined] == ["a/0000", "", "a/0000", "", "a/0000"]
    assert [(s.path, s.target) for s in joined] == [(s.path, s.target) for s in samples]


def test_groups_and_twins_join_across_each_other() -> None:
    samples = [
        *images(2, group="p1"),
        *images(2, start=2, group="p2"),
        *images(2, start=4, group="p3"),
        *images(2, start=6),
    ]
    twins = [0, 1, 1, 2, 3, 4, 5, 2]  # p1 and p2 by 1, and image 7 to p2 by 2
    groups = [sample.group for sample in join_groups(samples, twins)]
    assert groups == ["b/0007"] * 4 + ["p3"] * 2 + ["", "b/0007"]


def test_twins_of_one_patient_keep_the_patient() -> None:
    samples = images(3, group="p1")
    assert join_groups(samples, [0, 0, 0]) == samples


def test_unknown_twins_change_no_group() -> None:
    samples = [*images(2, group="p1"), *images(2, start=2)]
    assert join_groups(samples, None) == samples
    assert join_groups([], []) == []


# Official.


def test_official_keeps_the_given_split_and_draws_val_from_whole_groups_of_train() -> None:
    given = [*images(400, split="train"), *images(50, start=400, split="test")]
    twins = [*(k // 4 for k in range(400)), *range(1000, 1050)]
    result = apply(given, "official", twins)
    found = splits(result)
    assert all(found[sample.path] == "test" for sample in given[400:])
    places = defaultdict(set)
    for sample, twin in zip(result.samples, twins, strict=True):
        places[twin].add(sample.split)
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
    twins = alone(160)
    twins[120] = twins[121] = twins[3]  # two test images, one group
    twins[122] = twins[100]  # val and test
    result = apply(given, "official", twins)
    assert [sample.split for sample in result.samples] == [sample.split for sample in given]
    assert result.notes == [
        "LEAK: 2 groups (3 of 40 test images, 1 of 20 val images) lie in more than one of the"
        " given splits; nothing was moved"
    ]


def test_a_torn_group_gives_no_image_to_a_drawn_val() -> None:
    given = [*images(200, split="train"), *images(200, start=200, split="test")]
    twins = pairs_of_twins(400)
    twins[150:200] = range(1000, 1050)  # these have no twin in test
    result = apply(given, "official", twins, val_fraction=0.5)
    assert {s.split for s in result.samples[:150]} == {"train"}
    assert {s.split for s in result.samples[150:200]} == {"train", "val"}


def test_a_new_image_joins_the_kept_split_of_its_twin() -> None:
    kept = [*images(50, split="train"), *images(9, start=50, split="val")]
    kept += images(9, start=60, split="test")
    result = apply([*kept, *images(2, start=80)], "official", [*range(68), 51, 60])
    assert result.samples[-2].split == "val"
    assert result.samples[-1].split == "test"
    assert splits(result).items() >= {s.path: s.split for s in kept}.items()
    assert not any("LEAK" in note for note in result.notes)


def test_a_new_image_that_ties_two_kept_groups_is_reported_and_moves_nothing() -> None:
    kept = [
        *images(50, group="p1", split="train"),
        *images(9, start=50, split="val"),
        *images(9, start=60, group="p2", split="test"),
    ]
    new = images(1, start=80, group="p1")  # the patient of train, the twin of a test image
    result = apply([*kept, *new], "official", [*range(68), 60])
    assert splits(result).items() >= {s.path: s.split for s in kept}.items()
    assert result.notes[0] == (
        "LEAK: 1 groups (9 of 9 test images) lie in more than one of the given splits;"
        " nothing was moved"
    )


# Merged.


def test_merged_drops_splits_and_groups_and_says_that_it_leaks() -> None:
    given = [*images(200, group="p1", split="train"), *images(200, start=200, split="test")]
    twins = pairs_of_twins(400)
    result = apply(given, "merged", twins)
    for sample in result.samples:
        value = u(0, sample.path.removesuffix(".png"))
        assert sample.split == ("test" if value < 0.1 else "val" if value < 0.2 else "train")
        assert sample.group == ""
    place = [sample.split for sample in result.samples]
    torn = sum(place[k] == "test" and place[(k + 200) % 400] == "train" for k in range(400))
    assert torn > 10
    assert result.notes[0] == (
        "THE MERGED PROTOCOL LEAKS: it splits patients and near-duplicates apart;"
        f" {torn} of {place.count('test')} test images have a near-duplicate in train;"
        " data.protocol=grouped keeps them together"
    )


def test_merged_says_where_near_duplicates_are_unknown() -> None:
    assert apply(images(100), "merged").notes[0] == (
        "THE MERGED PROTOCOL LEAKS: it splits patients and near-duplicates apart;"
        " near-duplicates were not looked for; data.protocol=grouped keeps them together"
    )


# Grouped and kfold.


@pytest.mark.parametrize("protocol", ["grouped", "kfold"])
def test_no_group_is_ever_torn(protocol: str) -> None:
    given = [
        *(s for k in range(60) for s in images(3, start=3 * k, group=f"p{k}", split="train")),
        *images(220, start=180, split="test"),
    ]
    twins = pairs_of_twins(400)
    result = apply(given, protocol, twins)
    by_twin, by_patient = defaultdict(set), defaultdict(set)
    for old, new, twin in zip(given, result.samples, twins, strict=True):
        by_twin[twin].add(new.split)
        by_patient[old.group_key].add(new.split)
    assert all(len(found) == 1 for found in [*by_twin.values(), *by_patient.values()])
    assert {s.split for s in result.samples} == {"train", "val", "test"}
    assert not any("LEAK" in note for note in result.notes)


@pytest.mark.parametrize("protocol", ["grouped", "kfold"])
def test_unknown_twins_are_noted_where_they_matter(protocol: str) -> None:
    note = "near-duplicates were not looked for: only known groups stay together"
    assert apply(images(200), protocol).notes == [note]
    assert apply(images(200), protocol, alone(200)).notes == []


def test_every_image_is_tested_in_exactly_one_fold() -> None:
    samples, twins = images(300, split="train"), pairs_of_twins(300)
    tested: Counter[str] = Counter()
    for fold in range(4):
        result = apply(samples, "kfold", twins, fold=fold, folds=4)
        for sample in result.samples:
            value = u(0, sample.group_key)
            assert (sample.split == "test") == (fold / 4 <= value < (fold + 1) / 4)
            tested[sample.path] += sample.split == "test"
    assert len(tested) == 300
    assert set(tested.values()) == {1}


@pytest.mark.parametrize("fold", range(5))
def test_val_of_a_fold_is_a_share_of_what_is_not_test(fold: int) -> None:
    result = apply(images(5000), "kfold", alone(5000), fold=fold, val_fraction=0.2)
    counts = Counter(sample.split for sample in result.samples)
    assert counts["test"] == pytest.approx(1000, abs=100)  # 3.5 standard deviations
    assert counts["val"] == pytest.approx(0.2 * (5000 - counts["test"]), abs=90)


def test_val_fraction_zero_wants_no_val_in_any_fold() -> None:
    result = apply(images(200), "kfold", alone(200), val_fraction=0.0)
    assert {sample.split for sample in result.samples} == {"train", "test"}


# Stability and shares.


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_images_added_later_move_none_of_the_old_ones(protocol: str) -> None:
    old, twins = images(300), pairs_of_twins(300)
    before = splits(apply(old, protocol, twins))
    new = [Sample(path="new/x.png", target="a"), *images(99, start=300)]  # x is a twin of 5
    after = splits(apply([*old, *new], protocol, [*twins, 5, *range(400, 499)]))
    assert {path: after[path] for path in before} == before
    if protocol != "merged":
        assert after["new/x.png"] == after["b/0005.png"] == after["b/0155.png"]


def test_a_new_twin_that_comes_first_in_the_alphabet_moves_its_own_group_at_most() -> None:
    old, twins = images(300), pairs_of_twins(300)
    before = splits(apply(old, "grouped", twins))
    for twin in range(40):
        new = Sample(path=f"a/+{twin}.png", target="a")
        after = splits(apply([*old, new], "grouped", [*twins, twin]))
        moved = {path for path in before if before[path] != after[path]}
        assert moved <= {old[twin].path, old[twin + 150].path}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_neither_the_order_nor_the_numbers_of_twins_count(protocol: str) -> None:
    samples, twins = images(200), np.array(pairs_of_twins(200))
    before = splits(apply(samples, protocol, twins))
    after = splits(apply(samples[::-1], protocol, 1000 - twins[::-1]))
    assert after == before


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_classes_that_a_split_lacks_are_noted(protocol: str) -> None:
    given = images(400)
    given[7] = Sample(path="rare/x.png", target="rare")
    notes = apply(given, protocol, alone(400)).notes
    assert any("holds no rare" in note for note in notes)


# Mistakes.


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
            "expected at least 2 folds, got 1 (data.folds); 5 is usual",
        ),
        (
            {"protocol": "kfold", "fold": 5},
            "there is no fold 5 of 5 (data.fold); folds are counted from 0 to 4",
        ),
        (
            {"protocol": "kfold", "fold": -1},
            "there is no fold -1 of 5 (data.fold); folds are counted from 0 to 4",
        ),
        (
            {"protocol": "kfold", "folds": 10_000},
            "fold 0 of 10000 holds 0 of 40 groups (data.folds);"
            " use fewer folds, another seed or more images",
        ),
    ],
)
def test_mistakes_name_their_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MedvisionError, match=f"^{re.escape(message)}$"):
        apply(images(40), twins=alone(40), **options)


def test_twins_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 5 groups, got 2"):
        apply(images(5), "grouped", [0, 1])
