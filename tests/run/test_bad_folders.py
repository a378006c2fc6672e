"""Folders as users have them: errors are reported in one exact line, exit code 2.

Each case breaks a valid folder of 24 images with masks, and runs the program on it. The other
list has unusual but valid folders, which must be read.
"""

from __future__ import annotations

import os
import shutil
import struct
import sysconfig
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from medvision.data.discovery.index import index_segmentation
from medvision.data.reading import Reading
from medvision.data.validation.validate import check_files
from medvision.run import main

SMALL = ("trainer=cpu", "logger=csv", "data.image_size=32", "data.num_workers=0", "audit=skip")
NUM_IMAGES = 24
HEIGHT, WIDTH = 40, 48

LAYOUT = (
    "expected FOLDER/images/* and FOLDER/masks/* with the same file names without suffix,"
    " FOLDER/{train,val,test}/{images,masks}/*, or FOLDER/splits.csv"
)
REPLACE = "replace the file or remove it"
CSV_ROWS = [
    f"{'train' if k < 16 else 'val' if k < 20 else 'test'},images/c{k:02d}.png,masks/c{k:02d}.png"
    for k in range(NUM_IMAGES)
]


class Folder:
    """Data folder that a case breaks."""

    def __init__(self, root: Path) -> None:
        self.root, self.rng = root, np.random.default_rng(0)
        for name in ("images", "masks"):
            (root / name).mkdir(parents=True)
        for k in range(NUM_IMAGES):
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[5 + k % 10 : 20 + k % 10, 8:30] = 255
            cv2.imwrite(str(self.image(k)), self.noise(3))
            cv2.imwrite(str(self.mask(k)), mask)

    def image(self, number: int = 3, suffix: str = ".png") -> Path:
        return self.root / "images" / f"c{number:02d}{suffix}"

    def mask(self, number: int = 3) -> Path:
        return self.root / "masks" / f"c{number:02d}.png"

    def noise(self, channels: int = 1) -> np.ndarray:
        shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
        return self.rng.integers(0, 255, shape, dtype=np.uint8)

    def replace(self, picture: Image.Image, suffix: str, **options: object) -> None:
        self.image().unlink()
        picture.save(self.image(suffix=suffix), **options)

    def rename(self, stem: str) -> None:
        for path in (self.image(), self.mask()):
            path.rename(path.with_name(f"{stem}.png"))

    def table(self, *rows: str, header: str = "split,path,target", encoding: str = "utf-8") -> None:
        text = "\n".join((header, *rows)) + "\n"
        (self.root / "splits.csv").write_bytes(text.encode(encoding))

    def keep(self, count: int) -> None:
        for k in range(count, NUM_IMAGES):
            self.image(k).unlink()
            self.mask(k).unlink()


def bomb(folder: Folder) -> None:
    """PNG of 1 kB with a stated size of 30 000 x 30 000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    folder.image().write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


def animated(folder: Folder) -> None:
    frames = [Image.fromarray(folder.noise(3)) for _ in range(3)]
    frames[0].save(folder.image(), save_all=True, append_images=frames[1:])


def not_finite(folder: Folder) -> None:
    values = folder.rng.random((HEIGHT, WIDTH), dtype=np.float32)
    values[3, 3] = np.nan
    folder.replace(Image.fromarray(values), ".tif")


def turned(orientation: int) -> Callable[[Folder], None]:
    def spoil(folder: Folder) -> None:
        exif = Image.Exif()
        exif[274] = orientation
        folder.replace(Image.fromarray(folder.noise(3)), ".jpg", exif=exif)

    return spoil


def levels(*values: int) -> Callable[[Folder], None]:
    def spoil(folder: Folder) -> None:
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for k, value in enumerate(values):
            mask[10 * k : 10 * (k + 1)] = value
        cv2.imwrite(str(folder.mask()), mask)

    return spoil


def mask_of_size(height: int, width: int) -> Callable[[Folder], None]:
    return lambda folder: cv2.imwrite(str(folder.mask()), np.zeros((height, width), np.uint8))


def link(target: str) -> Callable[[Folder], None]:
    def spoil(folder: Folder) -> None:
        folder.image().unlink()
        folder.image().symlink_to(folder.root / target)

    return spoil


def all_alike(folder: Folder) -> None:
    for k in range(1, NUM_IMAGES):
        shutil.copy(folder.image(0), folder.image(k))
        shutil.copy(folder.mask(0), folder.mask(k))


SPOILT = {
    "cut short": (
        lambda f: f.image().write_bytes(f.image().read_bytes()[:700]),
        "damaged or unsupported picture: image file is truncated (ROOT/images/c03.png); " + REPLACE,
    ),
    "zero bytes": (
        lambda f: f.image().write_bytes(b""),
        "the file is empty (ROOT/images/c03.png); " + REPLACE,
    ),
    "text named png": (
        lambda f: f.image().write_text("hello"),
        "not an image in a supported format: the file is text (ROOT/images/c03.png); its"
        " content decides, not its name; convert it to PNG or remove it",
    ),
    "gif named png": (
        lambda f: Image.fromarray(f.noise()).save(
            f.image(), format="GIF", save_all=True, append_images=[Image.fromarray(f.noise())]
        ),
        "the file contains 2 pictures (ROOT/images/c03.png); store each in its own file",
    ),
    "animated": (
        animated,
        "the file contains 3 pictures (ROOT/images/c03.png); store each in its own file",
    ),
    "decompression bomb": (
        bomb,
        "30000 x 30000 pixels exceed the limit of 100 million (ROOT/images/c03.png);"
        " crop or shrink the picture",
    ),
    "not finite": (
        not_finite,
        "the image contains values that are not finite (ROOT/images/c03.tif); fix or remove it",
    ),
    "turned by EXIF, its mask not": (
        turned(6),
        "the mask is 48 x 40 pixels (width x height), its image images/c03.jpg is 40 x 48"
        " (ROOT/masks/c03.png); one of them is rotated by its EXIF orientation: rotate the other"
        " too",
    ),
    "mask of three classes": (
        levels(0, 1, 2),
        "a mask of two classes contains the values 0, 1, 2 (ROOT/masks/c03.png);"
        " use 0/1 or 0/255; for class indices set data.class_names",
    ),
    "mask of three grey levels": (
        levels(0, 128, 255),
        "a mask of two classes contains the values 0, 128, 255 (ROOT/masks/c03.png);"
        " use 0/1 or 0/255; for class indices set data.class_names",
    ),
    "mask larger": (
        mask_of_size(80, 96),
        "the mask is 96 x 80 pixels (width x height), its image images/c03.png is 48 x 40"
        " (ROOT/masks/c03.png); give both the same size",
    ),
    "mask smaller": (
        mask_of_size(20, 24),
        "the mask is 24 x 20 pixels (width x height), its image images/c03.png is 48 x 40"
        " (ROOT/masks/c03.png); give both the same size",
    ),
    "mask missing": (
        lambda f: f.mask().unlink(),
        "no mask for 1 of 24 images: images/c03.png (ROOT/masks); a mask needs the file name of"
        " its image, without suffix: add the masks, or leave these images out with"
        " data.on_error=skip; for other names set data.mask_suffix, or data.mask_pattern and"
        " data.mask_template",
    ),
    "link to itself": (
        link("images/c03.png"),
        "cannot read the file: Too many levels of symbolic links (ROOT/images/c03.png);"
        " check data.root",
    ),
    "link to nothing": (
        link("nowhere.png"),
        "cannot read the file: No such file or directory (ROOT/images/c03.png); check data.root",
    ),
    "line break in the name of a broken file": (
        lambda f: (f.rename("c\n03"), (f.root / "images" / "c\n03.png").write_bytes(b"x")),
        "not an image in a supported format: the file is text (ROOT/images/c\\n03.png);"
        " its content decides, not its name; convert it to PNG or remove it",
    ),
    "name that steers a terminal": (
        lambda f: f.rename("c\x1b[31m03"),
        "the name c\\x1b[31m03.png contains a control character (ROOT/images); rename it",
    ),
    "no images": (
        lambda f: f.keep(0),
        f"no images in the folder (ROOT/images); {LAYOUT};"
        " files must be JPEG, PNG, BMP, TIFF, GIF, WebP, JPEG 2000, PNM or DICOM",
    ),
    "one image": (
        lambda f: f.keep(1),
        "too few groups for a split: 1, none left for val (data.val_fraction,"
        " data.test_fraction); add images, or set the fraction of an unneeded split to 0",
    ),
    "two images": (
        lambda f: f.keep(2),
        "too few groups for a split: 2, none left for train (data.val_fraction,"
        " data.test_fraction); add images, or set the fraction of an unneeded split to 0",
    ),
    "all images the same": (
        all_alike,
        "too few groups for a split: 1, none left for val (data.val_fraction,"
        " data.test_fraction); add images, or set the fraction of an unneeded split to 0",
    ),
    "csv of other columns": (
        lambda f: f.table("1,2,3", header="a,b,c"),
        "expected a column path, got a, b, c (ROOT/splits.csv, line 1); the first line lists the"
        " columns split,path,target,group, separated by commas",
    ),
    "csv that is empty": (
        lambda f: (f.root / "splits.csv").write_bytes(b""),
        "expected a column path, got no column (ROOT/splits.csv, line 1); the first line lists the"
        " columns split,path,target,group, separated by commas",
    ),
    "csv of a header": (
        lambda f: f.table(),
        "the file lists no images (ROOT/splits.csv); add lines to it",
    ),
    "csv with a row twice": (
        lambda f: f.table(*CSV_ROWS, CSV_ROWS[0]),
        "images/c00.png is listed twice, first in line 2 (ROOT/splits.csv, line 26);"
        " keep one of the lines",
    ),
    "csv with a row in train and test": (
        lambda f: f.table(*CSV_ROWS, "test,images/c00.png,masks/c00.png"),
        "images/c00.png is listed twice, first in line 2 (ROOT/splits.csv, line 26);"
        " keep one of the lines",
    ),
    "csv with an absolute path": (
        lambda f: f.table(*CSV_ROWS, f"train,{f.root}/images/c00.png,masks/c00.png"),
        "ROOT/images/c00.png is outside the data folder (ROOT/splits.csv, line 26);"
        " give paths relative to data.root, without ..",
    ),
    "csv that leaves the root": (
        lambda f: f.table(*CSV_ROWS, "train,../secret/c00.png,masks/c00.png"),
        "../secret/c00.png is outside the data folder (ROOT/splits.csv, line 26);"
        " give paths relative to data.root, without ..",
    ),
    "csv of another split": (
        lambda f: f.table(*CSV_ROWS, "holdout,images/c00.png,masks/c00.png"),
        "unknown split holdout (ROOT/splits.csv, line 26); use train, val, test or leave it blank",
    ),
    "csv in Latin-1": (
        lambda f: f.table(*(f"{row},Müller" for row in CSV_ROWS), encoding="latin-1"),
        "the file is not UTF-8 (ROOT/splits.csv); save it as CSV in UTF-8",
    ),
    "csv in UTF-16": (
        lambda f: f.table(*CSV_ROWS, encoding="utf-16"),
        "the file is not UTF-8 (ROOT/splits.csv); save it as CSV in UTF-8",
    ),
    "csv with a control character": (
        lambda f: f.table(*CSV_ROWS, "train,images/c\x1b[2J.png,masks/c00.png"),
        "the name images/c\\x1b[2J.png contains a control character (ROOT/splits.csv, line 26);"
        " rename it",
    ),
    "csv with a field without end": (
        lambda f: f.table("train," + "a" * 200_000 + ",b"),
        "not a csv file: field larger than field limit (131072) (ROOT/splits.csv, line 2);"
        " fix the line",
    ),
    "csv with a file that is not there": (
        lambda f: f.table(*CSV_ROWS, "train,images/c99.png,masks/c99.png"),
        "cannot find 2 listed files in ROOT: images/c99.png, masks/c99.png"
        " (ROOT/splits.csv); check data.root, or remove their lines",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_broken_folder_ends_in_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, line = SPOILT[case]
    folder, workplace = Folder(tmp_path / "set"), tmp_path / "workplace"
    spoil(folder)
    workplace.mkdir()
    monkeypatch.chdir(workplace)
    before = sorted(folder.root.rglob("*"))
    assert main([*SMALL, "experiment=polyp_unet", f"data.root={folder.root}"]) == 2
    captured = capfd.readouterr()
    assert captured.err.replace(str(folder.root), "ROOT") == f"error: {line}\n"
    assert captured.out == ""
    assert not list(workplace.iterdir())
    assert sorted(folder.root.rglob("*")) == before


def junk(folder: Folder) -> None:
    for place in (folder.root, folder.root / "images", folder.root / "masks"):
        for name in (".DS_Store", "._c00.png", "Thumbs.db", "desktop.ini"):
            (place / name).write_bytes(b"x")
        (place / "__MACOSX").mkdir()
        (place / "__MACOSX" / "c00.png").write_bytes(b"x")


def linked_folder(folder: Folder) -> None:
    """Images on another disk, reached by a link, and a circular link."""
    elsewhere = folder.root.parent / "elsewhere"
    elsewhere.mkdir()
    for k in range(12):
        shutil.move(folder.image(k), elsewhere)
        (folder.root / "masks" / "part").mkdir(exist_ok=True)
        shutil.move(folder.mask(k), folder.root / "masks" / "part")
    (folder.root / "images" / "part").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(folder.root / "images")


SOUND: dict[str, Callable[[Folder], object]] = {
    "JPEG named png": lambda f: Image.fromarray(f.noise(3)).save(f.image(), format="JPEG"),
    "CMYK": lambda f: f.replace(Image.fromarray(f.noise(3)).convert("CMYK"), ".tif"),
    "16 bits": lambda f: cv2.imwrite(str(f.image()), f.noise().astype(np.uint16) * 200),
    "1 bit": lambda f: Image.fromarray(f.noise()).convert("1").save(f.image()),
    "palette": lambda f: Image.fromarray(f.noise(3)).convert("P").save(f.image()),
    "alpha": lambda f: cv2.imwrite(str(f.image()), f.noise(4)),
    "upper-case extension": lambda f: f.image().rename(f.image(suffix=".PNG")),
    "what systems leave behind": junk,
    "folder named png": lambda f: (f.root / "images" / "c99.png").mkdir(),
    "links to folders": linked_folder,
    "line break in a name": lambda f: f.rename("c\n03"),
    "emoji in a name": lambda f: f.rename("c\U0001f9e003"),
    "spaces and quotes in a name": lambda f: f.rename("c \"03\" 'a', b"),
    "one pixel": lambda f: [
        cv2.imwrite(str(path), np.zeros((1, 1), np.uint8)) for path in (f.image(), f.mask())
    ],
    "mask of another image": lambda f: shutil.copy(f.mask(9), f.mask()),
    "empty masks": lambda f: [
        cv2.imwrite(str(f.mask(k)), np.zeros((HEIGHT, WIDTH), np.uint8)) for k in range(NUM_IMAGES)
    ],
}


@pytest.mark.parametrize("case", SOUND)
def test_unusual_but_valid_folders_are_read(case: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "set")
    SOUND[case](folder)
    index = index_segmentation(folder.root)
    checked = check_files(folder.root, index.samples, Reading(num_classes=2))
    assert len(checked.samples) == NUM_IMAGES
    assert not checked.skipped
    shown = {
        "empty masks": ["all 24 masks are empty: there is no foreground"],
        "CMYK": ["1 of 24 images: CMYK was converted to RGB without its colour profile"],
        "16 bits": [
            "1 of 24 images: more than 8 bits, the smallest and largest value of each became black"
            " and white (data.value_range sets both for all)"
        ],
    }
    assert index.notes + checked.notes == shown.get(case, [])


def test_a_folder_is_not_read_twice_through_a_link(tmp_path: Path) -> None:
    """For any names: `a` sorts before `part`, and links to it."""
    folder = Folder(tmp_path / "set")
    linked_folder(folder)
    real = folder.root / "images" / "real"
    (folder.root / "images" / "part").unlink()
    (folder.root.parent / "elsewhere" / "round").unlink()
    (folder.root.parent / "elsewhere").rename(real)
    (folder.root / "masks" / "part").rename(folder.root / "masks" / "real")
    (folder.root / "images" / "a").symlink_to(real)
    paths = [sample.path for sample in index_segmentation(folder.root).samples]
    assert len(paths) == NUM_IMAGES
    assert sum(path.startswith("images/real/") for path in paths) == 12


@pytest.mark.parametrize("orientation", [3, 2])
def test_an_orientation_tag_that_keeps_the_size_is_reported(
    tmp_path: Path, orientation: int
) -> None:
    """Upside down or mirrored, an image has the size of its mask and does not fit it."""
    folder = Folder(tmp_path / "set")
    turned(orientation)(folder)
    checked = check_files(
        folder.root, index_segmentation(folder.root).samples, Reading(num_classes=2)
    )
    assert checked.notes == [
        "image and mask differ in EXIF orientation in 1 pair: images/c03.jpg;"
        " check that they overlap"
    ]


@pytest.mark.skipif(
    not hasattr(os, "seteuid") or os.geteuid() != 0, reason="needs root to be no one"
)
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("images/c03.png", "cannot read the file: Permission denied (ROOT/images/c03.png); check"),
        ("images", "cannot list the folder: Permission denied (ROOT/images); check"),
    ],
)
def test_an_unreadable_file_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    line: str,
) -> None:
    folder = Folder(tmp_path / "set")
    (folder.root / name).chmod(0)
    shared = Path(tempfile.gettempdir())  # stays writable for all
    for path in (tmp_path, *tmp_path.parents, folder.root):
        if path.is_relative_to(shared) and path != shared:
            path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "none"))
    words = [*SMALL, "experiment=polyp_unet"]
    os.seteuid(65534)
    try:
        if not os.access(sysconfig.__file__, os.R_OK, effective_ids=True):
            pytest.skip("this Python is readable by its owner only")
        code = main([*words, f"data.root={folder.root}"])
    finally:
        os.seteuid(0)
    assert code == 2
    assert capfd.readouterr().err.replace(str(folder.root), "ROOT").startswith(f"error: {line}")
