import hashlib
import re
from collections import Counter, defaultdict

import pytest

from medvision.data.samples import Sample
from medvision.data.splits.assign import draw_split, foreground_strata
from medvision.errors import MedvisionError


def images(number: int, *, start: int = 0, **fields: str) -> list[Sample]:
    return [
        Sample(path=f"images/{k}.png", target=f"masks/{k}.png", **fields)
        for k in range(start, start + number)
    ]


def splits(samples: list[Sample]) -> dict[str, str]:
    return {sample.path: sample.split for sample in samples}


def by_the_formula(seed: int, group: str, val: float, test: float) -> str:
    u = int(hashlib.sha256(f"{seed}\0{group}".encode()).hexdigest()[:16], 16) / 2**64
    return "test" if u < test else "val" if u < test + val else "train"


@pytest.mark.parametrize("seed", [0, 7])
def test_each_sample_has_the_split_given_by_the_formula(seed: int) -> None:
    drawn = draw_split(images(200), seed=seed, val_fraction=0.2, test_fraction=0.3).samples
    for sample in drawn:
        assert sample.split == by_the_formula(seed, sample.path[: -len(".png")], 0.2, 0.3)


def test_only_split_and_order_change() -> None:
    samples = images(50, group="")[::-1]
    drawn = draw_split(samples, seed=0).samples
    assert [(s.path, s.target, s.group) for s in drawn] == [
        (s.path, s.target, s.group) for s in samples
    ]


def test_shares_match_the_requested_fractions() -> None:
    counts = Counter(s.split for s in draw_split(images(5000), seed=1).samples)
    assert counts["val"] == pytest.approx(500, abs=75)  # 3.5 standard deviations
    assert counts["test"] == pytest.approx(500, abs=75)


def test_a_drawn_split_of_less_than_half_its_size_is_noted() -> None:
    noted = 0
    for seed in range(40):
        drawn = draw_split(images(40), seed=seed)
        counts = Counter(sample.split for sample in drawn.samples)
        for split in ("val", "test"):
            note = (
                f"the draw gave {split} {counts[split]} of 40 images, about 4 were expected;"
                " another data.split_seed draws again"
            )
            assert (note in drawn.notes) == (counts[split] < 2)
            noted += note in drawn.notes
    assert 0 < noted < 40
    small = [note for seed in range(40) for note in draw_split(images(20), seed=seed).notes]
    assert not [note for note in small if "the draw gave" in note]  # any number is usual


def test_another_seed_draws_another_split() -> None:
    assert splits(draw_split(images(100), seed=0).samples) != splits(
        draw_split(images(100), seed=1).samples
    )


def test_existing_files_keep_their_split_when_new_ones_are_added() -> None:
    old = splits(draw_split(images(300), seed=0).samples)
    new = splits(draw_split(images(400), seed=0).samples)
    assert {path: new[path] for path in old} == old


def test_samples_of_a_kept_split_are_not_moved_by_added_files() -> None:
    kept = draw_split(images(4), seed=0).samples  # so small that a split must be filled
    added = images(300, start=4)
    drawn = draw_split([*kept, *added], seed=0)
    assert drawn.samples[:4] == kept
    assert {s.split for s in drawn.samples[4:]} == {"train", "val", "test"}


def test_groups_stay_whole() -> None:
    samples = [s for k in range(100) for s in images(5, start=5 * k, group=f"patient{k}")]
    places = defaultdict(set)
    for sample in draw_split(samples, seed=0).samples:
        places[sample.group].add(sample.split)
    assert all(len(found) == 1 for found in places.values())
    assert set.union(*places.values()) == {"train", "val", "test"}


def test_new_samples_join_the_given_split_of_their_group() -> None:
    given = [
        *images(20, split="train"),
        *images(1, start=20, group="a", split="val"),
        *images(1, start=21, group="b", split="test"),
    ]
    new = [*images(9, start=30, group="a"), *images(9, start=40, group="b")]
    drawn = draw_split([*given, *new], seed=0).samples
    assert [s.split for s in drawn[-18:]] == ["val"] * 9 + ["test"] * 9


def test_a_complete_given_split_is_unchanged() -> None:
    given = [
        *images(5, split="train"),
        *images(1, start=5, split="val"),
        *images(90, start=10, split="test"),
    ]
    result = draw_split(given, seed=0)
    assert result.samples == given
    assert result.notes == []


def test_groups_across_given_splits_are_reported_and_not_moved() -> None:
    given = [
        *images(5, group="patient7", split="train"),
        *images(5, start=5, group="patient7", split="test"),
        *images(5, start=10, split="val"),
    ]
    result = draw_split(given, seed=0)
    assert result.samples == given
    assert result.notes[0] == (
        "LEAK: 1 group (5 of 5 test images) in more than one of the given splits; nothing was moved"
    )
    assert not any("patient7" in note for note in result.notes)  # notes reach the run folder


@pytest.mark.parametrize(("missing", "present"), [("val", "test"), ("test", "val")])
def test_a_missing_split_is_drawn_from_train(missing: str, present: str) -> None:
    given = [*images(1000, split="train"), *images(100, start=1000, split=present)]
    drawn = draw_split(given, seed=0).samples
    counts = Counter(s.split for s in drawn[:1000])
    assert counts[missing] == pytest.approx(100, abs=33)
    assert set(counts) == {"train", missing}
    assert drawn[1000:] == given[1000:]


def test_val_and_test_are_drawn_if_only_train_is_given() -> None:
    drawn = draw_split(images(300, split="train"), seed=0).samples
    assert splits(drawn) == splits(draw_split(images(300), seed=0).samples)


@pytest.mark.parametrize("seed", range(12))
def test_drawing_from_train_leaves_something_in_train(seed: int) -> None:
    given = [*images(2, split="train"), *images(5, start=5, split="test")]
    drawn = draw_split(given, seed=seed, val_fraction=0.8).samples
    assert {s.split for s in drawn[:2]} == {"train", "val"}


def test_a_missing_split_takes_whole_groups_of_train() -> None:
    given = [
        *(s for k in range(40) for s in images(3, start=3 * k, group=f"g{k}", split="train")),
        *images(10, start=500, split="test"),
    ]
    places = defaultdict(set)
    for sample in draw_split(given, seed=0).samples[:120]:
        places[sample.group].add(sample.split)
    assert all(len(found) == 1 for found in places.values())
    assert {"val"} in places.values()


def test_a_given_split_without_train_is_refused() -> None:
    given = [*images(5, split="val"), *images(5, start=5, split="test")]
    with pytest.raises(
        MedvisionError, match="the given split has only test, val, train is missing"
    ):
        draw_split(given, seed=0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number", [3, 4, 6])
def test_every_requested_split_of_a_small_set_is_filled_with_a_note(seed: int, number: int) -> None:
    result = draw_split(images(number), seed=seed)
    found = Counter(s.split for s in result.samples)
    assert set(found) == {"train", "val", "test"}
    moved = sum(
        s.split != by_the_formula(seed, s.path[: -len(".png")], 0.1, 0.1) for s in result.samples
    )
    assert moved == len([note for note in result.notes if "data.splits=" in note])


def test_the_group_moved_into_an_empty_split_is_the_nearest() -> None:
    samples = images(5)
    result = draw_split(samples, seed=0, val_fraction=0, test_fraction=0.01)
    key = {s.path: hashlib.sha256(f"0\0{s.path[:-4]}".encode()).hexdigest() for s in samples}
    assert [s.path for s in result.samples if s.split == "test"] == [min(key, key=key.__getitem__)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_fewer_groups_than_splits_are_refused(number: int) -> None:
    message = f"too few groups for a split: {number}.*data.val_fraction, data.test_fraction"
    with pytest.raises(MedvisionError, match=message):
        draw_split(images(number), seed=0)


def test_many_images_of_two_groups_are_still_two_groups() -> None:
    samples = [*images(50, group="a"), *images(50, start=50, group="b")]
    with pytest.raises(MedvisionError, match="too few groups for a split: 2,"):
        draw_split(samples, seed=0)


def test_fraction_zero_gives_no_split() -> None:
    result = draw_split(images(2), seed=0, test_fraction=0)
    assert sorted(s.split for s in result.samples) == ["train", "val"]
    alone = draw_split(images(1), seed=0, val_fraction=0, test_fraction=0)
    assert (alone.samples[0].split, alone.notes) == ("train", [])


@pytest.mark.parametrize(
    ("val", "test"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (1, 0), (float("nan"), 0.1)]
)
def test_impossible_fractions_are_refused(val: float, test: float) -> None:
    with pytest.raises(
        MedvisionError, match=re.escape(f"got val {val} and test {test} (data.val_")
    ):
        draw_split(images(10), seed=0, val_fraction=val, test_fraction=test)


def test_a_stratum_missing_from_a_split_is_noted() -> None:
    given = [
        *images(10, split="train"),
        *images(5, start=10, split="val"),
        *images(5, start=15, split="test"),
    ]
    stratify_by = ["glioma", "none"] * 5 + ["none"] * 5 + ["glioma", "none"] * 2 + ["none"]
    notes = draw_split(given, seed=0, stratify_by=stratify_by).notes
    assert notes == ["val (5 images) contains no glioma"]


def test_a_share_off_by_more_than_two_is_noted_if_enough_samples_are_expected() -> None:
    given = [*images(80, split="train"), *images(20, start=80, split="val")]
    stratify_by = ["a"] * 79 + ["b"] + ["a"] * 1 + ["b"] * 19  # b: 20 %, of val 95 %; a: 80 %, 5 %
    notes = draw_split(given, seed=0, test_fraction=0, stratify_by=stratify_by).notes
    assert notes == ["val has 1 a of 20 images, expected 16 from the whole set"]


def test_equal_shares_are_not_noted() -> None:
    stratify_by = ["a", "b"] * 500
    assert draw_split(images(1000), seed=0, stratify_by=stratify_by).notes == []


def test_strata_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 5 strata, got 2"):
        draw_split(images(5), seed=0, stratify_by=["a", "b"])


def test_foreground_strata_are_empty_and_thirds() -> None:
    shares = [0.0, 0.3, 0.01, 0.02, 0.0, 0.1, 0.2, 0.9]
    expected = ["empty", "large", "small", "small", "empty", "medium", "medium", "large"]
    assert foreground_strata(shares) == expected


@pytest.mark.parametrize("shares", [[], [0.0, 0.0]])
def test_foreground_strata_of_nothing_are_empty(shares: list[float]) -> None:
    assert foreground_strata(shares) == ["empty"] * len(shares)


def test_a_class_missing_by_chance_in_a_split_gets_its_nearest_group_on_request() -> None:
    for seed in range(20):
        samples = [Sample(path=f"{c}/{i}.png", target=c) for c in ("a", "b") for i in range(8)]
        stratify_by = [sample.target for sample in samples]
        plain = draw_split(samples, seed=seed, stratify_by=stratify_by)
        filled = draw_split(samples, seed=seed, stratify_by=stratify_by, every_stratum=True)
        held = {(s.split, s.target) for s in filled.samples}
        assert held == {(split, c) for split in ("train", "val", "test") for c in ("a", "b")}
        moved = [
            new
            for old, new in zip(plain.samples, filled.samples, strict=True)
            if old.split != new.split
        ]
        noted = [note for note in filled.notes if "would have held no image of " in note]
        assert len(moved) == len(noted)
        assert {s.split for s in moved} <= {"val", "test"}
