import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from medvision.data.readers.images import read_mask
from medvision.errors import MedvisionError

FOREGROUND = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
CLASSES = np.array([[0, 1, 2], [3, 0, 1]], np.uint8)
COLOURS = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]


def saved(path: Path, values: Any, **options: Any) -> Path:
    Image.fromarray(np.asarray(values)).save(path, **options)
    return path


def palette_file(path: Path, indices: np.ndarray, colours: list[tuple[int, int, int]]) -> Path:
    image = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    image.putpalette([level for colour in colours for level in colour])
    image.save(path)
    return path


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(FOREGROUND, id="0-1"),
        pytest.param(FOREGROUND * 255, id="0-255"),
        pytest.param(FOREGROUND * 128, id="just-above-the-threshold"),
        pytest.param(FOREGROUND.astype(bool), id="one-bit"),
        pytest.param(np.stack([FOREGROUND * 255] * 3, axis=-1), id="equal-channels"),
        pytest.param(FOREGROUND.astype(np.uint16), id="0-1-in-16-bits"),
        pytest.param(FOREGROUND.astype(np.uint16) * 255, id="0-255-in-16-bits"),
        pytest.param(FOREGROUND.astype(np.uint16) * 65535, id="0-65535"),
        pytest.param(np.dstack([FOREGROUND * 255] * 3 + [FOREGROUND * 0 + 255]), id="rgba-opaque"),
        pytest.param(np.dstack([FOREGROUND * 0 + 255] * 3 + [FOREGROUND * 255]), id="rgba-cut-out"),
        pytest.param(FOREGROUND * 251 + 3, id="nearly-black-and-white"),
    ],
)
def test_every_encoding_of_two_classes_reads_the_same(tmp_path: Path, values: np.ndarray) -> None:
    mask = read_mask(saved(tmp_path / "a.png", values))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, FOREGROUND)


@pytest.mark.parametrize("scale", [1, 255])
def test_float_masks_of_whole_numbers_are_read(tmp_path: Path, scale: int) -> None:
    path = saved(tmp_path / "a.tif", FOREGROUND.astype(np.float32) * scale)
    assert np.array_equal(read_mask(path), FOREGROUND)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_float_masks_of_fractions_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(MedvisionError, match="not integers"):
        read_mask(saved(tmp_path / "a.tif", np.array([[0, value]], np.float32)))


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_value_are_all_background_or_all_foreground(
    tmp_path: Path, value: int
) -> None:
    mask = read_mask(saved(tmp_path / "a.png", np.full((2, 2), value, np.uint8)))
    assert (mask == (value > 127)).all()


def test_jpeg_edges_are_thresholded_at_127(tmp_path: Path) -> None:
    disc = np.hypot(*np.mgrid[-40:40, -40:40]) < 25
    path = saved(tmp_path / "a.jpg", disc.astype(np.uint8) * 255, quality=50)
    stored = np.asarray(Image.open(path))
    assert ((stored > 5) & (stored < 250)).any()  # the edges are grey
    mask = read_mask(path)
    assert np.array_equal(mask, stored > 127)
    assert (mask != disc).mean() < 0.01


def test_chroma_noise_of_a_colour_jpeg_is_tolerated(tmp_path: Path) -> None:
    levels = np.stack([FOREGROUND * 255] * 3, axis=-1)
    levels[0, 1] = (255, 240, 232)
    assert np.array_equal(read_mask(saved(tmp_path / "a.png", levels)), FOREGROUND)


@pytest.mark.parametrize("colour", [(255, 0, 0), (255, 220, 255), (1, 0, 0)])
def test_coloured_masks_require_a_colour_map(tmp_path: Path, colour: tuple[int, ...]) -> None:
    values = np.zeros((2, 2, 3), np.uint8)
    values[0, 0] = colour
    with pytest.raises(MedvisionError, match=r"coloured.*a\.png.*data\.color_map"):
        read_mask(saved(tmp_path / "a.png", values))


@pytest.mark.parametrize(
    ("values", "named"),
    [([0, 1, 2, 3], "0, 1, 2, 3"), ([0, 127], "0, 127"), ([0, 1, 255], "0, 1, 255"), ([5], "5")],
)
def test_values_that_a_threshold_would_erase_are_refused_and_named(
    tmp_path: Path, values: list[int], named: str
) -> None:
    path = saved(tmp_path / "a.png", np.array([values], np.uint8))
    with pytest.raises(MedvisionError, match=rf"values {named} \(.*a\.png.*data\.class_names"):
        read_mask(path)


def test_long_lists_of_values_are_cut(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.arange(100, dtype=np.uint8)[None])
    with pytest.raises(MedvisionError, match=r"values 0, 1, 2, 3, 4, 5, \.\.\."):
        read_mask(path)


def test_deep_values_that_a_threshold_would_erase_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedvisionError, match="0, 1000"):
        read_mask(saved(tmp_path / "a.png", np.array([[0, 1000]], np.uint16)))


def test_two_bit_files_keep_their_values(tmp_path: Path) -> None:
    for values, bits in ((CLASSES, 2), (CLASSES * 4, 4)):
        path = tmp_path / f"{bits}.png"
        grey_png(path, values, bits)
        assert np.array_equal(read_mask(path, num_classes=13), values)
    grey_png(tmp_path / "01.png", FOREGROUND, 2)
    assert np.array_equal(read_mask(tmp_path / "01.png"), FOREGROUND)
    grey_png(tmp_path / "03.png", FOREGROUND * 3, 2)
    assert np.array_equal(read_mask(tmp_path / "03.png"), FOREGROUND)


def grey_png(path: Path, values: np.ndarray, bits: int) -> None:
    """Write a grey PNG of few bits by making its palette grey."""
    colours = [(k, k, k) for k in range(2**bits)]
    data = bytearray(palette_file(path, values, colours).read_bytes())
    assert data[24] == bits
    data[25] = 0  # colour type: grey
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    at = data.index(b"PLTE") - 4
    size = struct.unpack(">I", data[at : at + 4])[0]
    del data[at : at + 12 + size]
    path.write_bytes(bytes(data))


def test_grey_palettes_of_two_classes_read_by_colour(tmp_path: Path) -> None:
    path = palette_file(tmp_path / "a.png", FOREGROUND, [(255, 255, 255), (0, 0, 0)])
    assert np.array_equal(read_mask(path), 1 - FOREGROUND)


def test_coloured_palettes_read_by_index(tmp_path: Path) -> None:
    path = palette_file(tmp_path / "a.png", FOREGROUND, [(0, 0, 0), (128, 0, 0)])
    assert np.array_equal(read_mask(path), FOREGROUND)


@pytest.mark.parametrize("colours", [COLOURS, [(0,) * 3, (85,) * 3, (170,) * 3, (255,) * 3]])
def test_palettes_of_more_classes_read_by_index(tmp_path: Path, colours: Any) -> None:
    path = palette_file(tmp_path / "a.png", CLASSES, colours)
    assert np.array_equal(read_mask(path, num_classes=4), CLASSES)


def test_coloured_palettes_with_more_colours_than_classes_are_refused(tmp_path: Path) -> None:
    path = palette_file(tmp_path / "a.png", CLASSES, COLOURS)
    with pytest.raises(MedvisionError, match=r"values 2, 3.*0 to 1.*data\.color_map"):
        read_mask(path)


@pytest.mark.parametrize(
    "stored", [CLASSES, np.stack([CLASSES] * 3, axis=-1), CLASSES.astype("u2")]
)
def test_class_indices_are_the_values(tmp_path: Path, stored: np.ndarray) -> None:
    assert np.array_equal(read_mask(saved(tmp_path / "a.png", stored), num_classes=4), CLASSES)


def test_values_beyond_the_classes_are_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.array([[0, 1, 255]], np.uint8))
    with pytest.raises(
        MedvisionError, match=r"value 255, expected class indices 0 to 2 \(.*a\.png"
    ):
        read_mask(path, num_classes=3)


def test_class_indices_in_a_jpeg_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedvisionError, match="JPEG changes class indices"):
        read_mask(saved(tmp_path / "a.jpg", CLASSES), num_classes=4)


def test_colours_become_classes_through_the_map(tmp_path: Path) -> None:
    coloured = np.array(COLOURS, np.uint8)[CLASSES]
    path = saved(tmp_path / "a.png", coloured)
    assert np.array_equal(read_mask(path, num_classes=4, color_map=COLOURS), CLASSES)


def test_grey_and_palette_files_go_through_the_map_too(tmp_path: Path) -> None:
    greys = [(0, 0, 0), (255, 255, 255), (100, 100, 100), (7, 7, 7)]
    grey = saved(tmp_path / "a.png", np.array([0, 255, 100, 7], np.uint8)[CLASSES])
    assert np.array_equal(read_mask(grey, num_classes=4, color_map=greys), CLASSES)
    palette = palette_file(tmp_path / "b.png", 3 - CLASSES, COLOURS[::-1])
    assert np.array_equal(read_mask(palette, num_classes=4, color_map=COLOURS), CLASSES)


def test_colours_outside_the_map_are_refused_by_name(tmp_path: Path) -> None:
    values = np.zeros((2, 2, 3), np.uint8)
    values[1, 1] = (254, 0, 0)
    with pytest.raises(MedvisionError, match=r"colour \(254, 0, 0\).*a\.png"):
        read_mask(saved(tmp_path / "a.png", values), num_classes=4, color_map=COLOURS)


def test_jpeg_colours_go_to_the_nearest_class(tmp_path: Path) -> None:
    classes = np.kron(CLASSES, np.ones((16, 16), np.uint8))
    path = saved(tmp_path / "a.jpg", np.array(COLOURS, np.uint8)[classes], quality=90)
    assert np.array_equal(read_mask(path, num_classes=4, color_map=COLOURS), classes)


@pytest.mark.parametrize(
    "color_map",
    [COLOURS[:1], [(0, 0, 0), (0, 0, 0)], [(0, 0, 0), (256, 0, 0)], [(0, 0, 0), (1, 1)]],
)
def test_an_impossible_colour_map_names_its_key(tmp_path: Path, color_map: Any) -> None:
    with pytest.raises(MedvisionError, match=r"2 different colours.*data\.color_map"):
        read_mask(saved(tmp_path / "a.png", FOREGROUND), color_map=color_map)


def test_deep_masks_have_no_colour_map(tmp_path: Path) -> None:
    with pytest.raises(MedvisionError, match="has 16"):
        read_mask(saved(tmp_path / "a.png", CLASSES.astype("u2")), color_map=COLOURS[:2])


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("colours", [None, [(0, 0, 0), (128, 0, 0)]])
def test_masks_are_rotated_like_their_images(
    tmp_path: Path, orientation: int, colours: list[tuple[int, int, int]] | None
) -> None:
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[274] = orientation
    if colours:
        Image.open(palette_file(path, FOREGROUND, colours)).save(path, exif=exif)
    else:
        saved(path, FOREGROUND, exif=exif)
    assert np.array_equal(read_mask(path), np.rot90(FOREGROUND, {3: 2, 6: -1}[orientation]))


@pytest.mark.parametrize("num_classes", [1, 256])
def test_impossible_numbers_of_classes_are_refused(tmp_path: Path, num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"2 to 255, got {num_classes}"):
        read_mask(saved(tmp_path / "a.png", FOREGROUND), num_classes=num_classes)


def test_a_truncated_mask_is_an_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
    path = saved(tmp_path / "a.jpg", noise)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(MedvisionError, match=r"truncated.*a\.jpg"):
        read_mask(path)


DISC = (np.hypot(*np.mgrid[-40:40, -40:40]) < 25).astype(np.uint8)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([[0, 1, 2, 255]], id="classes-and-a-border"),
        pytest.param([[1, 255]], id="one-class-and-a-border"),
        pytest.param([[0, 20, 255]], id="class-20-and-a-border"),
        pytest.param([[254, 255]], id="0-1-inverted"),
    ],
)
def test_small_integers_beside_255_are_refused(tmp_path: Path, values: list[list[int]]) -> None:
    path = saved(tmp_path / "a.png", np.array(values, np.uint8))
    with pytest.raises(MedvisionError, match=r"contains the values .*data\.ignore_index=255"):
        read_mask(path)


def areas(*levels: int) -> np.ndarray:
    """Draw a disc with a stripe of each level."""
    mask = DISC * np.uint8(255)
    for row, level in enumerate(levels):
        mask[20 + 10 * row : 28 + 10 * row, 25:55] = level
    return mask


SOFT = np.linspace(0, 255, 80).astype(np.uint8)[None].repeat(80, axis=0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    "values",
    [
        pytest.param(cv2.resize(areas(85, 170), (320, 320)), id="two-more-levels"),
        pytest.param(cv2.resize(areas(150), (320, 320)), id="one-more-level"),
        pytest.param(SOFT, id="probabilities"),
        pytest.param(cv2.GaussianBlur(DISC * np.uint8(255), (0, 0), 9), id="smooth-everywhere"),
    ],
)
def test_levels_in_between_over_wide_areas_are_refused(
    tmp_path: Path, values: np.ndarray, kind: str
) -> None:
    with pytest.raises(MedvisionError, match="a mask of two classes contains the values"):
        read_mask(saved(tmp_path / "a", values, format=kind))


def test_thin_lines_of_further_levels_are_refused_in_files_without_loss(tmp_path: Path) -> None:
    values = areas()
    values[5:8], values[70:73] = 85, 170
    with pytest.raises(MedvisionError, match="contains the values 0, 85, 170, 255"):
        read_mask(saved(tmp_path / "a.png", values))


EDGES = {
    "averaged": cv2.resize(DISC * np.uint8(255), (27, 27), interpolation=cv2.INTER_AREA),
    "enlarged": cv2.resize(DISC * np.uint8(255), (320, 320), interpolation=cv2.INTER_LINEAR),
    "averaged and enlarged": cv2.resize(
        cv2.resize(DISC * np.uint8(255), (20, 20), interpolation=cv2.INTER_AREA),
        (80, 80),
        interpolation=cv2.INTER_NEAREST,
    ),
    "smoothed": cv2.GaussianBlur(DISC * np.uint8(255), (0, 0), 1),
    "not black and not white": DISC * np.uint8(219) + 16,
}


@pytest.mark.parametrize("name", EDGES)
def test_thin_grey_edges_are_thresholded(tmp_path: Path, name: str) -> None:
    mask = read_mask(saved(tmp_path / "a.png", EDGES[name]))
    np.testing.assert_array_equal(mask, EDGES[name] > 127)


@pytest.mark.parametrize("quality", [5, 20, 50, 90])
def test_masks_that_were_jpeg_once_are_read(tmp_path: Path, quality: int) -> None:
    path = saved(tmp_path / "a.jpg", DISC * np.uint8(255), quality=quality)
    again = saved(tmp_path / "a.png", Image.open(path))
    np.testing.assert_array_equal(read_mask(path), read_mask(again))


def test_a_signed_mask_keeps_its_classes(tmp_path: Path) -> None:
    stream = tmp_path / "a.tif"
    saved(stream, FOREGROUND, tiffinfo={339: 2})
    np.testing.assert_array_equal(read_mask(stream), FOREGROUND)


def test_a_deep_mask_in_which_0_is_white_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", FOREGROUND.astype(np.uint16))
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    data[at + 8] = 0
    path.write_bytes(data)
    with pytest.raises(MedvisionError, match="16 bits in which 0 is white is not supported"):
        read_mask(path)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "WEBP", "JPEG2000"])
@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_masks_of_every_format_read_the_same(tmp_path: Path, kind: str, mode: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(DISC * np.uint8(255)).convert(mode)
    if kind == "JPEG2000" and mode == "1":
        image = image.convert("L")
    image.save(tmp_path / "a", kind, **options)
    np.testing.assert_array_equal(read_mask(tmp_path / "a"), DISC)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_class_indices_of_every_format_without_loss_read_the_same(
    tmp_path: Path, kind: str
) -> None:
    Image.fromarray(CLASSES).save(tmp_path / "a", kind)
    np.testing.assert_array_equal(read_mask(tmp_path / "a", num_classes=4), CLASSES)
