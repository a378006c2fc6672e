"""Every property of a file is read as its format defines it, or refused by its name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medvision.data.readers.decode import decode, image_size
from medvision.data.readers.images import decode_image
from medvision.data.readers.kinds import kind_of
from medvision.errors import MedvisionError

GREY = np.linspace(0, 250, 48).astype(np.uint8).reshape(6, 8)
RGB = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
RGBA = np.dstack([RGB, np.full_like(GREY, 51)])  # 51 / 255 = 1 / 5


def read(data: bytes, channels: int = 3, **options: Any) -> NDArray[np.uint8]:
    found = decode_image(data, where="FILE", channels=channels, **options)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    return found[..., 0] if channels == 1 else found


def refusal(data: bytes) -> str:
    with pytest.raises(MedvisionError) as error:
        read(data)
    assert error.value.where == "FILE"
    assert error.value.hint
    return error.value.what


WHITE, BLACK, COLOURS, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8


def tiff(values: NDArray[Any], photometric: int | None, *, order: str = "<", **tags: Any) -> bytes:
    """Write a TIFF file of one strip per plane, uncompressed, by the letter of TIFF 6.0.

    Args:
        values: (H, W) or (H, W, C).
        photometric: Tag 262; None leaves it out.
        order: Byte order.
        **tags: Numbers or tuples by the names below.
    """
    numbers = {"compression": 259, "description": 270, "planar": 284, "colours": 320}
    numbers |= {"extra": 338, "format": 339, "bits": 258, "depth": 32997, "subsampling": 530}
    planar = tags.get("planar") == 2
    samples = 1 if values.ndim == 2 else values.shape[2]
    height, width = values.shape[:2]
    parts = [values[..., k] for k in range(samples)] if planar else [values]
    strips = [part.astype(values.dtype.newbyteorder(order)).tobytes() for part in parts]
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[values.dtype.kind]
    entries: dict[int, Any] = {256: width, 257: height, 259: 1, 277: samples, 278: height}
    entries |= {258: (8 * values.dtype.itemsize,) * samples, 339: (kind,) * samples}
    if photometric is not None:
        entries[262] = photometric
    entries |= {numbers[name]: value for name, value in tags.items()}
    body, offsets = b"", []
    for strip in strips:
        offsets.append(8 + len(body))
        body += strip + bytes(len(strip) % 2)
    entries |= {273: tuple(offsets), 279: tuple(map(len, strips))}
    later, rows = 8 + len(body), []
    extra = b""
    for tag in sorted(entries):
        value = entries[tag]
        if isinstance(value, str):
            code, number, raw = 2, len(value) + 1, value.encode() + b"\0"
        else:
            value = value if isinstance(value, tuple) else (value,)
            code, number = (4, len(value)) if tag in (273, 279) else (3, len(value))
            raw = struct.pack(f"{order}{number}{'I' if code == 4 else 'H'}", *value)
        if len(raw) > 4:
            place = struct.pack(f"{order}I", later + len(extra))
            extra += raw + bytes(len(raw) % 2)
            raw = place
        rows.append(struct.pack(f"{order}HHI", tag, code, number) + raw.ljust(4, b"\0"))
    start = later + len(extra)
    mark = b"II" if order == "<" else b"MM"
    directory = struct.pack(f"{order}H", len(rows)) + b"".join(rows) + bytes(4)
    return mark + struct.pack(f"{order}HI", 42, start) + body + extra + directory


def saved(values: NDArray[Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_common_kinds_is_read_exactly(order: str) -> None:
    np.testing.assert_array_equal(read(tiff(GREY, BLACK, order=order), 1), GREY)
    np.testing.assert_array_equal(read(tiff(RGB, COLOURS, order=order)), RGB)
    deep = tiff(GREY * np.uint16(257), BLACK, order=order)
    np.testing.assert_array_equal(read(deep, 1, value_range=(0, 65535)), GREY)
    colours = tiff(RGB * np.uint16(257), COLOURS, order=order)
    np.testing.assert_array_equal(read(colours, value_range=(0, 65535)), RGB)


def test_signed_8_bit_values_do_not_wrap_around() -> None:
    signed = (GREY.astype(np.int16) - 128).astype(np.int8)
    np.testing.assert_array_equal(read(tiff(signed, BLACK), 1), GREY)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_white_is_zero_shows_the_same_picture_as_black_is_zero(kind: type) -> None:
    spot = np.full((9, 9), 40.0)
    spot[4, 4] = 200
    scale = 1 if kind is np.uint8 else 0.01 if kind is np.float32 else 257
    black, white = ((values * scale).astype(kind) for values in (spot, 255 - spot))
    shown = read(tiff(white, WHITE), 1)
    assert shown[4, 4] > shown[0, 0]
    np.testing.assert_array_equal(shown, read(tiff(black, BLACK), 1))


def test_white_is_zero_with_a_value_range_refers_to_the_stored_values() -> None:
    stored = np.array([[0, 100, 200]], np.uint16)
    assert read(tiff(stored, WHITE), 1, value_range=(0, 200)).tolist() == [[255, 127, 0]]


def test_planes_of_8_bits_equal_interleaved_channels() -> None:
    np.testing.assert_array_equal(read(tiff(RGB, COLOURS, planar=2)), RGB)


def test_the_upper_half_of_32_bit_integers_is_not_negative() -> None:
    values = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    assert read(tiff(values, BLACK), 1).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(("scale", "kind"), [(1, np.uint8), (257, np.uint16)])
@pytest.mark.parametrize(
    ("extra", "shown"),
    [
        pytest.param(0, lambda rgb: rgb, id="unspecified: not alpha"),
        pytest.param(1, lambda rgb: rgb, id="premultiplied: already over black"),
        pytest.param(2, lambda rgb: np.rint(rgb / 5), id="straight: over black"),
    ],
)
def test_extra_channels_have_the_meaning_that_their_tag_declares(
    scale: int, kind: type, extra: int, shown: Any
) -> None:
    dark = RGBA // np.array([5, 5, 5, 1], np.uint8)  # premultiplied colours do not exceed alpha
    data = tiff(dark * kind(scale), COLOURS, extra=extra)
    found = read(data, value_range=(0, 65535)).astype(int)
    assert np.abs(found - shown(dark[..., :3])).max() <= 1


def test_a_fourth_channel_without_a_declaration_must_be_opaque() -> None:
    opaque = np.dstack([RGB, np.full_like(GREY, 255)])
    np.testing.assert_array_equal(read(tiff(opaque, COLOURS)), RGB)
    assert refusal(tiff(RGBA, COLOURS)).startswith("a fourth channel that is not declared as alpha")


def _palette(scale: int) -> tuple[int, ...]:
    """Return colours (level, level + 1, level + 2) for each index."""
    shifted = (level + channel for channel in range(3) for level in range(256))
    return tuple(min(level, 255) * scale for level in shifted)


REFUSED = [
    (tiff(GREY.astype(np.float64), BLACK), "TIFF with 64-bit floats in grey is not supported"),
    (tiff(GREY.astype(np.float16), BLACK), "TIFF with 16-bit floats in grey is not supported"),
    (tiff(GREY.astype(np.uint64), BLACK), "TIFF with 64-bit unsigned integers in grey is not"),
    (tiff(GREY.astype(np.complex64), BLACK), "TIFF with complex floats is not supported"),
    (tiff(RGB.astype(np.float32), COLOURS), "TIFF with 32-bit floats in RGB is not supported"),
    (tiff(RGB.astype(np.int8), COLOURS), "TIFF with 8-bit signed integers in RGB is not"),
    (tiff(RGB.astype(np.uint16), COLOURS, planar=2), "TIFF with 16-bit RGB in separate planes"),
    (tiff(RGB, LAB), "TIFF with the colour space CIELab is not supported"),
    (tiff(GREY, None), "TIFF with no photometric interpretation is not supported"),
    (tiff(RGB, COLOURS, bits=(8, 8, 16)), "TIFF with channels of different types is not"),
    (tiff(GREY, BLACK, bits=(7,)), "TIFF with 7-bit unsigned integers in grey is not supported"),
    (tiff(GREY, BLACK, compression=34712), "TIFF with JPEG 2000 compression of 8-bit grey"),
    (tiff(GREY, BLACK, compression=4), "TIFF with CCITT compression of 8-bit grey"),
    (tiff(GREY, BLACK, format=(4,)), "TIFF with undefined values is not supported"),
    (tiff(RGBA, CMYK, compression=7), "TIFF with JPEG compression of 8-bit CMYK is not supported"),
    (tiff(GREY.astype(np.float32), BLACK, order=">", compression=5), "TIFF with big-endian comp"),
    (tiff(GREY.astype(np.uint32), BLACK, order=">"), "TIFF with big-endian 32-bit unsigned"),
    (tiff(RGB[..., :2], BLACK, extra=1), "TIFF with premultiplied alpha of 8 bits in grey is not"),
    (tiff(RGB[..., :2] * np.uint16(9), BLACK, extra=2), "TIFF with 1 extra channels of 16 bits"),
    (tiff(RGB, YCBCR), "TIFF with subsampled YCbCr is not supported"),
    (tiff(GREY, PALETTE, colours=_palette(1)), "TIFF with a palette of 8-bit colours"),
    (tiff(GREY, BLACK, depth=4), "TIFF with a volume is not supported"),
    (tiff(GREY, BLACK, description="ImageJ=1.53\nimages=7\n"), "the file contains 7 pictures"),
    (b"MM\0+\0\x08\0\0" + bytes(40), "big-endian BigTIFF is not supported"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_what_is_not_supported_is_refused_by_its_property(
    data: bytes, message: str, tmp_path: Path
) -> None:
    assert refusal(data).startswith(message)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(MedvisionError, match=message[:20]):  # also where headers only are read
        image_size(tmp_path / "a.tif")


def test_a_palette_of_16_bit_colours_is_resolved() -> None:
    found = read(tiff(GREY, PALETTE, colours=_palette(256)))
    np.testing.assert_array_equal(found, np.stack([GREY, GREY + 1, GREY + 2], axis=-1))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(rows: list[bytes], width: int, bits: int, colour: int, *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(more)
        + pixels
        + chunk(b"IEND", b"")
    )


def test_a_transparent_grey_level_of_png_is_black_at_every_depth() -> None:
    level = chunk(b"tRNS", struct.pack(">H", 2))
    two_bits = png([bytes([0b00_01_10_11])], 4, 2, 0, level)
    assert read(two_bits, 1).tolist() == [[0, 85, 0, 255]]
    row = np.array([1, 2, 3], ">u2").tobytes()
    assert read(png([row], 3, 16, 0, level), 1, value_range=(0, 3)).tolist() == [[85, 0, 255]]
    colours = np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3]], ">u2").tobytes()
    level = chunk(b"tRNS", struct.pack(">3H", 2, 2, 2))
    found = read(png([colours], 3, 16, 2, level), value_range=(0, 3))
    assert found[0, :, 0].tolist() == [85, 0, 255]


def test_deep_grey_with_alpha_is_composited_over_black() -> None:
    row = np.array([40000, 65535, 40000, 0], ">u2").tobytes()
    found = read(png([row], 2, 16, 4), 1, value_range=(0, 40000))
    assert found.tolist() == [[255, 0]]


def test_gif_of_one_picture_is_read() -> None:
    found = read(saved(RGB, "GIF"))
    assert np.abs(found.astype(int) - RGB).mean() < 20  # of 256 colours
    np.testing.assert_array_equal(read(saved(GREY, "GIF"), 1), GREY)


def test_gif_of_several_pictures_or_of_a_part_of_its_screen_is_refused() -> None:
    frames = [Image.fromarray(GREY + shade) for shade in (0, 3)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert refusal(stream.getvalue()) == "the file contains 2 pictures"
    part = bytearray(saved(GREY, "GIF"))
    struct.pack_into("<H", part, 6, 20)  # a wider screen
    assert refusal(bytes(part)).startswith("a GIF picture that does not cover its screen")


def test_webp_is_read_with_its_orientation_and_its_loss() -> None:
    data = saved(RGB, "WEBP", lossless=True)
    np.testing.assert_array_equal(read(data), RGB)
    assert not decode(data, where="FILE").lossy
    assert decode(saved(RGB, "WEBP"), where="FILE").lossy
    exif = Image.Exif()
    exif[274] = 6
    turned = read(saved(RGB, "WEBP", lossless=True, exif=exif.tobytes()))
    np.testing.assert_array_equal(turned, np.rot90(RGB, -1))


def test_webp_of_many_pixels_is_refused_before_memory_is_taken() -> None:
    data = bytearray(saved(RGB, "WEBP", lossless=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xff" * 6  # width and height of 2^24
    assert "exceed the limit of 100 million" in refusal(bytes(data))


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
def test_jpeg_2000_is_read(suffix: str) -> None:
    options = {"no_jp2": suffix == "j2k"}
    np.testing.assert_array_equal(read(saved(GREY, "JPEG2000", **options), 1), GREY)
    np.testing.assert_array_equal(read(saved(RGB, "JPEG2000", **options)), RGB)
    deep = saved(GREY * np.uint16(257), "JPEG2000", **options)
    np.testing.assert_array_equal(read(deep, 1, value_range=(0, 65535)), GREY)
    assert decode(deep, where="FILE").bits == 16


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        pytest.param(0x87, "JPEG 2000 with signed or different channels", id="signed"),
        pytest.param(15, "JPEG 2000 with 16-bit colours", id="deep"),
    ],
)
def test_jpeg_2000_that_would_lose_bits_or_signs_is_refused(depth: int, message: str) -> None:
    data = bytearray(saved(RGB, "JPEG2000", no_jp2=True))
    for channel in range(3):
        place = 42 + 3 * channel
        assert data[place] == 7  # bits - 1
        data[place] = depth
    assert refusal(bytes(data)) == f"{message} is not supported"


PNM = [
    (b"P1 # a\n3 1\n1 0 1\n", [[0, 255, 0]]),
    (b"P2 3 1 255\n0 7 255\n", [[0, 7, 255]]),
    (b"P3 1 1 255\n10 20 30\n", [[18]]),
    (b"P4\n3 1\n\xa0", [[0, 255, 0]]),
    (b"P5\n# a comment\n3 1\n255\n\0\x07\xff", [[0, 7, 255]]),
    (b"P5 3 1 15\n\0\x07\x0f", [[0, 119, 255]]),
    (b"P6 1 1 255\n\x0a\x14\x1e", [[18]]),
]


@pytest.mark.parametrize(("data", "expected"), PNM)
def test_pnm_of_all_six_kinds_is_read(data: bytes, expected: list[list[int]]) -> None:
    assert read(data, 1).tolist() == expected


@pytest.mark.parametrize("top", [1000, 65535])
def test_deep_pnm_keeps_its_values(top: int) -> None:
    values = np.array([[0, 250, 500, 1000]], ">u2")
    binary = b"P5 4 1 %d\n" % top + values.tobytes()
    text = b"P2 4 1 %d\n0 250 500 1000\n" % top
    colours = b"P6 4 1 %d\n" % top + np.repeat(values[..., None], 3, axis=2).tobytes()
    for data in (binary, text, colours):
        assert read(data, 1, value_range=(0, 1000)).tolist() == [[0, 64, 128, 255]]
    assert refusal(b"P3 1 1 1000\n1 2 3\n").startswith("PNM text with more than 8 bits")


def test_several_pictures_in_a_pnm_file_are_refused() -> None:
    one = b"P5 2 1 255\n\x01\x02"
    assert read(one + b"\n", 1).tolist() == [[1, 2]]
    assert refusal(one + one) == "the file contains several pictures"
    with pytest.raises(MedvisionError, match="damaged"):
        read(one[:-1])


def test_jpeg_of_12_bits_and_lossless_jpeg_are_refused_by_their_property() -> None:
    data = bytearray(saved(GREY, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 4] = 12
    assert refusal(bytes(data)) == "JPEG with 12 bits per sample is not supported"
    data[at + 1] = 0xC3
    assert refusal(bytes(data)) == "lossless JPEG is not supported"


def test_damaged_run_lengths_of_bmp_are_refused() -> None:
    colours = b"".join(bytes([level, level, level, 0]) for level in range(256))
    size = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, 0, 0, 0, 256, 0)
    head = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + len(colours)) + size + colours
    whole = head + b"\x04\x50\0\0\x04\xa0\0\x01"
    assert read(whole, 1).tolist() == [[160] * 4, [80] * 4]
    assert "run-length code" in refusal(head + b"\x09\x50\0\0\x04\xa0\0\x01")


def test_formats_are_detected_by_their_first_bytes() -> None:
    starts = {
        "PNG": saved(GREY, "PNG"),
        "JPEG": saved(GREY, "JPEG"),
        "WebP": saved(RGB, "WEBP"),
        "JPEG 2000": saved(GREY, "JPEG2000"),
        "PNM": PNM[0][0],
        "GIF": saved(GREY, "GIF"),
        "BMP": saved(GREY, "BMP"),
        "TIFF": tiff(GREY, BLACK),
    }
    assert {name: kind_of(data) for name, data in starts.items()} == {k: k for k in starts}
    hidden = b"II*\0" + bytes(124) + b"DICM"  # the preamble of DICOM may look like TIFF
    assert kind_of(hidden) == "DICOM"
    assert [kind_of(data) for data in (b"", b"P7 \n", b"RIFF1234WAVE", b"text")] == [None] * 4


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # as the module does
def test_damaged_files_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    deep = cv2.imencode(".tif", noise * np.uint16(257))[1].tobytes()
    files = [saved(noise, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate")]
    files += [deep, saved(noise, "PNG"), saved(noise, "JPEG2000"), saved(noise, "WEBP")]
    faults = []
    for data in files:
        for changed in (data[:-900], data[:300] + b"\xaa" * 600 + data[900:]):
            try:
                read(changed)
            except MedvisionError as error:
                faults.append(str(error))
    assert len(faults) > len(files)
    assert not [fault for fault in faults if "\n" in fault]
    assert capfd.readouterr() == ("", "")


def test_a_cmyk_file_is_remarked_upon() -> None:
    remarks: list[str] = []
    data = saved(RGBA, "PNG")
    inks = io.BytesIO()
    Image.fromarray(RGB).convert("CMYK").save(inks, "JPEG")
    for content in (data, inks.getvalue(), tiff(RGBA, COLOURS, extra=0)):
        decode_image(content, where="FILE", channels=3, remark=remarks.append)
    assert remarks == [
        "CMYK was converted to RGB without its colour profile",
        "a channel that is neither colour nor alpha was ignored",
    ]
