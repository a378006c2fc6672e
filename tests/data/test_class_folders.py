from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from medvision.data.discovery.index import index_classification
from medvision.data.samples import Sample
from medvision.errors import MedvisionError

BRAIN = Path(__file__).parents[2].parent / "shared/data/brain_tumor_mri"
LAYOUT = "expected ROOT/<class>/*, ROOT/{train,val,test}/<class>/*, or ROOT/splits.csv"


def make(root: Path, *names: str) -> Path:
    """Create empty files: an index looks at names only."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def error(root: Path, *, class_names: Sequence[str] | None = None) -> str:
    """The line that the index ends in, the root cut to ROOT."""
    with pytest.raises(MedvisionError) as caught:
        index_classification(root, class_names=class_names)
    return str(caught.value).replace(str(root), "ROOT")


def test_a_class_is_the_folder_its_images_lie_in(tmp_path: Path) -> None:
    index = index_classification(make(tmp_path, "b/2.png", "a/1.jpg", "a/deep/er/3.TIFF"))
    assert index.samples == [
        Sample(path="a/1.jpg", target="a"),
        Sample(path="a/deep/er/3.TIFF", target="a"),
        Sample(path="b/2.png", target="b"),
    ]
    assert (index.class_names, index.notes) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("train", "val", "test"), [("train", "val", "test"), ("Training", "validation", "Testing")]
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


def test_classes_are_in_the_order_of_the_alphabet_whatever_the_case(tmp_path: Path) -> None:
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
            "the data set has no class pneumonia (data.class_names); did you mean PNEUMONIA?",
        ),
        (
            ["xyz"],
            "the data set has no class xyz (data.class_names);"
            " its classes are a, b, NORMAL, PNEUMONIA",
        ),
        (
            ["NORMAL", "b"],
            "a, PNEUMONIA is a class of the data set but not listed (data.class_names);"
            " list all of them, in the order of their indices: a, b, NORMAL, PNEUMONIA",
        ),
    ],
)
def test_class_names_that_do_not_fit_name_their_key(
    tmp_path: Path, names: list[str], message: str
) -> None:
    make(tmp_path, *(f"{name}/x.png" for name in ("a", "b", "NORMAL", "PNEUMONIA")))
    assert error(tmp_path, class_names=names) == message


def test_hidden_and_system_files_are_ignored_and_others_noted(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png", "a/._1.png", "b/Thumbs.db", "b/list.csv", "notes.txt")
    make(tmp_path, ".cache/1.png", "__MACOSX/1.png", "a/__MACOSX/1.png", ".DS_Store", "._1.png")
    index = index_classification(tmp_path)
    assert [sample.path for sample in index.samples] == ["a/1.png", "b/1.png"]
    assert index.notes == ["other files in b were left out: 1 .csv"]


def test_folders_beside_those_of_splits_are_left_out_with_a_note(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "extra/train/a/1.png")
    index = index_classification(tmp_path)
    assert {s.path.split("/")[0] for s in index.samples} == {"train", "test"}
    assert index.notes == ["extra beside the folders of the given splits is left out"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], f"no class folders (ROOT); {LAYOUT}"),
        (
            ["train/a/1.png", "train/b/1.png", "val/readme.txt"],
            f"no class folders (ROOT/val); {LAYOUT}",
        ),
        (
            ["a/1.png", "b/1.png", "2.png", "1.JPG"],
            f"2 images lie in no class folder: 1.JPG, 2.png (ROOT); move or remove them: {LAYOUT}",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "train/1.png"],
            f"1 images lie in no class folder: 1.png (ROOT/train); move or remove them: {LAYOUT}",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "1.png"],
            f"1 images lie in no class folder: 1.png (ROOT); move or remove them: {LAYOUT}",
        ),
        (["NORMAL/1.png"], f"only one class, NORMAL (ROOT); {LAYOUT}"),
        (
            ["chest/a/1.png", "chest/b/1.png"],
            f"only one class, chest (ROOT); did you mean data.root=ROOT/chest? {LAYOUT}",
        ),
        (
            ["chest_xray/train/a/1.png", "chest_xray/test/a/1.png"],
            "chest_xray holds folders of splits (test, train), so it is no class (ROOT);"
            f" did you mean data.root=ROOT/chest_xray? {LAYOUT}",
        ),
        (
            ["a/1.png", "b/.hidden"],
            f"no images in the folder (ROOT/b); {LAYOUT};"
            " files must be JPEG, PNG, BMP, TIFF or DICOM (.dcm)",
        ),
        (
            ["train/a/1.png", "train/b/1.gif"],
            f"no images in the folder, only 1 .gif (ROOT/train/b); {LAYOUT};"
            " files must be JPEG, PNG, BMP, TIFF or DICOM (.dcm)",
        ),
        (
            ["images/1.png", "masks/1.png"],
            "images and masks are the folders of a segmentation set, not classes (ROOT);"
            " choose an experiment of segmentation, or another data.root",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"],
            "test holds the class c, train does not (ROOT/test/c);"
            " give a class the same name everywhere",
        ),
        (
            ["train/glioma/1.png", "train/none/1.png", "val/gliomas/1.png"],
            "val holds the class gliomas, train does not (ROOT/val/gliomas); did you mean glioma?",
        ),
        (
            ["train/NORMAL/1.png", "train/b/1.png", "test/Normal/1.png"],
            "the classes NORMAL and Normal differ only by case or spaces (ROOT);"
            " did you mean NORMAL? give a class the same name in every split",
        ),
        (
            ["train/no_tumor/1.png", "train/b/1.png", "test/no tumor/1.png"],
            "the classes no tumor and no_tumor differ only by case or spaces (ROOT);"
            " did you mean no tumor? give a class the same name in every split",
        ),
        (
            [f"p{k}/1.png" for k in range(256)],
            f"256 classes, at most 255 are possible (ROOT); {LAYOUT}",
        ),
    ],
)
def test_a_folder_that_is_no_set_of_classes_is_told_why(
    tmp_path: Path, files: list[str], message: str
) -> None:
    assert error(make(tmp_path, *files)) == message


def test_a_root_that_is_missing_or_a_file_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "file")
    hint = f"check data.root: {LAYOUT}"
    assert error(tmp_path / "none") == f"the data folder does not exist (ROOT); {hint}"
    assert error(tmp_path / "file") == f"the data folder is not a folder (ROOT); {hint}"


def test_a_class_that_test_lacks_is_no_error(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    assert index_classification(tmp_path).class_names == ["a", "b"]


def test_splits_csv_names_classes_and_what_it_leaves_blank_is_the_folder(tmp_path: Path) -> None:
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
    assert index.notes == ["splits.csv does not list 1 images, which are left out: b/4.png"]


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
            "1 of 2 images have no class: 1.png (ROOT/splits.csv);"
            " add the column target, or put the images into folders of their classes",
        ),
        (
            ["path,target", "a/1.png,masks/1.png"],
            "expected names of classes in the column target, got files such as masks/1.png"
            " (ROOT/splits.csv); choose an experiment of segmentation, or another data.root",
        ),
        (
            ["path", "a/1.png", "a/none.png"],
            "1 listed files do not exist below ROOT: a/none.png (ROOT/splits.csv);"
            " check data.root, or remove their lines",
        ),
        (["path,target", "a/1.png,x", "1.png,x"], f"only one class, x (ROOT); {LAYOUT}"),
        (
            ["path,target,split", "a/1.png,x,train", "1.png,y,test"],
            "test holds the class y, train does not (ROOT); give a class the same name everywhere",
        ),
    ],
)
def test_faults_in_a_csv_are_told(tmp_path: Path, lines: list[str], message: str) -> None:
    make(tmp_path, "1.png", "a/1.png")
    table(tmp_path / "splits.csv", *lines)
    assert error(tmp_path) == message


def test_a_kept_split_stays_and_new_images_join_it_without_one(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "a/1.png", "b/1.png", "b/new.png")
    kept = table(tmp_path / "run.csv", "split,path,target", "val,b/1.png,b", "train,a/1.png,a")
    index = index_classification(root, splits=kept)
    assert [(s.path, s.target, s.split) for s in index.samples] == [
        ("a/1.png", "a", "train"),
        ("b/1.png", "b", "val"),
        ("b/new.png", "b", ""),
    ]
    assert index.notes == [f"1 images are not in {kept} and were added to the data set"]


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
