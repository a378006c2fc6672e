import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvision.data.discovery.index import index_classification
from medvision.data.reading import Reading
from medvision.data.validation.properties import ImageProperties
from medvision.data.validation.validate import CheckResult, check_files
from medvision.errors import MedvisionError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two grey images of 6 x 4 pixels in each of train/no, train/yes, test/no, test/yes."""
    rng = np.random.default_rng(0)
    for folder in ("train/no", "train/yes", "test/no", "test/yes"):
        (tmp_path / folder).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(rng.integers(0, 256, (4, 6), np.uint8)).save(
                tmp_path / folder / f"{k}.png"
            )
    return tmp_path


def check(root: Path, **options: Any) -> CheckResult:
    samples = options.pop("samples", None) or index_classification(root).samples
    return check_files(root, samples, Reading(), **options)


def facts(result: CheckResult) -> ImageProperties:
    assert result.properties is not None
    return result.properties


def test_all_valid_images_are_kept(root: Path) -> None:
    result = check(root)
    assert result.samples == index_classification(root).samples
    assert (result.skipped, result.notes) == ([], [])
    assert facts(result).mask is None


def test_fingerprint_is_that_of_paths_classes_and_contents(root: Path) -> None:
    lines = [
        f"{s.path}\0{s.target}\0{hashlib.sha256((root / s.path).read_bytes()).hexdigest()}\n"
        for s in index_classification(root).samples
    ]
    assert check(root).fingerprint == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_a_text_file_named_jpg_is_a_one_line_error_with_its_name(root: Path) -> None:
    (root / "train/yes/2.jpg").write_text("not a picture")
    for options in ({}, {"max_decoded": 0}):
        with pytest.raises(MedvisionError) as caught:
            check(root, **options)
        assert str(caught.value).replace(str(root), "ROOT") == (
            "not an image in a supported format: the file is text (ROOT/train/yes/2.jpg);"
            " its content decides, not its name; convert it to PNG or remove it"
        )


def test_skipped_images_are_counted_by_split_and_class(root: Path) -> None:
    for name in ("train/yes/0.png", "test/yes/0.png", "test/yes/1.png"):
        (root / name).write_bytes(b"")
    result = check(root, on_error="skip")
    assert result.notes == [
        "SKIPPED 3 of 8 images (2 in test of class yes, 1 in train of class yes) because of"
        " data.on_error=skip:"
        " test/yes/0.png: the file is empty, test/yes/1.png: the file is empty,"
        " train/yes/0.png: the file is empty",
        "skipped 2 images of the given val and test splits:"
        " scores are not comparable with those on the whole splits",
    ]
    assert len(result.samples) == len(facts(result)) == len(list(result.lines())) == 5


def test_skipping_must_not_empty_a_class(root: Path) -> None:
    for name in ("train/yes/0.png", "train/yes/1.png", "test/yes/0.png", "test/yes/1.png"):
        (root / name).write_bytes(b"")
    with pytest.raises(MedvisionError) as caught:
        check(root, on_error="skip")
    reasons = ", ".join(
        f"{s}/yes/{k}.png: the file is empty" for s in ("test", "train") for k in "01"
    )
    assert str(caught.value) == (
        f"cannot use any image of the class yes: {reasons} ({root});"
        " fix the files, or remove the class"
    )


def test_many_images_are_checked_by_header(root: Path) -> None:
    data = (root / "test/no/0.png").read_bytes()
    result = check(root, max_decoded=7)
    assert result.properties is None
    assert result.notes == [
        "large data set of 8 images: only their headers were read before the start;"
        " the fingerprint covers file sizes, not contents, and near-duplicates were not searched;"
        " run `medvision audit` once: later starts use its results"
    ]
    (root / "test/no/0.png").write_bytes(data[:45])  # valid header, missing pixels
    assert check(root, max_decoded=7).fingerprint != result.fingerprint
    with pytest.raises(MedvisionError, match=r"damaged.*test/no/0\.png"):
        check(root, max_decoded=None)


def test_cached_images_of_a_large_set_are_known(root: Path) -> None:
    whole = check(root, max_decoded=None)
    known = check(root, max_decoded=0)
    assert known.notes == []
    assert known.fingerprint == whole.fingerprint
    assert (facts(known).pixel_hash == facts(whole).pixel_hash).all()
