import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from medvision.data.readers.decode import image_size
from medvision.data.readers.formats import MAX_PIXELS
from medvision.data.readers.images import read_image
from medvision.errors import MedvisionError

RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)
GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)
# GREY as displayed for each EXIF orientation, by the EXIF standard.
UPRIGHT = {
    1: GREY,
    2: GREY[:, ::-1],
    3: GREY[::-1, ::-1],
    4: GREY[::-1],
    5: GREY.T,
    6: np.rot90(GREY, -1),
    7: GREY[::-1, ::-1].T,
    8: np.rot90(GREY, 1),
}


def saved(path: Path, values: Any, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(np.asarray(values))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def saved_deep(path: Path, values: np.ndarray) -> Path:
    """Write 16-bit colours, given as red, green, blue."""
    swapped = cv2.cvtColor(
        values, cv2.COLOR_RGB2BGR if values.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    )
    path.write_bytes(cv2.imencode(path.suffix, swapped)[1].tobytes())
    return path


def photo(size_px: int = 64) -> np.ndarray:
    ramp = np.linspace(0, 255, size_px).astype(np.uint8)
    return np.stack(np.broadcast_arrays(ramp, ramp[:, None], 255 - ramp), axis=-1)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "A.PNG", "ä ö 肺.png", "no_suffix"])
def test_lossless_colours_come_back_exactly(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kind = {".bmp": "BMP", ".tif": "TIFF"}.get(path.suffix, "PNG")
    assert np.array_equal(read_image(saved(path, RGB, format=kind), channels=3), RGB)


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", photo())
    image = read_image(path, channels=3)
    assert np.array_equal(image, np.asarray(Image.open(path)))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable  # torch warns about read-only arrays


def test_the_format_is_detected_by_content_and_not_by_extension(tmp_path: Path) -> None:
    path = saved(tmp_path / "really_png.jpg", RGB, format="PNG")
    assert np.array_equal(read_image(path, channels=3), RGB)


def test_grey_is_converted_to_three_equal_channels(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "a.png", GREY), channels=3)
    assert np.array_equal(image, np.stack([GREY] * 3, axis=-1))


def test_colours_become_grey_by_their_luma(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "a.png", RGB), channels=1)
    # 0.299 * 255, 0.587 * 255, 0.114 * 255 and 0.299 * 10 + 0.587 * 20 + 0.114 * 30
    assert image[..., 0].tolist() == [[76, 150], [29, 18]]


def test_opaque_alpha_is_dropped(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.dstack([RGB, np.full((2, 2), 255, np.uint8)]))
    assert np.array_equal(read_image(path, channels=3), RGB)


def test_translucent_pixels_are_composited_over_black(tmp_path: Path) -> None:
    rgba = np.array([[[200, 100, 50, 0], [200, 100, 50, 51]]], np.uint8)  # 51 / 255 = 1 / 5
    image = read_image(saved(tmp_path / "a.png", rgba), channels=3)
    assert image.tolist() == [[[0, 0, 0], [40, 20, 10]]]


def test_grey_with_alpha_is_composited_over_black(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.merge("LA", [Image.new("L", (2, 1), 100), Image.new("L", (2, 1), 51)]).save(path)
    assert read_image(path, channels=1).tolist() == [[[20], [20]]]


def test_palette_is_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).quantize(4).save(path)
    assert np.array_equal(read_image(path, channels=3), RGB)


def test_transparent_palette_entry_is_black(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 0, 9, 8, 7])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png", channels=3).tolist() == [[[0, 0, 0], [9, 8, 7]]]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit_is_black_and_white(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a{suffix}", GREY > 120)
    assert read_image(path, channels=1)[..., 0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_cmyk_and_ycbcr_become_rgb(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    cmyk = read_image(saved(tmp_path / "a.jpg", flat, "CMYK", quality=100), channels=3)
    ycbcr = read_image(saved(tmp_path / "a.tif", flat, "YCbCr"), channels=3)
    for image in (cmyk, ycbcr):
        assert np.abs(image.astype(int) - flat).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_grey_is_scaled_from_its_own_range(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a{suffix}", np.array([[1000, 2000, 3000]], np.uint16))
    assert read_image(path, channels=1)[..., 0].tolist() == [[0, 128, 255]]


def test_deep_grey_is_scaled_from_the_given_range_and_clipped(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.array([[0, 1000, 1500, 2000, 9000]], np.uint16))
    image = read_image(path, channels=1, value_range=(1000, 2000))
    assert image[..., 0].tolist() == [[0, 0, 128, 255, 255]]


def test_big_endian_tiff_reads_the_same(tmp_path: Path) -> None:
    header = b"MM\0*" + struct.pack(">I", 8)
    tags = [(256, 2), (257, 1), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1)]
    tags.append((279, 4))
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    directory = struct.pack(">H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(header + directory + struct.pack(">HH", 256, 512))
    image = read_image(tmp_path / "a.tif", channels=1, value_range=(0, 512))
    assert image[..., 0].tolist() == [[128, 255]]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_deep_colours_keep_all_their_bits(tmp_path: Path, suffix: str) -> None:
    low_bytes = np.arange(12, dtype=np.uint16).reshape(2, 2, 3)  # 0 to 11: lost in 8 bits
    image = read_image(saved_deep(tmp_path / f"a{suffix}", low_bytes), channels=3)
    assert image.ravel().tolist() == [round(k * 255 / 11) for k in range(12)]


def test_deep_alpha_is_composited_over_black(tmp_path: Path) -> None:
    rgba = np.array([[[60000, 30000, 0, 65535], [60000, 30000, 0, 0]]], np.uint16)
    image = read_image(saved_deep(tmp_path / "a.png", rgba), channels=3, value_range=(0, 60000))
    assert image.tolist() == [[[255, 128, 0], [0, 0, 0]]]


def test_a_rotated_deep_colour_tiff_is_refused(tmp_path: Path) -> None:
    path = saved_deep(tmp_path / "a.tiff", np.zeros((2, 3, 3), np.uint16))
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HHI", 284, 3, 1))  # the tag for planes becomes orientation
    data[at : at + 12] = struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    path.write_bytes(bytes(data))
    with pytest.raises(MedvisionError, match="orientation tag"):
        read_image(path, channels=3)


def test_float_tiff_is_scaled(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", np.array([[-1, 0, 1]], np.float32))
    assert read_image(path, channels=1)[..., 0].tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    path = saved(tmp_path / "a.tif", np.array([[0, value]], np.float32))
    for value_range in (None, (0.0, 1.0)):
        with pytest.raises(MedvisionError, match=r"not finite.*a\.tif"):
            read_image(path, channels=1, value_range=value_range)


def test_constant_deep_image_is_black(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.full((2, 2), 777, np.uint16))
    assert not read_image(path, channels=1).any()


def test_value_range_does_not_change_eight_bit_images(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", GREY)
    assert np.array_equal(read_image(path, channels=1, value_range=(0, 10))[..., 0], GREY)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    big = np.kron(GREY, np.ones((8, 8), np.uint8))  # whole JPEG blocks
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    options = {"tiffinfo": {274: orientation}} if suffix == ".tif" else {"exif": exif.tobytes()}
    saved(path, big, **options)
    image = read_image(path, channels=1)[..., 0]
    expected = np.kron(UPRIGHT[orientation], np.ones((8, 8), np.uint8))
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= 2
    assert image_size(path) == expected.shape


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # as the module does
def test_damaged_exif_does_not_invalidate_a_valid_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", photo(), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\0\0")
    assert read_image(path, channels=3).shape == (64, 64, 3)


def test_size_is_height_and_width(tmp_path: Path) -> None:
    assert image_size(saved(tmp_path / "a.png", np.zeros((3, 7), np.uint8))) == (3, 7)


def test_size_reads_no_pixels(tmp_path: Path) -> None:
    data = saved(tmp_path / "a.jpg", photo(256)).read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    assert image_size(tmp_path / "a.jpg") == (256, 256)


@pytest.mark.parametrize(
    "kind",
    [
        *("JPEG", "PNG", "BMP", "TIFF", "TIFF-LZW", "deep PNG", "deep TIFF"),
        *("GIF", "WEBP", "JPEG2000", "PPM"),
    ],
)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_an_error_with_its_name(tmp_path: Path, kind: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    path = tmp_path / "cut file.png"
    if kind.startswith("deep"):
        saved_deep(tmp_path / f"a.{kind[5:].lower()}", noise.astype(np.uint16) * 257).rename(path)
    elif kind == "TIFF-LZW":
        saved(path, noise, format="TIFF", compression="tiff_lzw")
    else:
        saved(path, noise, format=kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(MedvisionError, match=r"cut file\.png"):
        read_image(path, channels=3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "JPEG2000"])
def test_a_download_padded_with_zeros_is_refused(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = saved(tmp_path / "a.jpg", noise, format=kind).read_bytes()
    half = len(data) // 2
    (tmp_path / "a.jpg").write_bytes(data[:half] + bytes(half))
    with pytest.raises(MedvisionError, match=r"a\.jpg"):
        read_image(tmp_path / "a.jpg", channels=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(b"hello, world", "supported format: the file is text", id="text"),
        pytest.param(
            b"x" + "é".encode() * 99, "supported format: the file is text", id="cut-letter"
        ),
        pytest.param(b"\0\1hello", r"supported format \(", id="binary"),
        pytest.param(b"caf\xe9 au lait", r"supported format \(", id="latin-1"),
        pytest.param(b"GIF89a" + bytes(20), "damaged", id="gif-zeros"),
        pytest.param(b"\xff\xd8\xff", "damaged", id="jpeg-start-only"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "damaged", id="png-start-only"),
        pytest.param(b"BM", "damaged", id="bmp-start-only"),
        pytest.param(b"II*\0" + bytes(30), "damaged", id="tiff-zeros"),
        pytest.param(b"MM\0*\xff\xff\xff\xff", "damaged", id="tiff-points-nowhere"),
    ],
)
def test_a_file_that_is_not_a_picture_is_an_error_with_its_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "odd.jpg").write_bytes(content)
    for read in (lambda p: read_image(p, channels=3), image_size):
        with pytest.raises(MedvisionError, match=rf"{message}.*odd\.jpg"):
            read(tmp_path / "odd.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_flipped_bytes_are_read_or_fail_with_one_line(tmp_path: Path, kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(photo(24)).save(stream, kind)
    chance = np.random.default_rng(1)
    outcomes = set()
    for _ in range(80):
        data = bytearray(stream.getvalue())
        for place in chance.integers(0, min(len(data), 400), 3):
            data[place] = chance.integers(256)
        (tmp_path / "a").write_bytes(bytes(data))
        try:
            image = read_image(tmp_path / "a", channels=3)
            outcomes.add((image.ndim, image.dtype.name))
            assert image_size(tmp_path / "a") == image.shape[:2]
        except MedvisionError as fault:
            outcomes.add(len(str(fault).splitlines()))
    assert outcomes <= {(3, "uint8"), 1}
    assert 1 in outcomes


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.png", "No such file"), (tmp_path, "directory")):
        for read in (lambda p: read_image(p, channels=3), image_size):
            with pytest.raises(MedvisionError, match=reason):
                read(path)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_several_pictures_in_one_file_are_refused(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 100, 200)]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:])
    with pytest.raises(MedvisionError, match="contains 3 pictures"):
        read_image(tmp_path / "a", channels=1)


def bomb_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_001, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    assert side**2 > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(bomb_png(side, side))
    with pytest.raises(MedvisionError, match=r"exceed the limit of 100 million \(.*bomb\.png"):
        read_image(tmp_path / "bomb.png", channels=1)


def test_large_pictures_below_the_limit_cause_no_warning(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bomb_png(9_900, 9_900))  # Pillow warns from 89 million
    assert image_size(tmp_path / "large.png") == (9_900, 9_900)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_of_channels_are_refused(tmp_path: Path, channels: int) -> None:
    with pytest.raises(ValueError, match=f"1, 3 or None, got {channels}"):
        read_image(saved(tmp_path / "a.png", GREY), channels=channels)


def test_reversed_value_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedvisionError, match=r"data\.value_range"):
        read_image(saved(tmp_path / "a.png", GREY), channels=1, value_range=(1, 0))


def test_pillow_never_accepts_truncated_files() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_missing_image_file_is_no_matter_of_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(MedvisionError) as caught:
        read_image(tmp_path / "nope.png", channels=3)
    assert str(caught.value).endswith("nope.png); check the path")
