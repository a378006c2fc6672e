from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from medvision.audit.dataset import AuditedSet
from medvision.audit.groups import (
    group_findings,
    group_numbers,
    sequence_findings,
    ungrouped_findings,
)

MakeSet = Callable[..., AuditedSet]
PATHS = ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"]


def test_groups_in_two_splits_are_a_leak_with_counts_by_hand(make_set: MakeSet) -> None:
    data = make_set(
        PATHS,
        splits=["train", "train", "val", "test", "test", "test"],
        groups=["anna", "bert", "bert", "anna", "anna", "cleo"],
    )
    (leak,) = group_findings(data)
    assert leak.kind == "groups_across_splits"
    assert leak.severity == "leak"
    assert leak.spoils
    assert leak.text == (
        "2 of 3 groups (patients, videos) are in more than one split,"
        " with 2 of 3 test images and 1 of 1 val images"
    )
    assert leak.count == 3
    assert leak.files == ("d.png", "e.png", "c.png")  # those of test first


def test_numbers_of_groups_by_hand_also_between_val_and_test(make_set: MakeSet) -> None:
    splits = ["train", "test", "val", "test", "test", ""]
    data = make_set(PATHS, splits=splits, groups=["a", "a", "b", "b", "c", "c"])
    assert group_numbers(data) == {
        "groups": 3,
        "images": 6,
        "groups_across_splits": 2,
        "test_images_in_train": 1,
        "val_images_in_train": 0,
        "test_images_in_val": 1,
    }
    assert group_numbers(make_set(PATHS, splits=splits)) is None


def test_the_finding_contains_no_group_name(make_set: MakeSet) -> None:
    groups = ["anna", "bert", "anna", "bert", "anna", "bert"]
    splits = ["train", "train", "val", "test", "test", "val"]
    (leak,) = group_findings(make_set(PATHS, splits=splits, groups=groups))
    assert not {"anna", "bert"} & set(str(leak.to_dict()).replace("'", " ").split())


def test_groups_within_one_split_give_no_finding(make_set: MakeSet) -> None:
    splits = ["train", "train", "val", "val", "test", "test"]
    assert group_findings(make_set(PATHS, splits=splits, groups=list("aabbcc"))) == []


def test_images_without_group_or_split_are_ignored(make_set: MakeSet) -> None:
    splits = ["train", "test", "train", "", "", "test"]
    assert group_findings(make_set(PATHS, splits=splits, groups=["", "", "a", "a", "", "b"])) == []
    assert group_findings(make_set(PATHS)) == []


def test_val_and_test_must_not_share_a_group_either(make_set: MakeSet) -> None:
    splits = ["train", "train", "train", "train", "val", "test"]
    (leak,) = group_findings(make_set(PATHS, splits=splits, groups=list("abcdee")))
    assert leak.text.startswith("1 of 5 groups (patients, videos) is in more than one split")


def test_the_advice_fits_the_task(make_set: MakeSet) -> None:
    splits, groups = ["train"] * 3 + ["test"] * 3, list("abcabc")
    classes = make_set(PATHS, targets=list("xyxyxy"), splits=splits, groups=groups)
    masks = make_set(PATHS, splits=splits, groups=groups)
    assert "data.protocol=grouped" in group_findings(classes)[0].advice
    assert "data.protocol" not in group_findings(masks)[0].advice


def frames(number: int, *, moving: bool) -> np.ndarray:
    """Frames of a camera that moves over a scene, or as many unrelated scenes."""
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.normal(0, 1, (48, 48 + 4 * number)), (0, 0), 4)
    step = 2 if moving else 0
    scenes = [
        wide[:, step * k : step * k + 48]
        if moving
        else cv2.GaussianBlur(rng.normal(0, 1, (48, 48)), (0, 0), 4)
        for k in range(number)
    ]
    return np.stack([cv2.normalize(s, None, 0, 255, cv2.NORM_MINMAX) for s in scenes])


def test_frames_of_a_video_are_reported_with_both_numbers(make_set: MakeSet) -> None:
    (finding,) = sequence_findings(make_set(100, thumbnail=frames(100, moving=True)))
    assert (finding.kind, finding.severity) == ("sequences", "warning")
    assert "for 100 % of the images, by chance for 2.0 %" in finding.text
    assert "data.group_pattern" in finding.advice


def test_unrelated_pictures_and_shuffled_frames_are_no_video(make_set: MakeSet) -> None:
    assert sequence_findings(make_set(100, thumbnail=frames(100, moving=False))) == []
    shuffled = frames(100, moving=True)[np.random.default_rng(1).permutation(100)]
    assert sequence_findings(make_set(100, thumbnail=shuffled)) == []


def test_a_video_with_known_groups_is_a_note(make_set: MakeSet) -> None:
    data = make_set(100, thumbnail=frames(100, moving=True), groups=["a"] * 50 + ["b"] * 50)
    (finding,) = sequence_findings(data)
    assert (finding.severity, finding.advice) == ("note", "")


def test_images_without_group_among_grouped_ones_are_a_warning(make_set: MakeSet) -> None:
    data = make_set(PATHS, groups=["anna", "", "bert", "anna", "anna", ""])
    (finding,) = ungrouped_findings(replace(data, grouping=("labels.csv",)))
    assert (finding.kind, finding.severity) == ("images_without_group", "warning")
    assert finding.text == (
        "2 of 6 images have no group (patient, video) in labels.csv; the others are in 2 groups"
    )
    assert finding.files == ("b.png", "f.png")
    assert "may share a patient with images of another split" in finding.advice
    for source in ("data.group_pattern", "DICOM headers"):  # the notes of the reading report them
        assert ungrouped_findings(replace(data, grouping=(source,))) == []


def test_sets_with_all_or_no_groups_are_not_reported(make_set: MakeSet) -> None:
    assert ungrouped_findings(make_set(PATHS)) == []
    assert ungrouped_findings(make_set(PATHS, groups="anna")) == []
