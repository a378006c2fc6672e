from collections.abc import Iterable
from pathlib import Path

import pytest

from layouts import LAYOUTS
from medvision.data.discovery.index import choose_task, index_segmentation
from medvision.data.discovery.keys import FolderKeys
from medvision.data.discovery.splits_csv import read_splits, write_splits
from medvision.data.samples import Sample
from medvision.errors import MedvisionError

KVASIR = Path(__file__).parents[2].parent / "shared/data/kvasir_seg"


def make(root: Path, *names: str) -> Path:
    """Create empty files: an index only uses names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def pairs(root: Path, *stems: str, under: str = "") -> Path:
    return make(
        root,
        *(f"{under}images/{stem}.jpg" for stem in stems),
        *(f"{under}masks/{stem}.png" for stem in stems),
    )


def paths(samples: list[Sample]) -> list[str]:
    return [sample.path for sample in samples]


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_images_and_masks_are_paired_by_stem_and_sorted_by_path(tmp_path: Path) -> None:
    index = index_segmentation(pairs(tmp_path, "b", "a", "C"))
    assert index.samples == [
        Sample(path=f"images/{stem}.jpg", target=f"masks/{stem}.png") for stem in ("C", "a", "b")
    ]
    assert index.notes == []


def test_sub_folders_upper_case_and_accents_match(tmp_path: Path) -> None:
    make(tmp_path, "Images/p1/X.JPG", "Masks/p1/X.Png", "Images/p2/X.TIFF", "Masks/p2/X.bmp")
    make(tmp_path, "Images/a\u0308 b.png", "Masks/\u00e4 b.png")  # two encodings of one name
    found = [(s.path, s.target) for s in index_segmentation(tmp_path).samples]
    assert found == [
        ("Images/a\u0308 b.png", "Masks/\u00e4 b.png"),
        ("Images/p1/X.JPG", "Masks/p1/X.Png"),
        ("Images/p2/X.TIFF", "Masks/p2/X.bmp"),
    ]


def test_hidden_and_system_files_are_ignored_without_a_note(tmp_path: Path) -> None:
    pairs(tmp_path, "a")
    make(tmp_path, "images/._a.jpg", "images/Thumbs.db", "masks/.DS_Store", "images/desktop.ini")
    make(tmp_path, "images/__MACOSX/b.jpg", "images/.cache/c.jpg")
    index = index_segmentation(tmp_path)
    assert (paths(index.samples), index.notes) == (["images/a.jpg"], [])


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    make(pairs(tmp_path, "a"), "images/b\udce4.jpg")
    with pytest.raises(MedvisionError, match=r"not valid UTF-8 \(.*b\\udce4"):
        index_segmentation(tmp_path)


def test_files_of_other_types_are_ignored_with_a_note(tmp_path: Path) -> None:
    make(pairs(tmp_path, "a"), "images/list.txt", "images/b.svg", "images/c.svg")
    assert index_segmentation(tmp_path).notes == [
        "other files in images were ignored: 2 .svg, 1 .txt"
    ]


def test_mask_suffix_is_part_of_the_masks_stem(tmp_path: Path) -> None:
    make(tmp_path, "images/a.jpg", "masks/a_mask.png")
    index = index_segmentation(tmp_path, keys=FolderKeys(mask_suffix="_mask"))
    assert index.samples == [Sample(path="images/a.jpg", target="masks/a_mask.png")]
    assert index_segmentation(tmp_path).samples == index.samples
    pairs(tmp_path, "b")
    with pytest.raises(MedvisionError, match=r"set data\.mask_suffix=_mask"):
        index_segmentation(tmp_path)


def test_folders_named_after_splits_are_a_given_split(tmp_path: Path) -> None:
    for folder in ("Training/", "validation/", "TEST/"):
        pairs(tmp_path, "a", under=folder)
    assert [(s.path, s.split) for s in index_segmentation(tmp_path).samples] == [
        ("TEST/images/a.jpg", "test"),
        ("Training/images/a.jpg", "train"),
        ("validation/images/a.jpg", "val"),
    ]


def test_images_beside_split_folders_are_ignored_with_a_note(tmp_path: Path) -> None:
    index = index_segmentation(pairs(pairs(tmp_path, "a", under="train/"), "b"))
    assert paths(index.samples) == ["train/images/a.jpg"]
    assert "ignored" in index.notes[0]


def test_splits_inside_the_images_folder_are_given_with_a_note(tmp_path: Path) -> None:
    pairs(tmp_path, "train/a", "valid/b")
    index = index_segmentation(tmp_path)
    assert [s.split for s in index.samples] == ["train", "val"]
    assert index.notes == ["read the folders inside images as the given split"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "expected images and their masks, found an empty folder"),
        (["a.jpg"], "expected images and their masks, found only 1 image"),
        (["photos/a.jpg", "photos/b.jpg"], "found only 2 images in photos"),
        (["notes/a.txt"], "no images folder"),
        (["images/a.jpg"], "no masks folder beside images"),
        (["images/a.txt", "masks/a.png"], r"no images in the folder, only 1 \.txt"),
        (["images/a.png", "masks/.hidden"], "no masks in the folder"),
        (["train/images/a.png"], "no masks folder beside images"),
    ],
)
def test_a_folder_with_another_layout_is_refused_with_the_expected_one(
    tmp_path: Path, names: list[str], message: str
) -> None:
    with pytest.raises(MedvisionError, match=rf"{message}.*expected FOLDER/images/\*"):
        index_segmentation(make(tmp_path, *names))


def test_images_without_masks_or_classes_are_named_and_their_folder_is_no_proposal(
    tmp_path: Path,
) -> None:
    make(tmp_path / "ROOT", "photos/a.jpg", "photos/b.jpg")
    with pytest.raises(MedvisionError) as error:
        choose_task(tmp_path / "ROOT")
    assert "or at least two class folders, found only 2 images in photos" in str(error.value)
    assert "did you mean" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedvisionError, match="class folders, found an empty folder"):
        choose_task(tmp_path / "empty")


def test_a_root_that_is_missing_or_a_file_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "file")
    for name, message in (("none", "does not exist"), ("file", "is not a folder")):
        with pytest.raises(MedvisionError, match=rf"{message} \(.*{name}\); check data\.root"):
            index_segmentation(tmp_path / name)


def test_images_without_masks_are_counted_and_five_named(tmp_path: Path) -> None:
    make(pairs(tmp_path, "x"), *(f"images/{k}.jpg" for k in range(7)))
    named = ", ".join(f"images/{k}.jpg" for k in range(5))
    with pytest.raises(MedvisionError, match=f"no mask for 7 of 8 images: {named} and 2 more"):
        index_segmentation(tmp_path)


def test_masks_without_an_image_are_a_note(tmp_path: Path) -> None:
    make(pairs(tmp_path, "x"), "masks/y.png")
    assert index_segmentation(tmp_path).notes == ["no image for 1 mask: masks/y.png"]


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_two_files_of_one_stem_are_an_error(tmp_path: Path, folder: str) -> None:
    make(pairs(tmp_path, "x", "y"), f"{folder}/x.bmp")
    with pytest.raises(
        MedvisionError, match=rf"1 stem used more than once: {folder}/x\.\w+ and {folder}/x"
    ):
        index_segmentation(tmp_path)


def test_splits_csv_in_the_root_is_the_given_split(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "b", "c")
    make(tmp_path, "elsewhere/d.png", "labels/d.png")
    table(
        tmp_path / "splits.csv",
        "\ufeffSplit,path,target,group",
        "Training,./images/b.jpg,,p1",
        "test,elsewhere\\d.png,labels/d.png,",
        "",
        ",images/a.jpg,,p2",
    )
    index = index_segmentation(tmp_path)
    assert index.samples == [
        Sample(path="elsewhere/d.png", target="labels/d.png", split="test"),
        Sample(path="images/a.jpg", target="masks/a.png", group="p2"),
        Sample(path="images/b.jpg", target="masks/b.png", group="p1", split="train"),
    ]
    assert index.notes == ["splits.csv does not list 1 image (ignored): images/c.jpg"]


def test_the_column_path_alone_is_enough(tmp_path: Path) -> None:
    table(pairs(tmp_path, "a") / "splits.csv", "path", "images/a.jpg")
    assert index_segmentation(tmp_path).samples == [
        Sample(path="images/a.jpg", target="masks/a.png")
    ]


def test_a_kept_split_stays_and_new_images_join_it_without_one(tmp_path: Path) -> None:
    root = pairs(tmp_path / "data", "a", "b", "new")
    kept = table(tmp_path / "run.csv", "split,path", "val,images/b.jpg", "train,images/a.jpg")
    index = index_segmentation(root, splits=kept)
    assert [(s.path, s.split) for s in index.samples] == [
        ("images/a.jpg", "train"),
        ("images/b.jpg", "val"),
        ("images/new.jpg", ""),
    ]
    assert "added 1 image that" in index.notes[0]


def test_a_kept_split_takes_precedence_over_splits_csv_which_gives_the_groups(
    tmp_path: Path,
) -> None:
    root = pairs(tmp_path / "data", "a", "b", "c")
    table(root / "splits.csv", "split,path,group", *(f"test,images/{n}.jpg,p1" for n in "abc"))
    kept = table(
        tmp_path / "run.csv", "split,path,group", "train,images/a.jpg,0f3a", "val,images/b.jpg,0f3a"
    )
    samples = index_segmentation(root, splits=kept).samples
    assert [(s.split, s.group) for s in samples] == [("train", "p1"), ("val", "p1"), ("test", "p1")]


def test_hashed_groups_that_new_images_cannot_be_matched_with_are_noted(tmp_path: Path) -> None:
    root = pairs(tmp_path / "data", "a", "new")
    kept = table(tmp_path / "run.csv", "split,path,group", "train,images/a.jpg,0f3a")
    notes = index_segmentation(root, splits=kept).notes
    assert any("set data.group_pattern" in note for note in notes)


def test_new_images_in_split_folders_have_their_folders_split(tmp_path: Path) -> None:
    root = pairs(pairs(tmp_path / "data", "a", under="train/"), "b", under="test/")
    kept = table(tmp_path / "run.csv", "split,path", "val,train/images/a.jpg")
    assert [s.split for s in index_segmentation(root, splits=kept).samples] == ["test", "val"]


def test_new_images_beside_a_kept_split_must_have_masks(tmp_path: Path) -> None:
    root = make(pairs(tmp_path / "data", "a"), "images/new.jpg")
    kept = table(tmp_path / "run.csv", "split,path", "val,images/a.jpg")
    with pytest.raises(MedvisionError, match=r"no mask for 1 of 2 images: images/new\.jpg"):
        index_segmentation(root, splits=kept)


def _numbered(root: Path, images: Iterable[int], masks: Iterable[int]) -> Path:
    """Images and masks with the given numbers."""
    files = [*(f"images/a{k:02}.png" for k in images), *(f"masks/a{k:02}.png" for k in masks)]
    return make(root, *files)


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_masks_whose_numbers_are_shifted_are_not_paired(tmp_path: Path, on_error: str) -> None:
    root = _numbered(tmp_path, range(12), range(1, 13))
    with pytest.raises(MedvisionError, match="from 0 to 11 and the masks from 1 to 12") as caught:
        index_segmentation(root, keys=FolderKeys(on_error=on_error))
    assert "no image for 1 mask: masks/a12.png" in caught.value.what


@pytest.mark.parametrize(
    ("images", "masks"),
    [(range(12), range(1, 12)), (range(12), range(11)), ([*range(11), 20], range(1, 12))],
)
def test_a_number_that_is_missing_is_no_shift(
    tmp_path: Path, images: Iterable[int], masks: Iterable[int]
) -> None:
    root = _numbered(tmp_path, images, masks)
    index = index_segmentation(root, keys=FolderKeys(on_error="skip"))
    assert len(index.samples) in (10, 11)
    with pytest.raises(MedvisionError) as caught:
        index_segmentation(root)
    assert "numbered" not in str(caught.value.hint)


def test_a_longer_number_is_no_suffix(tmp_path: Path) -> None:
    root = make(tmp_path, "images/1.png", "images/2.png", "masks/12.png", "masks/13.png")
    with pytest.raises(MedvisionError) as caught:
        index_segmentation(root)
    assert "data.mask_suffix=" not in str(caught.value.hint)


def test_folders_of_images_beside_unnamed_pairs_are_counted(tmp_path: Path) -> None:
    root = LAYOUTS["splits in folders of the same name"].draw(tmp_path)
    make(root, "train/.DS_Store", "train_gt/notes.txt")  # what else lies there changes nothing
    index = index_segmentation(root)
    assert len(index.samples) == 12
    assert "left out 1 folder of images without masks: test" in index.notes


def test_listed_files_that_are_missing_are_counted_and_named(tmp_path: Path) -> None:
    pairs(tmp_path, "a")
    lines = ["images/a.jpg,masks/none.png", *(f"images/{k}.jpg,masks/a.png" for k in range(6))]
    table(tmp_path / "splits.csv", "path,target", *lines)
    with pytest.raises(MedvisionError, match=r"7 listed files .*: masks/none\.png.* and 2 more"):
        index_segmentation(tmp_path)


def test_folders_of_classes_suggest_the_other_task_and_others_do_not(tmp_path: Path) -> None:
    make(tmp_path / "classes", "cats/a.jpg", "dogs/b.jpg")
    with pytest.raises(MedvisionError, match="if these are classes, use experiment=classification"):
        index_segmentation(tmp_path / "classes")
    make(tmp_path / "one", "photos/a.jpg", "notes/read.txt")
    with pytest.raises(MedvisionError, match=r"the folder has notes, photos$"):
        index_segmentation(tmp_path / "one")


def test_listed_images_without_a_mask_are_an_error(tmp_path: Path) -> None:
    make(pairs(tmp_path, "a"), "other/b.jpg")
    table(tmp_path / "splits.csv", "path", "images/a.jpg", "other/b.jpg")
    with pytest.raises(MedvisionError, match=r"no mask for 1 of 2 images: other/b\.jpg"):
        index_segmentation(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["split,files", "train,a"], r"expected a column path, got split, files \(.*line 1\)"),
        (["split|path", "train|a"], r"expected a column path, got split\|path .*commas"),
        (["path,spilt", "a,train"], r"unknown column spilt \(.*line 1\); did you mean split"),
        (["path,path", "a,b"], "column path occurs twice"),
        (["path", "a", "b", "./a"], r"a is listed twice, first in line 2 \(.*line 4\)"),
        (["path", "/etc/a.png"], r"is outside the data folder \(.*line 2\)"),
        (["path", "C:\\a.png"], "is outside the data folder"),
        (["path", "x/../../a.png"], "is outside the data folder"),
        (["path,target", "a,../b"], "is outside the data folder"),
        (
            ["split,path", "valdation,a"],
            r"unknown split valdation \(.*line 2\); did you mean val\?",
        ),
        (["split,path", "train,"], r"path is blank \(.*line 2\)"),
        (["split,path", "train,a,b"], r"expected 2 cells as in the first line, got 3 \(.*line 2\)"),
        (["path"], "lists no images"),
        ([""], "expected a column path, got no column"),
        (["path", '"a'], "not a csv file"),
    ],
)
def test_errors_in_a_csv_name_file_and_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(MedvisionError, match=message) as caught:
        read_splits(table(tmp_path / "my.csv", *lines))
    assert "my.csv" in str(caught.value)


def test_a_csv_that_is_missing_or_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("path\nä.png\n".encode("latin-1"))
    with pytest.raises(MedvisionError, match=r"not UTF-8 \(.*a\.csv"):
        read_splits(tmp_path / "a.csv")
    with pytest.raises(MedvisionError, match=r"No such file.*none\.csv.*data\.splits"):
        index_segmentation(pairs(tmp_path, "a"), splits=tmp_path / "none.csv")


def test_written_splits_read_back_the_same(tmp_path: Path) -> None:
    samples = [
        Sample(path='images/ä, "b" 肺.png', target="masks/a.png", group="p1", split="train"),
        Sample(path="images/c.png", target="no_tumor"),
    ]
    write_splits(tmp_path / "splits.csv", samples)
    content = (tmp_path / "splits.csv").read_bytes()
    assert content.startswith(b"split,path,target,group\ntrain,")
    assert b"\r" not in content
    assert read_splits(tmp_path / "splits.csv") == samples
    assert [path.name for path in tmp_path.iterdir()] == ["splits.csv"]


def test_a_failed_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "splits.csv"
    write_splits(path, [Sample(path="a.png", target="b.png")])
    before = path.read_bytes()

    def fill_the_disk(self: Path, data: bytes) -> None:
        with self.open("wb") as stream:
            stream.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(MedvisionError, match=r"No space left.*splits\.csv") as caught:
        write_splits(path, [Sample(path="c.png", target="d.png")])
    assert caught.value.exit_code == 3
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["splits.csv"]


def test_groups_come_from_the_pattern_in_the_path(tmp_path: Path) -> None:
    pairs(tmp_path, "person1_a", "person1_b", "person2_a")
    index = index_segmentation(tmp_path, group_pattern=r"(person\d+)_")
    assert [s.group for s in index.samples] == ["person1", "person1", "person2"]
    assert index.notes == []


def test_the_pattern_matches_folders_and_takes_precedence_over_a_csv(tmp_path: Path) -> None:
    pairs(tmp_path, "p1/a", "p2/a")
    table(tmp_path / "splits.csv", "path,group", "images/p1/a.jpg,x", "images/p2/a.jpg,x")
    index = index_segmentation(tmp_path, group_pattern=r"images/(\w+)/")
    assert [s.group for s in index.samples] == ["p1", "p2"]


def test_images_the_pattern_does_not_match_are_noted(tmp_path: Path) -> None:
    index = index_segmentation(pairs(tmp_path, "p1_a", "odd"), group_pattern=r"(p\d)_")
    assert [s.group for s in index.samples] == ["", "p1"]
    assert "does not match 1 of 2 images" in index.notes[0]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(zzz)", r"matches no image; the first is images/a\.jpg"),
        ("a", "expected one capture group, got 0 in a"),
        ("(a)(b)", r"expected one capture group, got 2 in \(a\)\(b\)"),
        ("(a", "is not a regular expression"),
    ],
)
def test_errors_in_the_pattern_name_its_config_key(
    tmp_path: Path, pattern: str, message: str
) -> None:
    with pytest.raises(MedvisionError, match=rf"{message}.*data\.group_pattern"):
        index_segmentation(pairs(tmp_path, "a"), group_pattern=pattern)


@pytest.mark.skipif(not KVASIR.is_dir(), reason="Kvasir-SEG is not on this machine")
def test_kvasir_has_its_published_split() -> None:
    index = index_segmentation(KVASIR)
    counts = {split: sum(s.split == split for s in index.samples) for split in ("train", "val")}
    assert counts == {"train": 800, "val": 100}
    assert len(index.samples) == 1000
    assert index.notes == []
