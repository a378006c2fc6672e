import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from medvision.data.discovery.index import index_classification, index_segmentation
from medvision.data.readers.decode import decode
from medvision.data.reading import Reading
from medvision.data.validation.properties import ImageProperties, image_properties
from medvision.data.validation.validate import check_files


def of(image: Image.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return image_properties(decode(stream.getvalue(), where="file"))


def grey(height: int = 40, width: int = 60, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def test_the_hash_depends_on_pixels_and_shape_and_not_on_the_file_format() -> None:
    image = Image.fromarray(grey())
    known = of(image)["pixel_hash"]
    assert of(image, "BMP")["pixel_hash"] == known
    assert of(image, "TIFF")["pixel_hash"] == known
    assert of(image, "PNG", compress_level=0, pnginfo=None)["pixel_hash"] == known
    assert of(image.convert("RGB"))["pixel_hash"] == known  # equal channels are grey
    assert of(Image.fromarray(grey().reshape(60, 40)))["pixel_hash"] != known
    changed = grey()
    changed[0, 0] ^= 1
    assert of(Image.fromarray(changed))["pixel_hash"] != known


def test_thumbnails_are_area_means_of_the_luma() -> None:
    pixels = grey(96, 144)
    areas = pixels.reshape(48, 2, 48, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(of(Image.fromarray(pixels))["thumbnail"], areas, atol=0.51)
    colours = np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)
    found = of(Image.fromarray(colours))
    np.testing.assert_array_equal(found["thumbnail"], cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY))
    assert found["colour"]


def test_file_properties_are_those_of_the_file() -> None:
    found = of(Image.fromarray(grey(40, 60)), "JPEG", quality=80)
    assert (found["height"], found["width"], found["bits"]) == (40, 60, 8)
    assert (found["file_format"], found["colour"]) == ("JPEG", False)
    assert of(Image.fromarray(grey()))["jpeg_quality"] == -1


@pytest.mark.parametrize("quality", [30, 50, 51, 75, 90, 95, 99])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_jpeg_quality_is_read_from_the_table(quality: int, mode: str) -> None:
    image = Image.fromarray(grey()).convert(mode)
    assert abs(of(image, "JPEG", quality=quality)["jpeg_quality"] - quality) <= 1


def test_brightness_contrast_and_borders_are_those_of_the_image() -> None:
    pixels = np.full((50, 100), 100, np.uint8)
    pixels[:2], pixels[-2:], pixels[2:-2, :4], pixels[2:-2, -4:] = 10, 20, 30, 40
    found = of(Image.fromarray(pixels))
    assert found["mean"] == pytest.approx(pixels.mean())
    assert found["std"] == pytest.approx(pixels.std())
    assert (found["low"], found["high"]) == (10, 100)
    top, bottom, left, right = found["border"]
    assert (top, bottom) == (10, 20)
    assert left == pytest.approx((46 * 30 + 2 * 10 + 2 * 20) / 50)
    assert right == pytest.approx((46 * 40 + 2 * 10 + 2 * 20) / 50)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Masks: a quarter of foreground; the same with grey edges; only the frame."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    square = np.zeros((48, 48), np.uint8)
    square[12:36, 12:36] = 255
    edged = square.copy()
    edged[11, :] = 100
    edged[11, 0] = 90  # a third level alone would be refused
    for k, mask in enumerate((square, edged, 255 - square)):
        Image.fromarray(grey(48, 48, seed=k)).save(tmp_path / f"images/{k}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{k}.png")
    return tmp_path


def facts_of(root: Path) -> ImageProperties:
    found = check_files(root, index_segmentation(root).samples, Reading(num_classes=2)).properties
    assert found is not None
    return found


def test_mask_properties_are_those_of_the_mask(pairs: Path) -> None:
    mask = facts_of(pairs).mask
    assert mask is not None
    np.testing.assert_allclose(mask.foreground, [0.25, 0.25, 0.75])
    np.testing.assert_allclose(mask.grey, [0, 1 / 48, 0], atol=1e-6)
    assert mask.frame.tolist() == [0, 0, 1]
    assert mask.mask_hash[0] == mask.mask_hash[1] != mask.mask_hash[2]
    assert mask.thumbnail[0, 24, 24] == 255
    assert mask.thumbnail[0, 0, 0] == 0


def stored_mask(folder: Path, mask: Image.Image, name: str = "0.png", **reading: Any) -> float:
    """Share of grey of one mask, as read with the given options."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    Image.fromarray(grey(48, 48)).save(folder / "images/0.png")
    mask.save(folder / "masks" / name)
    found = check_files(
        folder, index_segmentation(folder).samples, Reading(num_classes=2, **reading)
    ).properties
    assert found is not None
    assert found.mask is not None
    return float(found.mask.grey[0])


SQUARE = np.zeros((48, 48), np.uint8)
SQUARE[12:36, 12:36] = 1


@pytest.mark.parametrize("red", [30, 128, 200, 255])
def test_masks_read_by_palette_index_are_not_grey(tmp_path: Path, red: int) -> None:
    mask = Image.fromarray(SQUARE, "P")
    mask.putpalette([0, 0, 0, red, 0, 0])
    assert stored_mask(tmp_path, mask) == 0


def test_two_levels_are_binary_wherever_they_are(tmp_path: Path) -> None:
    assert stored_mask(tmp_path, Image.fromarray(SQUARE * np.uint8(170) + np.uint8(30))) == 0


def test_values_of_instances_and_of_no_class_are_not_grey(tmp_path: Path) -> None:
    numbers = SQUARE * np.uint8(40)
    numbers[20:30, 20:30] = 90
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert stored_mask(tmp_path / "a", Image.fromarray(numbers), instances=True) == 0
    uncertain = SQUARE * np.uint8(255)
    uncertain[20:30, 20:30] = 128
    assert stored_mask(tmp_path / "b", Image.fromarray(uncertain), ignore_index=128) == 0


def test_a_palette_of_grey_probabilities_is_grey(tmp_path: Path) -> None:
    levels = SQUARE * np.uint8(255)
    levels[12:36, 12:14] = np.arange(90, 90 + 24 * 4, 4)[:, None]
    mask = Image.fromarray(levels, "P")
    mask.putpalette([level for level in range(256) for _ in range(3)])
    assert stored_mask(tmp_path, mask) == pytest.approx(48 / 48**2)


def test_rows_can_be_taken_in_any_order(pairs: Path) -> None:
    found = facts_of(pairs)
    turned = found.take([2, 0])
    assert turned.pixel_hash.tolist() == found.pixel_hash[[2, 0]].tolist()
    assert turned.mask is not None
    assert turned.mask.frame.tolist() == [1, 0]
    assert len(turned) == 2


def test_cached_files_are_not_decoded_again_until_they_change(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = facts_of(pairs)
    read: list[str] = []
    from medvision.data.validation import validate as look

    real = look.read_content

    def spy(root: Path, name: str) -> bytes:
        read.append(Path(name).name)
        return real(root, name)

    monkeypatch.setattr(look, "read_content", spy)
    again = facts_of(pairs)
    assert read == []
    for name in ("pixel_hash", "thumbnail", "mean", "border", "file_format"):
        np.testing.assert_array_equal(getattr(again, name), getattr(before, name))
    assert again.mask is not None
    assert before.mask is not None
    np.testing.assert_array_equal(again.mask.thumbnail, before.mask.thumbnail)
    Image.fromarray(grey(48, 48, seed=9)).save(pairs / "images/1.png", compress_level=1)
    assert facts_of(pairs).pixel_hash[1] != before.pixel_hash[1]
    assert sorted(read) == ["1.png", "1.png"]  # the image and its mask


def test_a_damaged_cache_is_written_again(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    before = facts_of(pairs)
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.stat().st_mode & 0o077 == 0  # only readable by its owner
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(facts_of(pairs).thumbnail, before.thumbnail)
    assert len(kept.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_is_noted_and_does_not_stop_the_check(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "file"))
    result = check_files(pairs, index_segmentation(pairs).samples, Reading(num_classes=2))
    assert result.properties is not None
    assert len(result.notes) == 1
    assert "set MEDVISION_CACHE_DIR to a writable folder" in result.notes[0]


def test_any_file_name_can_be_cached(tmp_path: Path) -> None:
    names = ["ä ö.png", "new\nline.png", "back\\slash.png", 'quote".png']
    for folder in ("no", "yes"):
        (tmp_path / folder).mkdir()
        for k, name in enumerate(names):
            Image.fromarray(grey(seed=k)).save(tmp_path / folder / name)
    samples = index_classification(tmp_path).samples
    whole = check_files(tmp_path, samples, Reading())
    known = check_files(tmp_path, samples, Reading(), max_decoded=0)
    assert known.properties is not None
    assert list(known.lines()) == list(whole.lines())
    assert known.fingerprint == whole.fingerprint


def test_columns_of_an_older_version_have_no_remarks(pairs: Path) -> None:
    found = facts_of(pairs)
    columns = found.to_columns()
    del columns["image_remark"]
    again = ImageProperties.from_columns(columns, num_rows=len(found), with_masks=True)
    assert again.remark.tolist() == [""] * len(found)
    np.testing.assert_array_equal(again.pixel_hash, found.pixel_hash)
