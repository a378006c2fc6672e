"""Folders as people find them are read right, or refused with the key that helps."""

import json
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from layouts import LAYOUTS, SHIPPED, Layout
from medvision.command_line import data_keys
from medvision.data.discovery.description import inspect_folder
from medvision.data.discovery.index import (
    Index,
    choose_task,
    index_classification,
    index_segmentation,
)
from medvision.data.discovery.keys import FolderKeys, anchored, parse_keys
from medvision.data.discovery.splits_csv import RECOGNISED
from medvision.data.download.catalog import CATALOG
from medvision.errors import MedvisionError


def read(root: Path, *texts: str) -> tuple[str, Index]:
    """Return the task of a folder and its listing."""
    keys = parse_keys(texts)
    task = choose_task(root, keys.folder).task
    listing = index_segmentation if task == "segmentation" else index_classification
    return task, listing(root, keys=keys.folder)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_read_as_its_authors_mean_it(tmp_path: Path, name: str) -> None:
    layout: Layout = LAYOUTS[name]
    root = layout.draw(tmp_path)
    if layout.refused:
        with pytest.raises(MedvisionError, match=layout.refused) as caught:
            read(root)
        assert "data." in str(caught.value.hint), "the message names the key that helps"
    task, index = read(root, *layout.keys)
    found = {sample.path: sample.target for sample in index.samples}
    assert (task, len(found)) == (layout.task, layout.count)
    assert {path: found[path] for path in layout.pairs} == dict(layout.pairs)
    splits = Counter(sample.split for sample in index.samples)
    assert dict(splits) == dict(layout.splits or {"": layout.count})
    shown = "\n".join(inspect_folder(root, parse_keys(layout.keys), typed=layout.keys))
    assert f"{task}, {layout.count} images" in shown
    assert f"experiment={task} data.root=" in shown


def test_the_command_shown_for_masks_of_several_colours_names_their_classes(
    make_folder: Callable[..., Path],
) -> None:
    keys = ["data.color_map=[[0,0,0],[255,0,0],[0,255,0]]"]
    *_, line = inspect_folder(make_folder(), parse_keys(keys), typed=keys)
    assert line.endswith("'data.class_names=[background,class1,class2]'")
    assert parse_keys(keys).reading.num_classes == 3
    *_, line = inspect_folder(make_folder(name="two"), parse_keys([]))
    assert "class_names" not in line


@pytest.mark.parametrize("name", SHIPPED)
def test_public_sets_are_read_as_shipped_with_the_keys_of_the_catalogue(
    tmp_path: Path, name: str
) -> None:
    layout, dataset = SHIPPED[name], CATALOG[name]
    root = layout.draw(tmp_path)
    task, index = read(root, *dataset.keys)
    found = {sample.path: sample.target for sample in index.samples}
    assert (task, len(found)) == (dataset.task, layout.count)
    assert {path: found[path] for path in layout.pairs} == dict(layout.pairs)
    if layout.splits:
        assert dict(Counter(sample.split for sample in index.samples)) == dict(layout.splits)
    if name == "ham10000":
        assert len({sample.group for sample in index.samples}) == 12


def test_every_set_of_the_catalogue_that_needs_keys_is_drawn() -> None:
    assert len(CATALOG) >= 20
    assert {name for name in CATALOG if CATALOG[name].keys} <= set(SHIPPED)


def test_a_wrong_suffix_in_a_csv_is_answered_with_the_file(tmp_path: Path) -> None:
    root = LAYOUTS["images and masks"].draw(tmp_path)
    (root / "splits.csv").write_text("path,target\nimages/3.jpg,masks/3.png\n")
    with pytest.raises(MedvisionError, match=r"images/3\.jpg .*; did you mean images/3\.png\?"):
        read(root)


def test_class_folders_with_masks_inside_one_folder_are_named_as_the_other_reading(
    tmp_path: Path,
) -> None:
    root = LAYOUTS["classes with masks"].draw(tmp_path / "Dataset_with_GT")
    choice = choose_task(tmp_path)
    assert (choice.task, choice.other) == ("segmentation", f"class folders: data.root={root}")


def test_images_and_masks_may_lie_anywhere(tmp_path: Path) -> None:
    LAYOUTS["images and masks"].draw(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "a/masks").rename(tmp_path / "b/drawn")
    texts = (f"data.masks={tmp_path / 'b/drawn'}", "data.images=images", "data.exclude=images/3.*")
    base, keys = anchored(tmp_path / "a", parse_keys(texts).folder)
    assert base == tmp_path
    samples = index_segmentation(base, keys=keys).samples
    assert len(samples) == 11
    assert (samples[0].path, samples[0].target) == ("a/images/0.png", "b/drawn/0.png")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["data.mask_sufix=_m"], "unknown key data.mask_sufix .*did you mean data.mask_suffix"),
        (["mask"], "expected KEY=VALUE, got mask"),
        (["data.images=x"], "expected data.images and data.masks together"),
        (["data.mask_pattern=x"], "expected data.mask_pattern and data.mask_template together"),
        (["data.mask_pattern=zz", "data.mask_template=y"], "zz matches no image"),
        (["data.mask_pattern=(", "data.mask_template=y"], "not a regular expression"),
        (["data.mask_merge=mean"], "expected one of union, majority, first"),
        (["data.images=a", "data.masks=masks"], r"nothing matches a \(data\.images\)"),
        (["data.annotator=anna"], "each image has one"),
        (["data.task=detection"], "expected segmentation or classification"),
    ],
)
def test_errors_of_keys_name_the_key(tmp_path: Path, texts: list[str], message: str) -> None:
    root = LAYOUTS["images and masks"].draw(tmp_path)
    with pytest.raises(MedvisionError, match=message):
        read(root, *texts)


def test_class_folders_with_the_same_names_are_not_taken_for_masks(tmp_path: Path) -> None:
    """Numbered files in every class, and drawings in every class, are harmless."""
    files = [f"{name}/{n}.png" for name in ("a", "b") for n in range(10)]
    files += [f"a/{n}_1.png" for n in range(10)]
    layout = Layout(files=files)
    task, index = read(layout.draw(tmp_path / "numbers"))
    assert (task, len(index.samples), index.notes) == ("classification", 30, [])
    drawn = Layout(files=[f"{name}/{n}.png:mask" for name in ("a", "b") for n in range(10)])
    assert read(drawn.draw(tmp_path / "drawn"))[0] == "classification"


def test_pictures_of_labels_beside_photographs_are_refused_as_a_class(tmp_path: Path) -> None:
    files = [*(f"a/x{n}.png" for n in range(10)), *(f"b/y{n}.png:mask" for n in range(10))]
    root = Layout(files=files).draw(tmp_path)
    with pytest.raises(MedvisionError, match="b holds only pictures of a few levels") as caught:
        read(root)
    assert "data.masks=b" in str(caught.value.hint)
    task, index = read(root, "data.task=classification")
    assert (task, len(index.samples)) == ("classification", 20)
    assert "it is read as a class because of data.task" in index.notes[0]


def test_two_folders_of_images_and_masks_are_refused_by_a_classification(tmp_path: Path) -> None:
    root = LAYOUTS["unknown names"].draw(tmp_path)
    with pytest.raises(MedvisionError, match="found images and masks under the same names"):
        index_classification(root, keys=parse_keys(["data.task=classification"]).folder)


@pytest.mark.parametrize(
    "tops",
    [
        ("Train_Input", "Input"),  # not all folders name a split
        ("test_a", "val_b"),  # no training images
        ("train_a", "train_b"),
        ("train_test", "train"),  # two splits in one name
        ("contest", "training_b"),
    ],
)
@pytest.mark.parametrize("joint", ["/", "_"], ids=["folders", "files"])
def test_words_in_names_give_splits_only_where_all_do(
    tmp_path: Path, tops: tuple[str, str], joint: str
) -> None:
    for number, top in enumerate(tops):
        for k in range(3):
            for end in ("", "_mask"):
                path = tmp_path / f"{top}{joint}{number}{k}{end}.png"
                path.parent.mkdir(exist_ok=True)
                path.touch()
    index = index_segmentation(tmp_path)
    assert len(index.samples) == 6
    assert set(index.samples.splits) == {""}


def test_groups_that_a_given_split_divides_are_counted(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").touch()
    head, rows = "image,label,patient,split\n", "0,a,p,train\n1,b,p,{}\n2,a,q,train\n3,b,q,train\n"
    for split, words in (
        ("test", "2 groups of 4 images; 1 of them is in more than one of the given splits"),
        ("train", "2 groups of 4 images; each stays in one split"),
        ("", "2 groups of 4 images; each stays in one split"),
    ):
        (tmp_path / "labels.csv").write_text(head + rows.format(split), encoding="utf-8")
        assert f"  groups    {words}" in list(inspect_folder(tmp_path, parse_keys([])))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"image,MEL,age\n0.png,1,50\n",
            "and none of the columns of labels.csv holds the class or the mask of the images:"
            " image, MEL, age (ROOT/labels.csv); a column of classes is called target, label, ",
        ),
        (
            b"image,MEL,NV\n0.png,1,0\n1.png,1,1\n",
            "and line 3 of labels.csv does not mark exactly one class with 1 (ROOT/labels.csv);"
            " keep the images of one class each, or add a column class",
        ),
        (
            b"image,MEL,NV\n0.png,0,0\n1.png,0,1\n",
            "and line 2 of labels.csv does not mark exactly one class with 1 (ROOT/labels.csv)",
        ),
        (
            b"image,is_train,is_test\n0.png,0,1\n1.png,1,0\n",
            "and none of the columns of labels.csv holds the class or the mask of the images:",
        ),
        (
            b"Aufnahme;Befund\n0.png;a\n",
            "and none of the columns of labels.csv names the files of the images: Aufnahme,"
            " Befund (ROOT/labels.csv); a column of images is called path, file, ",
        ),
        (
            "image,label\n0.png,gut\n1.png,bösartig\n".encode("latin-1"),
            "and labels.csv is not UTF-8 (ROOT/labels.csv); save it as CSV in UTF-8",
        ),
    ],
)
def test_a_table_that_is_not_understood_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "images").mkdir()
    for number in range(2):
        (tmp_path / "images" / f"{number}.png").touch()
    (tmp_path / "labels.csv").write_bytes(text)
    for call in (choose_task, index_classification, index_segmentation):
        with pytest.raises(MedvisionError) as caught:
            call(tmp_path)
        assert message in str(caught.value).replace(str(tmp_path), "ROOT")
    (tmp_path / "labels.csv").write_bytes(b"image,label\n0.png,a\n1.png,b\n")
    assert index_classification(tmp_path).class_names == ["a", "b"]


def test_other_tables_do_not_hide_folders_of_classes(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "results.csv").write_text("epoch,loss\n1,2\n")
    assert choose_task(tmp_path).task == "classification"
    assert index_classification(tmp_path).class_names == ["a", "b"]


@pytest.mark.parametrize("name", ["GroundTruth.csv", "splits.csv"])
def test_columns_of_0_and_1_are_classes(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").touch()
    rows = ["0,0.0,1.0,0.0,p0", "1,1.0,0.0,0.0,p0", "2,1,0,0,p1"]
    (tmp_path / name).write_text("\n".join(["image,MEL,Nævus,UNK,patient", *rows]))
    (tmp_path / "Metadata.csv").write_text("image,age\n0,50\n1,60\n2,70\n")
    index = index_classification(tmp_path)
    assert choose_task(tmp_path).task == "classification"
    assert list(index.samples.targets) == ["Nævus", "MEL", "MEL"]
    assert list(index.samples.groups) == ["p0", "p0", "p1"]
    assert index.class_names == ["MEL", "Nævus"]


def test_columns_of_0_and_1_do_not_replace_folders_of_classes(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    for table in ("notes.csv", "splits.csv"):
        (tmp_path / table).write_text("path,blurred,sharp\na/0.png,0,1\nb/1.png,1,0\n")
        assert list(index_classification(tmp_path).samples.targets) == ["a", "b"]


@pytest.mark.parametrize(
    ("own", "remedy"),
    [
        (None, "rename it to splits.csv"),
        ("path\na/0.png\na/1.png\nb/2.png\n", "add the column to splits.csv"),
    ],
)
def test_groups_in_a_table_that_is_not_read_are_noted(
    tmp_path: Path, own: str | None, remedy: str
) -> None:
    for name in ("a/0.png", "a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if own:
        (tmp_path / "splits.csv").write_text(own)
    table = tmp_path / "metadata.csv"
    table.write_text("image_id,Patient_ID\n0,p\n1,p\n2,q\n7,q\n")
    assert index_classification(tmp_path).notes == [
        "metadata.csv is not read: images with the same patient_id can be in different splits"
        f" (2 of 3 images share one with another image); {remedy} to keep them together"
    ]
    assert index_classification(tmp_path, group_pattern=r"(\d)\.png").notes == []
    if own is None:
        table.rename(tmp_path / "splits.csv")
        with pytest.raises(MedvisionError, match="7"):
            index_classification(tmp_path)
        (tmp_path / "splits.csv").write_text("image_id,Patient_ID\n0,p\n1,p\n2,q\n")
        index = index_classification(tmp_path)
        assert (list(index.samples.groups), index.notes) == (["p", "p", "q"], [])


def test_groups_in_a_table_that_is_not_read_are_compared_with_the_given_splits(
    tmp_path: Path,
) -> None:
    for name in ("train/a/0.png", "train/b/1.png", "test/a/2.png", "test/b/3.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    table = tmp_path / "metadata.csv"
    table.write_text("image_id,patient_id\n0,p\n1,p\n2,q\n3,p\n")
    assert index_classification(tmp_path).notes == [
        "metadata.csv is not read: 1 of the 2 values of patient_id have images in more than one of"
        " the given splits; rename it to splits.csv to have them checked"
    ]
    table.write_text("image_id,patient_id\n0,p\n1,p\n2,q\n3,q\n")
    assert index_classification(tmp_path).notes == []


@pytest.mark.parametrize(
    "content",
    [
        b"image_id,patient_id\n0,p\n1,q\n2,r\n",  # no two images of a patient
        b"image_id,patient_id\n0,p\n9,p\n8,p\n",  # other images
        b"image_id,age\n0,50\n1,50\n2,50\n",
        b"image_id,patient_id\n0,\n1,\n2,\n",
        b"patient_id,visits\np,1\np,2\n",
        b"image_id,patient_id\n0,p\n1,\xff\n",
        b"",
    ],
)
def test_tables_without_groups_of_several_images_give_no_note(
    tmp_path: Path, content: bytes
) -> None:
    for name in ("a/0.png", "a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "metadata.csv").write_bytes(content)
    assert index_classification(tmp_path).notes == []


@pytest.mark.parametrize("joint", ["|", "; ", ", ", "+"])
def test_several_classes_in_a_cell_are_refused_unless_they_are_listed(
    tmp_path: Path, joint: str
) -> None:
    (tmp_path / "images").mkdir()
    classes = ["Mass", "Effusion", f"Mass{joint}Effusion", "No Finding"]
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").touch()
    table = tmp_path / "Data_Entry.csv"
    rows = [f'{number}.png,"{name}",{number // 2}' for number, name in enumerate(classes)]
    table.write_text("\n".join(["Image Index,Finding Labels,Patient ID", *rows]))
    with pytest.raises(MedvisionError) as caught:
        index_classification(tmp_path)
    assert caught.value.what == f"1 of 4 images have several classes: Mass{joint}Effusion"
    listed = parse_keys([f"data.class_names={json.dumps(classes)}"]).folder
    index = index_classification(tmp_path, keys=listed, class_names=classes)
    assert list(index.samples.targets) == classes
    assert list(index.samples.groups) == ["0", "0", "1", "1"]


def test_names_of_classes_may_hold_commas_and_slashes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    classes = ["grade 1/2", "grade 3", "glioma, low grade", "glioma"]
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").touch()
    rows = [f'{number}.png,"{name}"' for number, name in enumerate(classes)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]))
    assert list(index_classification(tmp_path).samples.targets) == classes


def test_two_tables_of_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").touch()
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("image,label\n0.png,a\n")
    with pytest.raises(MedvisionError, match=r"one\.csv, two\.csv all name images"):
        choose_task(tmp_path)


def test_the_guide_lists_the_names_of_the_columns() -> None:
    page = (Path(__file__).parents[2] / "docs/guides/layouts.md").read_text(encoding="utf-8")
    for kind, names in RECOGNISED.items():
        assert f"| {kind} | {', '.join(f'`{name}`' for name in names)} |" in page


def test_the_guide_lists_the_layouts() -> None:
    page = (Path(__file__).parents[2] / "docs/guides/layouts.md").read_text(encoding="utf-8")
    rows = "\n".join(layout.guide_row(name) for name, layout in LAYOUTS.items())
    assert rows in page, f"the table should be\n{rows}"


def test_suggested_keys_are_quoted_for_the_shell(tmp_path: Path) -> None:
    assert data_keys(images="a b", masks="*/GT") == "'data.images=a b' 'data.masks=*/GT'"
    noise = np.random.default_rng(0)
    for folder in ("Bilder JPG", "GT_expert"):
        (tmp_path / folder).mkdir()
        for number in range(6):
            picture = noise.integers(0, 256, (48, 48)).astype(np.uint8)
            if folder == "GT_expert":
                picture[:] = 0
                picture[: 7 * number + 4] = 255
            name = f"{number}_a" if folder == "Bilder JPG" else f"lesion {number}"
            cv2.imwrite(str(tmp_path / folder / f"{name}.png"), picture)
    with pytest.raises(MedvisionError) as caught:
        read(tmp_path)
    words = shlex.split(str(caught.value.hint).replace(",", " "))
    assert words[:3] == ["set", "data.images=Bilder JPG", "data.masks=GT_expert"]


def test_a_wrong_template_names_a_mask_that_was_looked_for_and_one_that_exists(
    tmp_path: Path,
) -> None:
    for folder, name in (("images", "{}_img"), ("masks", "m{}")):
        (tmp_path / folder).mkdir()
        for number in range(3):
            (tmp_path / folder / f"{name.format(number)}.png").touch()
    keys = FolderKeys(mask_pattern="(.*)_img", mask_template=r"\1_mask")
    with pytest.raises(MedvisionError, match=r"; 0_mask\.\* was looked for, and there is masks/m0"):
        index_segmentation(tmp_path, keys=keys)
    keys = FolderKeys(mask_pattern="(.*)_img", mask_template=r"m\1")
    assert len(index_segmentation(tmp_path, keys=keys).samples) == 3
