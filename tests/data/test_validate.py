import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvision.data.discovery.index import index_segmentation
from medvision.data.reading import Reading
from medvision.data.samples import Sample
from medvision.data.validation import validate
from medvision.data.validation.validate import CheckResult, check_files
from medvision.errors import MedvisionError

KVASIR = Path(__file__).parents[2].parent / "shared/data/kvasir_seg"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images of 8 x 4 pixels; the masks have 0, 1, 2, 3 and 4 of 4 rows of foreground."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for k in range(5):
        Image.new("RGB", (8, 4), (k, 0, 0)).save(tmp_path / f"images/{k}.png")
        rows = np.where(np.arange(4) < k, 255, 0).astype(np.uint8)
        Image.fromarray(np.tile(rows[:, None], (1, 8))).save(tmp_path / f"masks/{k}.png")
    return tmp_path


def check(root: Path, **options: Any) -> CheckResult:
    samples = options.pop("samples", None) or index_segmentation(root).samples
    reading = Reading(num_classes=2, color_map=options.pop("color_map", None))
    return check_files(root, samples, reading, **options)


def foreground(result: CheckResult) -> list[float]:
    assert result.properties is not None
    assert result.properties.mask is not None
    return result.properties.mask.foreground.tolist()


def test_all_valid_samples_are_kept_with_their_foreground(root: Path) -> None:
    result = check(root)
    assert result.samples == index_segmentation(root).samples
    assert foreground(result) == [0, 0.25, 0.5, 0.75, 1]
    assert (result.skipped, result.notes) == ([], [])


def test_fingerprint_is_that_of_paths_and_contents(root: Path) -> None:
    def content(name: str) -> str:
        return hashlib.sha256((root / name).read_bytes()).hexdigest()

    lines = [
        f"{i}\0{m}\0{content(i)}\0{content(m)}\n"
        for i, m in ((f"images/{k}.png", f"masks/{k}.png") for k in range(5))
    ]
    assert check(root).fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_fingerprint_depends_on_contents_and_not_on_order_or_split(root: Path) -> None:
    samples = index_segmentation(root).samples
    before = check(root, samples=samples).fingerprint
    turned = [Sample(path=s.path, target=s.target, split="val") for s in reversed(samples)]
    assert check(root, samples=turned).fingerprint == before
    Image.new("RGB", (8, 4), (99, 0, 0)).save(root / "images/0.png")
    assert check(root).fingerprint != before


def test_a_single_fault_is_raised_unchanged(root: Path) -> None:
    (root / "images/2.png").write_bytes(b"")
    with pytest.raises(MedvisionError, match=r"^the file is empty \(.*images/2\.png\)"):
        check(root)


def test_many_faults_are_one_error_that_counts_and_names_them(root: Path) -> None:
    (root / "images/2.png").write_bytes(b"")
    (root / "masks/3.png").write_bytes(b"text")
    message = (
        r"cannot use 2 of 5 images: images/2\.png: the file is empty,"
        r" masks/3\.png: not an image .* \(.*\); fix or remove them, or set data\.on_error=skip"
    )
    with pytest.raises(MedvisionError, match=message):
        check(root)


def test_sizes_that_differ_name_both_files_and_both_sizes(root: Path) -> None:
    Image.new("L", (4, 8)).save(root / "masks/1.png")
    message = (
        r"mask is 4 x 8 pixels \(width x height\), its image images/1\.png is 8 x 4 "
        r"\(.*masks/1\.png\)"
    )
    for max_decoded in (0, 100):
        with pytest.raises(MedvisionError, match=message):
            check(root, max_decoded=max_decoded)


def test_a_fault_of_all_masks_keeps_its_own_hint(root: Path) -> None:
    for k in range(5):
        Image.new("L", (8, 4), 3).save(root / f"masks/{k}.png")
    with pytest.raises(MedvisionError, match=r"5 of 5.*values 3.*data\.class_names"):
        check(root)


def test_a_fault_of_the_config_is_reported_once(root: Path) -> None:
    with pytest.raises(MedvisionError, match=r"^expected 2 different colours.*data\.color_map"):
        check(root, color_map=[(0, 0, 0)], on_error="skip")


def test_skipped_files_are_reported_with_their_reasons(root: Path) -> None:
    (root / "images/2.png").write_bytes(b"")
    result = check(root, on_error="skip")
    assert [s.path for s in result.samples] == [f"images/{k}.png" for k in (0, 1, 3, 4)]
    assert foreground(result) == [0, 0.25, 0.75, 1]
    assert result.skipped == [("images/2.png", "images/2.png: the file is empty")]
    assert result.notes == [
        "SKIPPED 1 of 5 images because of data.on_error=skip: images/2.png: the file is empty"
    ]


def test_skipping_images_of_val_or_test_is_reported(root: Path) -> None:
    (root / "images/2.png").write_bytes(b"")
    samples = [
        Sample(path=s.path, target=s.target, split="test") for s in index_segmentation(root).samples
    ]
    notes = check(root, samples=samples, on_error="skip").notes
    assert "(1 in test)" in notes[0]
    assert "scores are not comparable" in notes[1]


def test_skip_fails_if_no_image_is_left(root: Path) -> None:
    for k in range(5):
        (root / f"images/{k}.png").write_bytes(b"")
    with pytest.raises(MedvisionError, match="cannot use 5 of 5 images"):
        check(root, on_error="skip")


def test_many_samples_are_checked_by_header_with_a_note(root: Path) -> None:
    data = (root / "images/4.png").read_bytes()
    (root / "images/4.png").write_bytes(data[:42])  # valid header, missing pixels
    result = check(root, max_decoded=4)
    assert result.properties is None
    assert "only their headers" in result.notes[0]
    (root / "images/4.png").write_bytes(data[:43])
    assert check(root, max_decoded=4).fingerprint != result.fingerprint


def test_masks_without_any_foreground_are_noted(root: Path) -> None:
    result = check(root, samples=index_segmentation(root).samples[:1])
    assert result.notes == ["all 1 masks are empty: there is no foreground"]


def test_on_error_is_fail_or_skip(root: Path) -> None:
    with pytest.raises(MedvisionError, match=r"expected fail or skip, got warn \(data\.on_error"):
        check(root, on_error="warn")


@pytest.mark.slow
@pytest.mark.skipif(not KVASIR.is_dir(), reason="Kvasir-SEG is not on this machine")
def test_kvasir_passes() -> None:
    result = check(KVASIR)
    assert len(result.samples) == 1000
    assert (result.skipped, result.notes) == ([], [])
    assert all(0 < share < 1 for share in foreground(result))


def test_what_became_black_and_white_is_counted_at_every_start(root: Path) -> None:
    for k in range(2):
        deep = np.arange(32, dtype=np.uint16).reshape(4, 8) * 100 + k
        Image.fromarray(deep).save(root / f"images/{k}.png")
    own = (
        "2 of 5 images: more than 8 bits, the smallest and largest value of each became black and"
        " white (data.value_range sets both for all)"
    )
    assert check(root).notes == [own] == check(root).notes  # the second is from the cache
    reading = Reading(num_classes=2, value_range=(0, 4095))
    result = check_files(root, index_segmentation(root).samples, reading)
    assert result.notes == [
        "2 of 5 images: 0 became black and 4095 white (data.value_range)",
    ]


def test_any_exception_of_one_file_is_the_fault_of_that_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = validate.image_properties

    def fail(picture: Any, **options: Any) -> Any:
        if picture.where.endswith("3.png"):
            raise ZeroDivisionError("division by zero")
        return plain(picture, **options)

    monkeypatch.setattr(validate, "image_properties", fail)
    result = check(root, on_error="skip")
    assert result.skipped == [
        ("images/3.png", "images/3.png: damaged or unsupported picture: division by zero")
    ]
