"""Folders as public sets ship them, with drawn pictures: each layout and how it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = (40, 48)
"""Height and width of the pictures; pixels."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A folder and how it is read.

    Attributes:
        files: Names of the files; a name that ends in ``:mask``, ``:view`` or ``:label`` is a
            picture of that kind, other names are photographs. Text follows ``=``.
        task: Expected task; empty if the folder is refused.
        keys: Keys that read it.
        pairs: Expected target of some images.
        count: Expected number of images.
        refused: Text of the error without the keys; empty if it is read without any.
        splits: Expected number of images of each given split.
        arrays: Names of npz files as MedMNIST ships them.
    """

    files: Sequence[str]
    task: str = "segmentation"
    keys: Sequence[str] = ()
    pairs: Mapping[str, str] = field(default_factory=dict)
    count: int = 0
    refused: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)
    arrays: Sequence[str] = ()

    def draw(self, root: Path) -> Path:
        """Draw the files below a folder."""
        for number, text in enumerate(self.files):
            name, equals, content = text.partition("=")
            name, _, kind = name.partition(":")
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if equals:
                path.write_text(content.replace("\\n", "\n"), encoding="utf-8")
            else:
                path.write_bytes(_encoded(path.suffix, kind, number % 12))
        for name in self.arrays:
            root.mkdir(parents=True, exist_ok=True)
            np.savez(root / name, **_arrays())
        return root

    def guide_row(self, name: str) -> str:
        """Row of the table in docs/guides/layouts.md."""
        read = f"{self.task}, {self.count} images"
        if self.splits:
            counted = ", ".join(f"{split} {count}" for split, count in self.splits.items())
            read += f", splits {counted}"
        files = "<br>".join(f"`{line}`" for line in self.outline())
        keys = "<br>".join(f"`{key}`" for key in self.keys)
        otherwise = "the outer folders are" if "class_pattern" in keys else "read as"
        keys += f"<br>{otherwise} classes without it" if self.keys and not self.refused else ""
        return f"| {name} | {files} | {read} | {keys} |"

    def outline(self, *, max_lines: int = 6) -> list[str]:
        """Files in a few lines: the first of each series that differs in numbers only."""
        series: dict[str, list[str]] = {}
        for text in (*self.files, *self.arrays):
            file, _, content = text.partition("=")
            file = file.partition(":")[0]
            header = content.partition("\n")[0].replace("\t", " ")
            shown = f"{file}: {header}" if file.endswith(("csv", "tsv")) else file
            series.setdefault(re.sub(r"\d+", "0", file), []).append(shown)
        lines = [f"{files[0]} ..." if len(files) > 1 else files[0] for files in series.values()]
        if len(lines) > max_lines:
            lines[max_lines - 1 :] = ["..."]
        return lines


def _arrays() -> dict[str, NDArray[np.uint8]]:
    """Return 16 training images and 8 of validation and test, of two classes."""
    found = {}
    for stage, count in (("train", 16), ("val", 8), ("test", 8)):
        images = [picture("", k)[:28, :28] // (1 + k % 2) for k in range(count)]
        found[f"{stage}_images"] = np.stack(images)
        found[f"{stage}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
    return found


def _box(number: int) -> list[float]:
    """Corners of a rectangle in the picture of a number, as x and y."""
    left, top = 8.0 + number, 6.0 + number
    return [left, top, left + 12, top, left + 12, top + 9, left, top + 9]


def coco(names: Sequence[str], *, with_box: bool = False) -> str:
    """Return a COCO file of one polygon per image, and a box without a mask."""
    height, width = SIZE
    annotations = [
        {"id": k, "image_id": k, "category_id": 7, "segmentation": [_box(k)], "iscrowd": 0}
        for k in range(len(names))
    ]
    if with_box:
        annotations.append({"id": 99, "image_id": 0, "category_id": 7, "bbox": [1, 1, 5, 5]})
    images = [
        {"id": k, "file_name": name, "height": height, "width": width}
        for k, name in enumerate(names)
    ]
    categories = [{"id": 7, "name": "polyp"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def labelme(number: int, name: str) -> str:
    """Return a LabelMe file with one polygon."""
    points = np.reshape(_box(number), (-1, 2)).tolist()
    shape = {"label": "polyp", "points": points, "shape_type": "polygon", "group_id": None}
    sizes = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    return json.dumps({"shapes": [shape], "imagePath": name, "imageData": None, **sizes})


@cache
def _encoded(suffix: str, kind: str, number: int) -> bytes:
    drawn = picture(kind, number)
    if suffix == ".ppm" and drawn.ndim == 2:
        drawn = np.repeat(drawn[..., None], 3, axis=2)
    done, data = cv2.imencode(suffix, drawn)
    assert done
    return data.tobytes()


def picture(kind: str, number: int) -> NDArray[np.uint8]:
    """Draw a photograph, a mask of a disc in it, or a field of view."""
    height, width = SIZE
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width]
    centre = 12 + 2 * (number % 8), 14 + 2 * (number % 9)
    disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (6 + number % 4) ** 2
    if kind == "mask":
        return np.where(disc, 255, 0).astype(np.uint8)
    if kind == "small":
        return np.where(disc & (y > centre[0]), 255, 0).astype(np.uint8)
    if kind == "label":
        return disc.astype(np.uint8)
    if kind == "view":
        inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < 18**2
        return np.where(inside, 255, 0).astype(np.uint8)
    shade = 60 + 2 * y + 90 * disc + rng.normal(0, 12, (height, width))
    return np.stack([shade, shade * 0.8, shade * 0.6], axis=2).clip(0, 255).astype(np.uint8)


N = 12


def each(*forms: str, start: int = 0, count: int = N) -> list[str]:
    """Fill the number of each case into several names, one kind after another."""
    return [form.format(n=number) for form in forms for number in range(start, start + count)]


def _two(images: str, masks: str, **options: object) -> Layout:
    return Layout(files=each(f"{images}/{{n}}.png", f"{masks}/{{n}}.png:mask"), count=N, **options)  # type: ignore[arg-type]


def _divided(images: str, masks: str, of_test: tuple[str, str], pair: tuple[str, str]) -> Layout:
    """12 images for training and 4 for a test, each kind with its own form of names."""
    return Layout(
        files=[*each(images, f"{masks}:mask"), *each(of_test[0], f"{of_test[1]}:mask", count=4)],
        count=16,
        pairs={pair[0]: pair[1]},
        splits={"train": 12, "test": 4},
    )


LAYOUTS: dict[str, Layout] = {
    "images and masks": _two("images", "masks", pairs={"images/3.png": "masks/3.png"}),
    "imgs and masks": _two("imgs", "masks", pairs={"imgs/3.png": "masks/3.png"}),
    "Original and Ground Truth": Layout(
        files=each("Original/{n}.tif", "Ground Truth/{n}.tif:mask"),
        count=N,
        pairs={"Original/0.tif": "Ground Truth/0.tif"},
    ),
    "IMG and Label": _two("IMG", "Label"),
    "image and gt": _two("image", "gt"),
    "data and segmentation": _two("data", "segmentation"),
    "jpg and annotations": Layout(files=each("jpg/{n}.jpg", "annotations/{n}.png:label"), count=N),
    "a level in between": _two("CVC/Original", "CVC/Ground Truth"),
    "two centres": Layout(
        files=each(
            "centre1/images/{n}.png",
            "centre1/masks/{n}.png:mask",
            "centre2/images/{n}.png",
            "centre2/masks/{n}.png:mask",
            count=6,
        ),
        count=12,
    ),
    "two centres with names": Layout(
        files=each(
            "berlin/images/{n}.png",
            "berlin/masks/{n}.png:mask",
            "tokyo/images/{n}.png",
            "tokyo/masks/{n}.png:mask",
            count=6,
        ),
        keys=("data.task=segmentation",),
        count=12,
    ),
    "splits above": Layout(
        files=each("train/images/{n}.png", "train/masks/{n}.png:mask")
        + each("Test/images/{n}.png", "Test/masks/{n}.png:mask", count=3),
        count=15,
        splits={"train": 12, "test": 3},
    ),
    "splits below": Layout(
        files=each("images/train/{n}.png", "masks/train/{n}.png:mask")
        + each("images/val/{n}.png", "masks/val/{n}.png:mask", count=3),
        count=15,
        splits={"train": 12, "val": 3},
    ),
    "splits above other names": Layout(
        files=each("training/imgs/{n}.png", "training/labels/{n}.png:mask")
        + each("testing/imgs/{n}.png", "testing/labels/{n}.png:mask", count=3),
        count=15,
        splits={"train": 12, "test": 3},
    ),
    "splits in names of folders": Layout(
        files=[
            *each(
                "Task_Training_Input/I_{n}.jpg", "Task_Training_Truth/I_{n}_segmentation.png:mask"
            ),
            *each(
                "Task_Test_Input/J_{n}.jpg", "Task_Test_Truth/J_{n}_segmentation.png:mask", count=4
            ),
        ],
        count=16,
        pairs={"Task_Test_Input/J_3.jpg": "Task_Test_Truth/J_3_segmentation.png"},
        splits={"train": 12, "test": 4},
    ),
    "splits in names of files": _divided(
        "train_{n}.png",
        "train_{n}_mask.png",
        ("testA_{n}.png", "testA_{n}_mask.png"),
        ("testA_3.png", "testA_3_mask.png"),
    ),
    "classes, splits in names of files": Layout(
        files=[f"{c}/{s}_{n}.png" for c in ("cat", "dog") for s in ("train", "val") for n in "012"],
        task="classification",
        count=12,
        splits={"train": 6, "val": 6},
    ),
    "a split in the names of some files": Layout(
        files=[
            *each("train_{n}.png", "train_{n}_mask.png:mask"),
            *each("clinic_{n}.png", "clinic_{n}_mask.png:mask", count=4),
        ],
        count=16,
        pairs={"clinic_3.png": "clinic_3_mask.png"},
    ),
    "training and test beside each other": _divided(
        "trainval-image/{n}.png",
        "trainval-mask/{n}.png",
        ("test-image/{n}.png", "test-mask/{n}.png"),
        ("test-image/3.png", "test-mask/3.png"),
    ),
    "splits with masks beside": _divided(
        "train/{n}.png",
        "train_gt/{n}.png",
        ("test/{n}.png", "test_gt/{n}.png"),
        ("test/3.png", "test_gt/3.png"),
    ),
    "splits in folders of the same name": Layout(
        files=[
            *each("train/train/{n}.jpeg", "train_gt/train_gt/{n}.png:mask"),
            *each("test/test/t{n}.jpeg", count=4),
        ],
        count=N,
        pairs={"train/train/3.jpeg": "train_gt/train_gt/3.png"},
        splits={"train": 12},
    ),
    "unknown names": _two("scan_a", "drawn_b", pairs={"scan_a/1.png": "drawn_b/1.png"}),
    "mask suffix": Layout(
        files=each("images/case{n}.png", "masks/case{n}_segmentation.png:mask"),
        count=N,
        pairs={"images/case1.png": "masks/case1_segmentation.png"},
    ),
    "mask prefix": Layout(
        files=each("images/img_{n}.png", "masks/mask_{n}.png:mask"),
        count=N,
        refused="no mask for 12 of 12 images",
        keys=("data.mask_pattern=img", "data.mask_template=mask"),
        pairs={"images/img_1.png": "masks/mask_1.png"},
    ),
    "masks beside": Layout(
        files=each("{n}.png", "{n}_mask.png:mask"), count=N, pairs={"10.png": "10_mask.png"}
    ),
    "masks beside in one folder": Layout(
        files=each("images/{n}.png", "images/{n}_segmentation.png:mask"), count=N
    ),
    "masks beside with a prefix": Layout(
        files=each("scans/img_{n}.png", "scans/mask_{n}.png:mask"),
        count=N,
        refused="no mask for 12 of 12 images",
        keys=("data.mask_pattern=img", "data.mask_template=mask"),
        pairs={"scans/img_1.png": "scans/mask_1.png"},
    ),
    "lesions beside": Layout(
        files=[*each("p{n}.jpg", "p{n}_lesion.bmp:mask"), "p3_lesion_1.bmp:small"],
        count=N,
        pairs={"p3.jpg": "p3_lesion.bmp|p3_lesion_1.bmp", "p1.jpg": "p1_lesion.bmp"},
    ),
    "two annotators": Layout(
        files=each("Image_{n}L.jpg", "Image_{n}L_1stHO.png:mask", "Image_{n}L_2ndHO.png:small"),
        count=N,
        refused="each image has 2 masks: 1stHO, 2ndHO",
        keys=("data.annotator=1stHO",),
        pairs={"Image_0L.jpg": "Image_0L_1stHO.png"},
    ),
    "annotators in folders": Layout(
        files=each("images/{n}.png", "masks/anna/{n}.png:mask", "masks/bert/{n}.png:small"),
        count=N,
        refused="each image has 2 masks: anna, bert",
        keys=("data.mask_merge=majority",),
        pairs={"images/0.png": "masks/anna/0.png|masks/bert/0.png"},
    ),
    "one folder per image": Layout(
        files=[
            name
            for n in range(N)
            for name in (
                f"c{n:04d}/images/c{n:04d}.png",
                *(f"c{n:04d}/masks/{'pqr'[m]}{chr(97 + n)}{m}.png:mask" for m in range(1 + n % 3)),
            )
        ],
        count=N,
        pairs={"c0001/images/c0001.png": "c0001/masks/pb0.png|c0001/masks/qb1.png"},
    ),
    "one folder per image, same names": Layout(
        files=each("{n}/image.png", "{n}/mask.png:mask"),
        count=12,
        pairs={"3/image.png": "3/mask.png"},
    ),
    "a test set without masks": Layout(
        files=[
            *each("stage1/{n}a/images/{n}a.png", "stage1/{n}a/masks/q{n}.png:mask"),
            *each("stage1_test/{n}b/images/{n}b.png", count=3),
        ],
        count=N,
    ),
    "other masks beside": Layout(
        files=each("images/{n}.png", "masks/{n}.png:mask", "labels/{n}.png:small"),
        count=N,
        pairs={"images/3.png": "masks/3.png"},
    ),
    "field of view beside": Layout(
        files=each(
            "training/images/{n}_training.tif",
            "training/1st_manual/{n}_manual1.png:mask",
            "training/mask/{n}_training_mask.png:view",
        ),
        count=N,
        refused="several folders may hold the masks of images: 1st_manual, mask",
        keys=(
            "data.images=*/images",
            "data.masks=*/1st_manual",
            r"data.mask_pattern=(\d+)_training",
            r"data.mask_template=\1_manual1",
            "data.roi=*/mask",
        ),
        pairs={
            "training/images/3_training.tif": "training/1st_manual/3_manual1.png"
            "|roi:training/mask/3_training_mask.png"
        },
        splits={"train": N},
    ),
    "two formats": Layout(
        files=each(
            "PNG/Original/{n}.png",
            "PNG/Ground Truth/{n}.png:mask",
            "TIF/Original/{n}.tif",
            "TIF/Ground Truth/{n}.tif:mask",
        ),
        count=N,
        refused="PNG and TIF hold files of the same names in two formats",
        keys=("data.exclude=TIF",),
    ),
    "one folder per kind and image": Layout(
        files=each("P{n}/P{n}_photo/P{n}.bmp", "P{n}/P{n}_lesion/P{n}_lesion.bmp:mask"),
        count=N,
        pairs={"P1/P1_photo/P1.bmp": "P1/P1_lesion/P1_lesion.bmp"},
    ),
    "two kinds of masks per image": Layout(
        files=each("P{n}/P{n}_photo/P{n}.bmp", "P{n}/P{n}_lesion/P{n}_lesion.bmp:mask")
        + each("P{n}/P{n}_roi/P{n}_R1_Label1.bmp:small", count=5),
        count=N,
        refused="each image has 2 masks: R1_Label1, lesion",
        keys=("data.images=P*/P*_photo", "data.masks=P*/P*_lesion"),
        pairs={"P1/P1_photo/P1.bmp": "P1/P1_lesion/P1_lesion.bmp"},
    ),
    "classes": Layout(files=each("cat/{n}.png", "dog/{n}.png"), task="classification", count=24),
    "classes in splits": Layout(
        files=each("train/cat/{n}.png", "train/dog/{n}.png")
        + each("test/cat/{n}.png", "test/dog/{n}.png", start=8, count=4),
        task="classification",
        count=32,
        splits={"train": 24, "test": 8},
    ),
    "classes in file names": Layout(
        files=each("shots/cat_{n}.png", "shots/dog_{n}.png"),
        task="classification",
        keys=(r"data.class_pattern=([a-z]+)_\d",),
        count=24,
        refused="at least two class folders, found only 24 images in shots",
        pairs={"shots/dog_3.png": "dog"},
    ),
    "classes in folders of patients": Layout(
        files=[f"1025{k}/{k % 2 if k > 8 else n % 2}/{n}.png" for k in range(10) for n in range(4)],
        task="classification",
        keys=("data.class_pattern=^[^/]+/([^/]+)/", "data.group_pattern=^([^/]+)/"),
        count=40,
        refused="hold the folders 0, 1, which may be the classes",
        pairs={"10253/1/3.png": "1", "10259/1/0.png": "1"},
    ),
    "classes in a copy of the folder": Layout(
        files=each("cat/{n}.png", "dog/{n}.png", "set/cat/{n}.png", "set/dog/{n}.png"),
        task="classification",
        keys=("data.exclude=set",),
        count=24,
        refused="set holds the folders cat, dog, as the folder around it",
    ),
    "classes and images without one": Layout(
        files=each("no/{n}.png", "yes/{n}.png", "pred/{n}.png"),
        task="classification",
        keys=("data.exclude=pred",),
        count=24,
        refused="pred seems to hold images without a known class",
    ),
    "classes in folders of organs": Layout(
        files=each(*(f"{o}_sets/{o}_{c}/{{n}}.png" for o in ("colon", "lung") for c in "tn")),
        task="classification",
        keys=("data.class_pattern=^[^/]+/([^/]+)/",),
        count=48,
        pairs={"lung_sets/lung_n/3.png": "lung_n"},
    ),
    "classes with masks": Layout(
        files=[
            *each("benign/b ({n}).png", "benign/b ({n})_mask.png:mask"),
            "benign/b (1)_mask_1.png:small",
            *each("malignant/m ({n}).png", "malignant/m ({n})_mask.png:mask"),
        ],
        task="classification",
        count=24,
    ),
    "classes with masks as segmentation": Layout(
        files=[
            *each("benign/b ({n}).png", "benign/b ({n})_mask.png:mask"),
            "benign/b (1)_mask_1.png:small",
            *each("malignant/m ({n}).png", "malignant/m ({n})_mask.png:mask"),
        ],
        keys=("data.task=segmentation",),
        count=24,
        pairs={"benign/b (1).png": "benign/b (1)_mask.png|benign/b (1)_mask_1.png"},
    ),
    "classes with folders of masks": Layout(
        files=each(
            "COVID/images/{n}.png",
            "COVID/masks/{n}.png:mask",
            "Normal/images/{n}.png",
            "Normal/masks/{n}.png:mask",
        ),
        task="classification",
        count=24,
        pairs={"COVID/images/1.png": "COVID"},
    ),
    "classes with two folders of masks": Layout(
        files=each(
            *(f"{c}/images/{{n}}.png" for c in ("COVID", "Normal")),
            *(f"{c}/lung masks/{{n}}.png:mask" for c in ("COVID", "Normal")),
            *(f"{c}/infection masks/{{n}}.png:small" for c in ("COVID", "Normal")),
        ),
        task="classification",
        count=24,
        pairs={"COVID/images/1.png": "COVID"},
    ),
    "a class of masks": Layout(
        files=each("cat/{n}.png", "dog/{n}.png", "dog drawn/{n}.png:mask"),
        task="classification",
        count=24,
    ),
    "csv of masks": Layout(
        files=[
            *each("a/{n}.png", "b/x{n}.png:mask"),
            "splits.csv=path,target\n" + "\n".join(f"a/{n}.png,b/x{n}.png" for n in range(N)),
        ],
        count=N,
        pairs={"a/2.png": "b/x2.png"},
    ),
    "csv of classes": Layout(
        files=[
            *each("a/{n}.png"),
            "splits.csv=path,target\n" + "\n".join(f"a/{n}.png,{'uv'[n % 2]}" for n in range(N)),
        ],
        task="classification",
        count=N,
    ),
    "csv with usual names": Layout(
        files=[
            *each("pictures/{n}.jpg"),
            "labels.csv=image_id,dx,patient_id\n"
            + "\n".join(f"{n},{'uv'[n % 2]},p{n // 2}" for n in range(N)),
        ],
        task="classification",
        count=N,
        pairs={"pictures/3.jpg": "v"},
    ),
    "csv with a column for each class": Layout(
        files=[
            *each("pictures/{n}.jpg"),
            "GroundTruth.csv=image,MEL,NV\n"
            + "\n".join(f"{n},{1 - n % 2}.0,{n % 2}.0" for n in range(N)),
        ],
        task="classification",
        count=N,
        pairs={"pictures/3.jpg": "NV"},
    ),
    "csv beside parts of the images": Layout(
        files=[
            *each("train_images/{n}.png"),
            *each("test_images/t{n}.png", count=4),
            "train.csv=id_code,diagnosis\n" + "\n".join(f"{n},{n % 2}" for n in range(N)),
            "test.csv=id_code\n" + "\n".join(f"t{n}" for n in range(4)),
        ],
        task="classification",
        count=N,
        pairs={"train_images/3.png": "1"},
    ),
    "tsv with usual names": Layout(
        files=[
            *each("x/{n}.png", "y/m{n}.png:mask"),
            "list.tsv=filename\tmask\tsplit\n"
            + "\n".join(f"x/{n}.png\ty/m{n}.png\ttrain" for n in range(N)),
        ],
        count=N,
        pairs={"x/3.png": "y/m3.png"},
        splits={"train": N},
    ),
    "COCO": Layout(
        files=[
            *each("images/{n}.png"),
            "annotations/instances.json=" + coco([f"{n}.png" for n in range(N)], with_box=True),
        ],
        count=N,
        pairs={"images/3.png": "annotations/instances.json#3"},
    ),
    "COCO in split folders": Layout(
        files=[
            *each("train/{n}.png"),
            "train/_annotations.coco.json=" + coco([f"{n}.png" for n in range(N)]),
            *each("valid/v{n}.png", count=4),
            "valid/_annotations.coco.json=" + coco([f"v{n}.png" for n in range(4)]),
        ],
        count=N + 4,
        splits={"train": N, "val": 4},
    ),
    "LabelMe": Layout(
        files=[
            name for n in range(N) for name in (f"{n}.png", f"{n}.json=" + labelme(n, f"{n}.png"))
        ],
        count=N,
        pairs={"3.png": "3.json"},
    ),
    "LabelMe in another folder": Layout(
        files=[
            name
            for n in range(N)
            for name in (f"photos/{n}.png", f"json/{n}.json=" + labelme(n, f"../photos/{n}.png"))
        ],
        count=N,
        pairs={"photos/3.png": "json/3.json"},
    ),
    "one array file": Layout(
        files=(),
        arrays=("breastmnist.npz",),
        task="classification",
        count=32,
        splits={"train": 16, "val": 8, "test": 8},
        pairs={"breastmnist.npz#train/03": "1"},
    ),
    "several array files": Layout(
        files=(),
        arrays=("breastmnist.npz", "pneumoniamnist.npz"),
        task="classification",
        refused="2 files of images: breastmnist.npz, pneumoniamnist.npz",
        keys=("data.images=pneumoniamnist.npz",),
        count=32,
        splits={"train": 16, "val": 8, "test": 8},
    ),
    "accents in two encodings": Layout(
        files=[
            *each("images/e\u0301_{n}.png", "masks/\u00e9_{n}.png:mask"),
            "splits.csv=path,target\n"
            + "\n".join(f"images/\u00e9_{n}.png,masks/e\u0301_{n}.png" for n in range(N)),
        ],
        count=N,
        pairs={"images/e\u0301_3.png": "masks/\u00e9_3.png"},
    ),
}
"""Layouts by name."""


_TCGA = [f"TCGA_{['CS', 'DU', 'FG'][p % 3]}_{4941 + p}_1996" for p in range(24)]

SHIPPED: dict[str, Layout] = {
    "kvasir_seg": LAYOUTS["images and masks"],
    "cvc_clinicdb": LAYOUTS["Original and Ground Truth"],
    "cvc_colondb": LAYOUTS["images and masks"],
    "etis_larib": Layout(
        files=each("ETIS-LaribPolypDB/{n}.tif", "GroundTruth/p{n}.tif:mask"),
        count=N,
        pairs={"ETIS-LaribPolypDB/3.tif": "GroundTruth/p3.tif"},
    ),
    "polypgen": Layout(
        files=[
            name
            for c in (1, 2)
            for name in each(
                f"data_C{c}/images_C{c}/EndoCV_C{c}_{{n}}.jpg",
                f"data_C{c}/masks_C{c}/EndoCV_C{c}_{{n}}_mask.jpg:mask",
                f"data_C{c}/bbox_C{c}/EndoCV_C{c}_{{n}}_mask.txt=1 2 3 4",
            )
        ],
        count=2 * N,
        pairs={"data_C2/images_C2/EndoCV_C2_3.jpg": "data_C2/masks_C2/EndoCV_C2_3_mask.jpg"},
    ),
    "isic_2018": Layout(
        files=each(
            "ISIC2018_Task1-2_Training_Input/ISIC_{n}.jpg",
            "ISIC2018_Task1_Training_GroundTruth/ISIC_{n}_segmentation.png:mask",
        ),
        count=N,
        pairs={
            "ISIC2018_Task1-2_Training_Input/ISIC_3.jpg": "ISIC2018_Task1_Training_GroundTruth"
            "/ISIC_3_segmentation.png"
        },
    ),
    "ph2": Layout(
        files=[
            *each(
                "PH2 Dataset images/IMD{n}/IMD{n}_Dermoscopic_Image/IMD{n}.bmp",
                "PH2 Dataset images/IMD{n}/IMD{n}_lesion/IMD{n}_lesion.bmp:mask",
            ),
            *each("PH2 Dataset images/IMD{n}/IMD{n}_roi/IMD{n}_R1_Label1.bmp:small", count=5),
        ],
        count=N,
        pairs={
            "PH2 Dataset images/IMD3/IMD3_Dermoscopic_Image/IMD3.bmp": "PH2 Dataset images/IMD3"
            "/IMD3_lesion/IMD3_lesion.bmp"
        },
    ),
    "drive": Layout(
        files=[
            *each(
                "training/images/{n}_training.tif",
                "training/1st_manual/{n}_manual1.png:mask",
                "training/mask/{n}_training_mask.png:view",
                start=21,
            ),
            *each(
                "test/images/{n}_test.tif",
                "test/1st_manual/{n}_manual1.png:mask",
                "test/2nd_manual/{n}_manual2.png:small",
                "test/mask/{n}_test_mask.png:view",
            ),
        ],
        count=2 * N,
        splits={"train": N, "test": N},
        pairs={
            "test/images/3_test.tif": "test/1st_manual/3_manual1.png|roi:test/mask/3_test_mask.png"
        },
    ),
    "chase_db1": Layout(
        files=each("Image_{n}L.jpg", "Image_{n}L_1stHO.png:mask", "Image_{n}L_2ndHO.png:small"),
        count=N,
        pairs={"Image_3L.jpg": "Image_3L_1stHO.png"},
    ),
    "stare": Layout(
        files=each(
            "stare-images/im{n:04d}.ppm",
            "labels-ah/im{n:04d}.ah.ppm:mask",
            "labels-vk/im{n:04d}.vk.ppm:small",
        ),
        count=N,
        pairs={"stare-images/im0003.ppm": "labels-ah/im0003.ah.ppm"},
    ),
    "hrf": Layout(
        files=each("images/{n}_dr.JPG", "manual1/{n}_dr.tif:mask", "mask/{n}_dr_mask.tif:view"),
        count=N,
        pairs={"images/3_dr.JPG": "manual1/3_dr.tif|roi:mask/3_dr_mask.tif"},
    ),
    "montgomery": Layout(
        files=each(
            "MontgomerySet/CXR_png/M_{n}_0.png",
            "MontgomerySet/ManualMask/leftMask/M_{n}_0.png:mask",
            "MontgomerySet/ManualMask/rightMask/M_{n}_0.png:small",
            "MontgomerySet/ClinicalReadings/M_{n}_0.txt=normal",
        ),
        count=N,
        pairs={
            "MontgomerySet/CXR_png/M_3_0.png": "MontgomerySet/ManualMask/leftMask/M_3_0.png"
            "|MontgomerySet/ManualMask/rightMask/M_3_0.png"
        },
    ),
    "shenzhen": Layout(
        files=[
            *each("CXR_png/CHNCXR_{n}_0.png", "mask/CHNCXR_{n}_0_mask.png:mask"),
            "CXR_png/CHNCXR_99_1.png",
        ],
        count=N,
        pairs={"CXR_png/CHNCXR_3_0.png": "mask/CHNCXR_3_0_mask.png"},
    ),
    "busi": LAYOUTS["classes with masks as segmentation"],
    "dsb_2018": LAYOUTS["one folder per image"],
    "glas": Layout(
        files=[
            *each("train_{n}.bmp", "train_{n}_anno.bmp:label"),
            *each("testA_{n}.bmp", "testA_{n}_anno.bmp:label", count=4),
            "Grade.csv=name,grade\ntrain_1,2",
        ],
        count=N + 4,
        pairs={"train_3.bmp": "train_3_anno.bmp"},
        splits={"train": N, "test": 4},
    ),
    "lgg_mri": Layout(
        files=[
            name
            for patient in _TCGA
            for name in each(
                f"{patient}/{patient}_{{n}}.tif",
                f"{patient}/{patient}_{{n}}_mask.tif:mask",
                start=1,
                count=3,
            )
        ],
        count=72,
    ),
    "ham10000": Layout(
        files=[
            *each("HAM10000_images_part_1/ISIC_{n}.jpg"),
            *each("HAM10000_images_part_2/ISIC_{n}.jpg", start=N),
            "HAM10000_metadata.csv=lesion_id,image_id,dx,dx_type,age,sex\n"
            + "\n".join(
                f"H{n // 2},ISIC_{n},{['nv', 'mel', 'bkl'][n % 3]},histo,50,male"
                for n in range(2 * N)
            ),
        ],
        task="classification",
        count=2 * N,
        pairs={"HAM10000_images_part_2/ISIC_13.jpg": "mel"},
    ),
    "chest_xray": LAYOUTS["classes in splits"],
    "brain_mri": LAYOUTS["classes in splits"],
    "kather_texture": LAYOUTS["classes"],
    "mednist": LAYOUTS["classes"],
    "medmnist": LAYOUTS["one array file"],
}
"""Public sets as their authors ship them, by their name in the catalogue, with its keys."""
