from collections.abc import Callable
from pathlib import Path
from shutil import copyfile, copytree

import cv2
import numpy as np
import pytest

from medvision.audit.dataset import scan
from medvision.data.discovery.keys import FolderKeys
from medvision.errors import MedvisionError

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))


def test_images_with_masks_are_a_segmentation_set(make_folder: MakeFolder) -> None:
    data = scan(make_folder(5))
    assert (data.task, len(data), data.name) == ("segmentation", 5, "set")
    assert data.properties.mask is not None
    assert data.class_names == ()
    assert data.splits.tolist() == [""] * 5
    assert data.notes == data.faults == ()


def test_class_folders_in_splits_are_a_classification_set(make_class_folder: MakeFolder) -> None:
    root = make_class_folder({"Training/b": 3, "Training/A": 2, "Testing/b": 1, "Testing/A": 1})
    data = scan(root)
    assert (data.task, data.class_names) == ("classification", ("A", "b"))
    assert sorted(data.splits.tolist()) == ["test"] * 2 + ["train"] * 5
    assert all(data.file(row).is_file() for row in range(len(data)))


def test_a_csv_decides_by_its_targets(make_folder: MakeFolder) -> None:
    root = make_folder(4)
    lines = [f"train,images/case_{k:02d}.png,{'ab'[k % 2]}" for k in range(4)]
    (root / "splits.csv").write_text("\n".join(["split,path,target", *lines]))
    assert scan(root).task == "classification"
    lines = [f"train,images/case_{k:02d}.png,masks/case_{k:02d}.png" for k in range(4)]
    (root / "splits.csv").write_text("\n".join(["split,path,target", *lines]))
    assert scan(root).task == "segmentation"


def test_an_ambiguous_folder_is_read_with_a_note(
    make_folder: MakeFolder, make_class_folder: MakeFolder
) -> None:
    root = make_folder(3)
    make_class_folder({"set/cat": 2, "set/dog": 2}, name=".")
    data = scan(root)
    assert (data.task, len(data)) == ("segmentation", 3)
    assert data.notes[0] == "read as images with masks; ignored beside them: cat, dog"


def test_near_duplicates_and_equal_pixels_are_found(make_class_folder: MakeFolder) -> None:
    root = make_class_folder({"a": 3, "b": 3}, size_px=(96, 96))
    copyfile(root / "a/case_00.png", root / "b/copy.png")
    image = cv2.imread(str(root / "a/case_01.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(root / "b/again.bmp"), image)
    data = scan(root)
    rows = {data.shown(row): row for row in range(len(data))}
    for one, other in (("a/case_00.png", "b/copy.png"), ("a/case_01.png", "b/again.bmp")):
        groups, hashes = data.near_duplicates.groups, data.properties.pixel_hash
        assert groups[rows[one]] == groups[rows[other]]
        assert hashes[rows[one]] == hashes[rows[other]]


def test_two_folders_are_train_and_test_regardless_of_their_own_splits(
    make_class_folder: MakeFolder,
) -> None:
    one = make_class_folder({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1}, name="one")
    other = make_class_folder({"a": 2, "c": 1}, name="other")
    calls: list[tuple[int, int]] = []
    data = scan(one, against=other, advance=lambda done, total: calls.append((done, total)))
    assert data.name == "one against other"
    assert data.splits.tolist() == ["train"] * 6 + ["test"] * 3
    assert data.origin.tolist() == [0] * 6 + [1] * 3
    assert data.class_names == ("a", "b", "c")
    assert data.shown(8) == "other/c/case_00.png"
    assert data.file(8) == other / "c/case_00.png"
    assert calls[-1] == (9, 9)


def test_the_source_of_groups_is_recorded(make_class_folder: MakeFolder) -> None:
    root = make_class_folder({"a": 2, "b": 2})
    assert scan(root).grouping == ()
    assert scan(root, group_pattern=r"case_(\d+)").grouping == ("data.group_pattern",)
    lines = [f"{name}/case_{k:02d}.png,{name},p{k}" for name in "ab" for k in range(2)]
    (root / "splits.csv").write_text("\n".join(["path,target,patient_id", *lines]))
    assert scan(root).grouping == ("splits.csv",)
    partly = scan(root, group_pattern=r"a/case_(\d+)").grouping
    assert partly == ("data.group_pattern", "splits.csv")


def test_groups_come_from_the_pattern(make_class_folder: MakeFolder) -> None:
    data = scan(make_class_folder({"a": 3, "b": 3}), group_pattern=r"case_(\d+)")
    assert {sample.group for sample in data.samples} == {"00", "01", "02"}


def test_unreadable_files_and_images_without_a_mask_are_faults(make_folder: MakeFolder) -> None:
    root = make_folder(6)
    (root / "images/case_01.png").write_bytes(b"no picture")
    cv2.imwrite(str(root / "masks/case_02.png"), np.zeros((9, 9), np.uint8))
    (root / "masks/case_03.png").unlink()
    data = scan(root)
    assert len(data) == 3
    faults = dict(data.faults)
    assert faults["images/case_01.png"] == "not an image in a supported format: the file is text"
    assert faults["images/case_03.png"] == "it has no mask of its own"
    assert any("the mask is 9 x 9 pixels" in reason for reason in faults.values())


def test_images_outside_class_folders_are_a_fault(make_class_folder: MakeFolder) -> None:
    root = make_class_folder({"a": 3, "b": 3})
    copyfile(root / "a/case_00.png", root / "stray.png")
    data = scan(root)
    assert len(data) == 6
    assert data.faults == (("set", "1 image outside the class folders: stray.png"),)


def test_classes_missing_in_train_do_not_stop_the_scan(make_class_folder: MakeFolder) -> None:
    root = make_class_folder({"train/a": 2, "train/b": 2, "test/a": 2, "test/c": 2})
    data = scan(root)
    assert data.class_names == ("a", "b", "c")
    assert data.faults == (("test/c", "test has the class c, but train does not"),)


def test_masks_of_more_classes_are_read_as_such(make_folder: MakeFolder) -> None:
    root = make_folder(3)
    for path in (root / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), np.where(mask > 0, 2, 0).astype(np.uint8))
    data = scan(root, num_classes=3)
    assert data.num_classes == 3
    assert data.properties.mask is not None
    assert (data.properties.mask.foreground > 0).all()
    with pytest.raises(MedvisionError, match="a mask of two classes contains the values 0, 2"):
        scan(root)


def test_a_mask_suffix_is_used(make_folder: MakeFolder) -> None:
    root = make_folder(3)
    for path in list((root / "masks").iterdir()):
        path.rename(path.with_stem(f"{path.stem}_seg"))
    assert len(scan(root, keys=FolderKeys(mask_suffix="_seg"))) == 3
    found = scan(root)
    assert len(found) == 3
    assert found.indices[0].pairing == "the mask of an image has its stem and seg"


def test_a_folder_of_another_layout_is_a_one_line_error(
    tmp_path: Path, make_folder: MakeFolder
) -> None:
    with pytest.raises(MedvisionError, match="the data folder does not exist"):
        scan(tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MedvisionError, match="expected images with masks, or at least two"):
        scan(empty)
    root = make_folder(2, name="outer/inner")
    assert len(scan(root.parent)) == 2
    copytree(root / "images", empty / "images")
    with pytest.raises(MedvisionError, match="expected a masks folder beside the images folder"):
        scan(empty)


def test_folders_of_different_tasks_or_nested_folders_are_refused(
    make_folder: MakeFolder, make_class_folder: MakeFolder
) -> None:
    masks, classes = make_folder(2), make_class_folder({"a": 2, "b": 2}, name="classes")
    with pytest.raises(MedvisionError, match="expected a segmentation set, got a classification"):
        scan(masks, against=classes)
    with pytest.raises(MedvisionError, match="the two folders share files"):
        scan(classes, against=classes / "a")
