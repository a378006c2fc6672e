from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from medvision.data.discovery.class_folders import are_parts
from medvision.data.discovery.index import choose_task, index_classification
from medvision.data.discovery.keys import FolderKeys
from medvision.data.samples import Sample
from medvision.errors import MedvisionError

BRAIN = Path(__file__).parents[2].parent / "shared/data/brain_tumor_mri"
LAYOUT = "expected FOLDER/<class>/*, FOLDER/{train,val,test}/<class>/*, or FOLDER/splits.csv"


def make(root: Path, *names: str) -> Path:
    """Create empty files: an index only uses names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def error(root: Path, *, class_names: Sequence[str] | None = None) -> str:
    """Return the error line of the index, with the root shortened to ROOT."""
    with pytest.raises(MedvisionError) as caught:
        index_classification(root, class_names=class_names)
    return str(caught.value).replace(str(root), "ROOT")


def test_the_class_of_an_image_is_its_folder(tmp_path: Path) -> None:
    index = index_classification(make(tmp_path, "b/2.png", "a/1.jpg", "a/deep/er/3.TIFF"))
    assert index.samples == [
        Sample(path="a/1.jpg", target="a"),
        Sample(path="a/deep/er/3.TIFF", target="a"),
        Sample(path="b/2.png", target="b"),
    ]
    assert (index.class_names, index.notes) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "validation", "Testing"),
        ("Training Set", "val_set", "Test-Set"),
    ],
)
def test_folders_named_after_splits_are_the_given_split(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    make(tmp_path, *(f"{s}/{c}/x.jpg" for s in (train, val, test) for c in ("no", "yes")))
    index = index_classification(tmp_path)
    assert [(s.path, s.target, s.split) for s in index.samples] == sorted(
        (f"{folder}/{name}/x.jpg", name, split)
        for folder, split in ((train, "train"), (val, "val"), (test, "test"))
        for name in ("no", "yes")
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["images_001", "images_002"], True),
        (["train_images", "test_images"], True),
        (["HAM10000_images_part_1", "HAM10000_images_part_2"], True),
        (["imagesTr", "imagesTs"], True),
        (["TrainData", "TestData"], True),
        (["patient1", "patient2"], True),
        (["case", "control"], False),
        (["NORMAL", "PNEUMONIA"], False),
        (["normal_images", "sick_images"], False),
        (["valid", "invalid"], False),
        (["0", "1"], False),
        (["class1", "class2"], False),
        (["images"], False),
    ],
)
def test_folders_named_as_parts_of_the_images_are_not_classes(
    tmp_path: Path, names: list[str], expected: bool
) -> None:
    assert are_parts(names) == expected
    if expected:
        make(tmp_path, *(f"{name}/{name}.png" for name in names))
        assert error(tmp_path).startswith(
            f"expected class folders, found parts of the images: {', '.join(sorted(names))} (ROOT);"
            " list the images with their classes in splits.csv, with the columns path and target;"
        )


def test_classes_within_copies_of_the_set_are_a_question(tmp_path: Path) -> None:
    """Original and augmented images in equal class folders, of which the outer ones are none."""
    tops = ("AugmentedDataset", "OriginalDataset")
    make(tmp_path, *(f"{top}/{name}/1.png" for top in tops for name in ("mild", "none")))
    assert error(tmp_path) == (
        "AugmentedDataset, OriginalDataset hold the folders mild, none, which may be the classes"
        " (ROOT); set data.root=ROOT/AugmentedDataset, or 'data.class_pattern=^([^/]+)/' to read"
        " the outer ones as classes"
    )
    with pytest.raises(MedvisionError, match="which may be the classes"):  # experiments set it
        index_classification(tmp_path, keys=FolderKeys(task="classification"))
    index = index_classification(tmp_path, keys=FolderKeys(class_pattern="^([^/]+)/"))
    assert (index.class_names, index.notes) == (list(tops), [])


@pytest.mark.parametrize("top", ["", "train/"])
def test_classes_within_numbered_folders_are_a_question(tmp_path: Path, top: str) -> None:
    """Folders of patients that hold those of the classes, as sets of image patches have them."""
    make(tmp_path, *(f"{top}{k}/{k % 2}/{n}.png" for k in (8863, 9041, 12) for n in range(2)))
    make(tmp_path, f"{top}12/1/x.png")
    outer, inner = ("^[^/]+/", "^[^/]+/[^/]+/") if top else ("^", "^[^/]+/")
    assert error(tmp_path) == (
        f"12, 8863, 9041 hold the folders 0, 1, which may be the classes (ROOT{top and '/train'});"
        f" set 'data.class_pattern={inner}([^/]+)/' 'data.group_pattern={outer}([^/]+)/', or"
        f" 'data.class_pattern={outer}([^/]+)/' to read the outer ones as classes"
    )
    keys = FolderKeys(class_pattern=f"{inner}([^/]+)/")
    index = index_classification(tmp_path, keys=keys, group_pattern=f"{outer}([^/]+)/")
    assert Counter(index.samples.targets) == {"0": 2, "1": 5}
    assert set(index.samples.groups) == {"12", "8863", "9041"}


@pytest.mark.parametrize(
    "names",
    [
        [f"{grade}/{grade}{patient}/1.png" for grade in range(3) for patient in range(3)],
        [f"grade{grade}/{n}.png" for grade in range(3) for n in range(3)],
        [f"{name}/{size}/{n}.png" for name in ("a", "b") for size in ("40X", "100X") for n in "12"],
        [f"{name}/set/{n}.png" for name in ("a", "b") for n in "12"],
        [f"{name}/{n}.png" for name in ("predator", "unknown", "prey") for n in "12"],
        ["a/a/1.png", "b/1.png"],
    ],
)
def test_other_folders_within_classes_are_no_question(tmp_path: Path, names: list[str]) -> None:
    make(tmp_path, *names)
    index = index_classification(tmp_path)
    assert set(index.class_names) == {name.partition("/")[0] for name in names}
    assert (index.notes, index.other) == ([], "")


@pytest.mark.parametrize("top", ["", "train/"])
def test_numbered_folders_of_equal_files_are_a_question(tmp_path: Path, top: str) -> None:
    make(tmp_path, *(f"{top}p{k}/{eye}.png" for k in range(3) for eye in ("left", "right")))
    outer = "^[^/]+/([^/]+)/" if top else "^([^/]+)/"
    assert error(tmp_path) == (
        "numbered folders hold files of the same names, as those of patients do: left, right in p0,"
        f" p1, p2 (ROOT{top and '/train'}); set data.class_pattern if paths tell the classes"
        f" ('data.class_pattern={outer}' reads these folders), or 'data.images=*/left.*'"
        " 'data.masks=*/right.*'"
    )
    keys = FolderKeys(class_pattern="/([^/]+)[.]png")
    index = index_classification(tmp_path, keys=keys, group_pattern=r"p(\d)/")
    assert Counter(index.samples.targets) == {"left": 3, "right": 3}


@pytest.mark.parametrize(
    "names",
    [
        [f"{grade}/{n}.png" for grade in range(3) for n in range(2)],
        [f"{grade}/{name}.png" for grade in range(2) for name in ("left", "right")],
        [f"{name}/{eye}.png" for name in ("a", "b", "c") for eye in ("left", "right")],
        [f"{grade}/{name}.png" for grade in range(3) for name in ("left", "right")[: grade + 1]],
    ],
)
def test_folders_of_other_files_are_classes(tmp_path: Path, names: list[str]) -> None:
    make(tmp_path, *names)
    index = index_classification(tmp_path)
    assert set(index.class_names) == {name.partition("/")[0] for name in names}


def test_folders_with_words_within_classes_are_shown(tmp_path: Path) -> None:
    make(tmp_path, "lung/tumour/1.png", "lung/other/1.png", "colon/polyp/1.png", "colon/none/1.png")
    index = index_classification(tmp_path)
    assert index.class_names == ["colon", "lung"]
    assert index.other == (
        "classes none, other, polyp, tumour: 'data.class_pattern=^[^/]+/([^/]+)/'"
    )


def test_a_copy_of_the_classes_and_images_without_a_class_are_refused(tmp_path: Path) -> None:
    copy, unlabelled = tmp_path / "copy", tmp_path / "unlabelled"
    make(copy, *(f"{top}{name}/1.png" for top in ("", "cells/") for name in ("sick", "well")))
    assert error(copy) == (
        "cells holds the folders sick, well, as the folder around it (ROOT); set"
        " data.exclude=cells, or 'data.class_pattern=^([^/]+)/' to read it as a class"
    )
    for name in ("pred", "Prediction", "unlabeled", "No_label"):
        make(unlabelled, *(f"train/{other}/1.png" for other in ("no", "yes", name)))
        assert error(unlabelled) == (
            f"{name} seems to hold images without a known class (ROOT/train); set"
            f" data.exclude=train/{name}, or 'data.class_pattern=^[^/]+/([^/]+)/' to read it as a"
            " class"
        )
        keys = FolderKeys(exclude=(f"train/{name}",))
        assert index_classification(unlabelled, keys=keys).class_names == ["no", "yes"]
        (unlabelled / "train" / name / "1.png").unlink()
        (unlabelled / "train" / name).rmdir()


def test_a_pattern_finds_the_class_in_paths_and_folders_give_the_split(tmp_path: Path) -> None:
    make(tmp_path, "train/a_1.png", "train/b_1.png", "Test/x/b_2.png", "Test/x/b_2_mask.png")
    index = index_classification(tmp_path, keys=FolderKeys(class_pattern="/([ab])_"))
    assert [(s.path, s.target, s.split) for s in index.samples] == [
        ("Test/x/b_2.png", "b", "test"),
        ("train/a_1.png", "a", "train"),
        ("train/b_1.png", "b", "train"),
    ]
    assert index.layout == "classes from data.class_pattern"


def test_a_pattern_takes_precedence_over_the_classes_of_a_csv(tmp_path: Path) -> None:
    make(tmp_path, "x/a_1.png", "x/b_1.png", "x/b_2.png", "x/c_1.png", "x/odd.png")
    table(
        tmp_path / "splits.csv",
        "path,split,target",
        "x/a_1.png,train,q",
        "x/b_1.png,val,q",
        "x/b_2.png,,q",
    )
    index = index_classification(tmp_path, keys=FolderKeys(class_pattern="([abc])_"))
    assert [(s.path, s.target, s.split) for s in index.samples] == [
        ("x/a_1.png", "a", "train"),
        ("x/b_1.png", "b", "val"),
        ("x/b_2.png", "b", ""),
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("([ab])_", "data.class_pattern does not match 1 of 3 images: odd.png (ROOT); fix it, or"),
        ("(q)", "(q) matches no image; the first is a_1.png (data.class_pattern); it must match"),
        ("(", "( is not a regular expression: "),
        ("a|b", "expected one capture group, got 0 in a|b (data.class_pattern); put the part of"),
        ("^(.)_|d", "data.class_pattern does not match 1 of 3 images: odd.png (ROOT)"),
    ],
)
def test_a_pattern_that_finds_no_class_is_refused(
    tmp_path: Path, pattern: str, message: str
) -> None:
    make(tmp_path, "a_1.png", "b_1.png", "odd.png")
    with pytest.raises(MedvisionError) as caught:
        index_classification(tmp_path, keys=FolderKeys(class_pattern=pattern))
    assert str(caught.value).replace(str(tmp_path), "ROOT").startswith(message)
    keys = FolderKeys(class_pattern="([ab])_", exclude=("odd.png",))
    assert index_classification(tmp_path, keys=keys).class_names == ["a", "b"]


def test_images_beside_the_folders_of_splits_are_refused_with_a_pattern(tmp_path: Path) -> None:
    make(tmp_path, "train/a_1.png", "train/b_1.png", "a_2.png")
    with pytest.raises(
        MedvisionError, match=r"1 image outside the folders of the splits: a_2\.png"
    ):
        index_classification(tmp_path, keys=FolderKeys(class_pattern="([ab])_"))


def test_a_pattern_of_classes_and_keys_of_masks_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(MedvisionError, match=r"data\.class_pattern names classes, data\.masks"):
        FolderKeys(class_pattern="(a)", masks="m")
    with pytest.raises(MedvisionError, match=r"data\.class_pattern names classes, data\.task"):
        choose_task(tmp_path, FolderKeys(class_pattern="(a)", task="segmentation"))
    keys = FolderKeys(class_pattern="(a)", task="classification")
    assert choose_task(tmp_path, keys).task == "classification"


def test_folders_of_patients_within_classes_are_no_question(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/{k}/1.png" for name in ("mild", "none") for k in range(3)))
    assert index_classification(tmp_path).class_names == ["mild", "none"]


def test_lists_of_a_split_in_text_files_are_noted(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/2.png", "train.txt", "val.txt", "notes.txt")
    assert index_classification(tmp_path).notes == [
        "train.txt, val.txt are not read as a split: data.splits names a csv with the columns path"
        " and split"
    ]


def test_classes_are_sorted_alphabetically_ignoring_case(tmp_path: Path) -> None:
    index = index_classification(make(tmp_path, "b/x.png", "C/x.png", "a/x.png", "A2/x.png"))
    assert index.class_names == ["a", "A2", "b", "C"]


def test_the_order_of_class_names_decides_the_indices(tmp_path: Path) -> None:
    make(tmp_path, "PNEUMONIA/x.png", "NORMAL/x.png")
    names = index_classification(tmp_path, class_names=("PNEUMONIA", "NORMAL")).class_names
    assert names == ["PNEUMONIA", "NORMAL"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b", "a"], "a is listed twice (data.class_names); list it once"),
        (
            ["NORMAL", "pneumonia"],
            "unknown class pneumonia (data.class_names); did you mean PNEUMONIA?",
        ),
        (
            ["xyz"],
            "unknown class xyz (data.class_names); its classes are a, b, NORMAL, PNEUMONIA",
        ),
        (
            ["NORMAL", "b"],
            "expected every class of the data set, missing: a, PNEUMONIA (data.class_names);"
            " list all of them, in the order of their indices: a, b, NORMAL, PNEUMONIA",
        ),
    ],
)
def test_an_error_in_class_names_names_its_config_key(
    tmp_path: Path, names: list[str], message: str
) -> None:
    make(tmp_path, *(f"{name}/x.png" for name in ("a", "b", "NORMAL", "PNEUMONIA")))
    assert error(tmp_path, class_names=names) == message


def test_hidden_and_system_files_are_ignored_and_others_noted(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png", "a/._1.png", "b/Thumbs.db", "b/list.csv", "notes.txt")
    make(tmp_path, ".cache/1.png", "__MACOSX/1.png", "a/__MACOSX/1.png", ".DS_Store", "._1.png")
    index = index_classification(tmp_path)
    assert [sample.path for sample in index.samples] == ["a/1.png", "b/1.png"]
    assert index.notes == ["other files in b were ignored: 1 .csv"]


def test_folders_beside_split_folders_are_ignored_with_a_note(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "extra/train/a/1.png")
    index = index_classification(tmp_path)
    assert {s.path.split("/")[0] for s in index.samples} == {"train", "test"}
    assert index.notes == ["ignored beside the folders of the given splits: extra"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], f"the folder is empty (ROOT); {LAYOUT}"),
        (
            ["train/a/1.png", "train/b/1.png", "val/readme.txt"],
            f"no class folders (ROOT/val); {LAYOUT}",
        ),
        (
            ["a/1.png", "b/1.png", "2.png", "1.JPG"],
            "2 images outside the class folders: 1.JPG, 2.png (ROOT);"
            f" move or remove them: {LAYOUT}",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "train/1.png"],
            f"1 image outside the class folders: 1.png (ROOT/train); move or remove them: {LAYOUT}",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "1.png"],
            f"1 image outside the class folders: 1.png (ROOT); move or remove them: {LAYOUT}",
        ),
        (["NORMAL/1.png"], f"expected at least 2 classes, found only NORMAL (ROOT); {LAYOUT}"),
        (
            ["chest/a/1.png", "chest/b/1.png"],
            "expected at least 2 classes, found only chest (ROOT);"
            f" did you mean data.root=ROOT/chest? {LAYOUT}",
        ),
        (
            ["chest_xray/train/a/1.png", "chest_xray/test/a/1.png"],
            "expected class folders, found split folders (test, train) in chest_xray (ROOT);"
            f" did you mean data.root=ROOT/chest_xray? {LAYOUT}",
        ),
        (
            ["a/1.png", "b/.hidden"],
            f"no images in the folder (ROOT/b); {LAYOUT};"
            " files must be JPEG, PNG, BMP, TIFF, GIF, WebP, JPEG 2000, PNM or DICOM",
        ),
        (
            ["train/a/1.png", "train/b/1.svg"],
            f"no images in the folder, only 1 .svg (ROOT/train/b); {LAYOUT};"
            " files must be JPEG, PNG, BMP, TIFF, GIF, WebP, JPEG 2000, PNM or DICOM",
        ),
        (
            ["images/1.png", "masks/1.png"],
            "expected class folders, found the folders images and masks of a segmentation set"
            " (ROOT);"
            " choose a segmentation experiment, or another data.root",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"],
            "test has the class c, but train does not (ROOT/test/c);"
            " give a class the same name everywhere",
        ),
        (
            ["train/glioma/1.png", "train/none/1.png", "val/gliomas/1.png"],
            "val has the class gliomas, but train does not (ROOT/val/gliomas);"
            " did you mean glioma?",
        ),
        (
            ["train/NORMAL/1.png", "train/b/1.png", "test/Normal/1.png"],
            "the classes NORMAL (1) and Normal (1) differ only by case or spaces (ROOT);"
            " did you mean NORMAL? give a class the same name everywhere",
        ),
        (
            ["train/no_tumor/1.png", "train/b/1.png", "test/no tumor/1.png"],
            "the classes no tumor (1) and no_tumor (1) differ only by case or spaces (ROOT);"
            " did you mean no tumor? give a class the same name everywhere",
        ),
        (
            [f"p{k}/1.png" for k in range(256)],
            f"expected at most 255 classes, found 256 (ROOT); {LAYOUT}",
        ),
    ],
)
def test_a_folder_that_is_not_a_classification_set_is_refused_with_the_reason(
    tmp_path: Path, files: list[str], message: str
) -> None:
    assert error(make(tmp_path, *files)) == message


def test_a_root_that_is_missing_or_a_file_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "file")
    hint = f"check data.root: {LAYOUT}"
    assert error(tmp_path / "none") == f"the data folder does not exist (ROOT); {hint}"
    assert error(tmp_path / "file") == f"the data folder is not a folder (ROOT); {hint}"


def test_a_class_missing_in_test_is_not_an_error(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    assert index_classification(tmp_path).class_names == ["a", "b"]


def test_blank_targets_in_splits_csv_are_the_class_folders(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/deep/2.png", "b/3.png", "b/4.png")
    table(
        tmp_path / "splits.csv",
        "split,path,target,group",
        "train,a/1.png,,p1",
        ",b/deep/2.png,,",
        "test,b/3.png,a,",
    )
    index = index_classification(tmp_path)
    assert index.samples == [
        Sample(path="a/1.png", target="a", group="p1", split="train"),
        Sample(path="b/3.png", target="a", split="test"),
        Sample(path="b/deep/2.png", target="b"),
    ]
    assert index.notes == ["splits.csv does not list 1 image (ignored): b/4.png"]


def test_a_csv_may_list_images_of_any_folder(tmp_path: Path) -> None:
    make(tmp_path, "all/1.png", "2.png", "photos/yes/3.png")
    lines = ["path,target", "all/1.png,no tumour", "2.png,yes", "photos/yes/3.png,"]
    table(tmp_path / "splits.csv", *lines)
    index = index_classification(tmp_path)
    assert [s.target for s in index.samples] == ["yes", "no tumour", "yes"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["path", "1.png", "a/1.png"],
            "no class for 1 of 2 images: 1.png (ROOT/splits.csv);"
            " add the column target, or put the images into folders of their classes",
        ),
        (
            ["path,target", "a/1.png,masks/1.png"],
            "expected class names in the column target, got files such as masks/1.png"
            " (ROOT/splits.csv); choose a segmentation experiment, or another data.root",
        ),
        (
            ["path", "a/1.png", "a/none.png"],
            "cannot find 1 listed file in ROOT: a/none.png (ROOT/splits.csv);"
            " check data.root, or remove their lines",
        ),
        (
            ["path,target", "a/1.png,x", "1.png,x"],
            f"expected at least 2 classes, found only x (ROOT); {LAYOUT}",
        ),
        (
            ["path,target,split", "a/1.png,x,train", "1.png,y,test"],
            "test has the class y, but train does not (ROOT);"
            " give a class the same name everywhere",
        ),
    ],
)
def test_errors_in_a_csv_are_reported(tmp_path: Path, lines: list[str], message: str) -> None:
    make(tmp_path, "1.png", "a/1.png")
    table(tmp_path / "splits.csv", *lines)
    assert error(tmp_path) == message


@pytest.mark.parametrize("cell", ["", "NaN", "N/A", "None"])
def test_a_missing_label_is_no_class(tmp_path: Path, cell: str) -> None:
    make(tmp_path, *(f"images/{number}.png" for number in range(3)))
    table(tmp_path / "labels.csv", "image,label", "0.png,a", f"1.png,{cell}", "2.png,b")
    named = f" ({cell})" if cell else ""
    line = error(tmp_path)
    assert line.startswith(
        f"no class{named} for 1 of 3 images: images/1.png (ROOT/labels.csv); fill in these cells,"
        " or set data.on_error=skip to leave the images out"
    )
    assert line.endswith("data.class_names") is bool(cell)
    index = index_classification(tmp_path, keys=FolderKeys(on_error="skip"))
    assert [(s.path, s.target) for s in index.samples] == [
        ("images/0.png", "a"),
        ("images/2.png", "b"),
    ]
    assert index.notes == [
        f"SKIPPED 1 of 3 images because they have no class{named} in labels.csv and"
        " data.on_error=skip: images/1.png"
    ]


def test_a_class_may_have_the_name_of_a_missing_label(tmp_path: Path) -> None:
    make(tmp_path, "images/0.png", "images/1.png")
    table(tmp_path / "labels.csv", "image,label", "0.png,none", "1.png,mild")
    index = index_classification(tmp_path, keys=FolderKeys(class_names=("none", "mild")))
    assert index.class_names == ["mild", "none"]
    folders = make(tmp_path / "folders", "none/0.png", "mild/1.png")
    kept = table(tmp_path / "run.csv", "split,path,target", "train,none/0.png,none")
    assert index_classification(folders).class_names == ["mild", "none"]
    assert [s.target for s in index_classification(folders, splits=kept).samples] == [
        "mild",
        "none",
    ]


def test_the_more_frequent_spelling_of_a_class_is_proposed(tmp_path: Path) -> None:
    make(tmp_path, *(f"images/{number}.png" for number in range(4)))
    rows = ("0.png, Benign", "1.png,benign", "2.png,benign", "3.png,normal")
    table(tmp_path / "labels.csv", "image,label", *rows)
    assert error(tmp_path) == (
        "the classes Benign (1) and benign (2) differ only by case or spaces (ROOT); did you mean"
        " benign? give a class the same name everywhere"
    )


def test_folders_of_patients_are_no_class_of_rows_without_a_label(tmp_path: Path) -> None:
    make(tmp_path, "p1/0.png", "p2/1.png", "p3/2.png")
    table(tmp_path / "labels.csv", "image,label", "p1/0.png,a", "p2/1.png,b", "p3/2.png,")
    assert error(tmp_path).startswith("no class for 1 of 3 images: p3/2.png (ROOT/labels.csv)")


def test_a_kept_split_stays_and_new_images_join_it_without_one(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "a/1.png", "b/1.png", "b/new.png")
    kept = table(tmp_path / "run.csv", "split,path,target", "val,b/1.png,b", "train,a/1.png,a")
    index = index_classification(root, splits=kept)
    assert [(s.path, s.target, s.split) for s in index.samples] == [
        ("a/1.png", "a", "train"),
        ("b/1.png", "b", "val"),
        ("b/new.png", "b", ""),
    ]
    assert index.notes == [f"added 1 image that {kept} does not list"]


def test_groups_come_from_the_pattern_in_the_path(tmp_path: Path) -> None:
    make(tmp_path, "a/person1_1.png", "b/person1_2.png", "b/person2_1.png")
    samples = index_classification(tmp_path, group_pattern=r"(person\d+)_").samples
    assert [sample.group for sample in samples] == ["person1", "person1", "person2"]


@pytest.mark.skipif(not BRAIN.is_dir(), reason="the brain tumour set is not on this machine")
def test_the_brain_tumour_set_has_its_published_counts() -> None:
    index = index_classification(BRAIN)
    assert index.class_names == ["glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"]
    assert index.notes == []
    counts = Counter((sample.split, sample.target) for sample in index.samples)
    assert [counts["train", name] for name in index.class_names] == [826, 822, 395, 827]
    assert [counts["test", name] for name in index.class_names] == [100, 115, 105, 74]
