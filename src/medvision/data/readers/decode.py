"""Decode image files to upright samples, or raise an error with a one-line reason.

Formats are detected by the first bytes, never by the extension. Pillow plugins are called directly,
because `Image.open` warns about large pictures before their size can be checked here.
"""

from __future__ import annotations

import ctypes
import io
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from medvision.data.readers.dicom import DicomPixels, decode_dicom, dicom_size
from medvision.data.readers.formats import FORMATS, MAX_PIXELS, Stored, check_size, pnm_layout
from medvision.data.readers.kinds import START_BYTES, kind_of
from medvision.errors import MedvisionError
from medvision.files import file_errors, open_regular, read_regular

MAX_SCANS = 100
"""Largest number of scans in a JPEG file; progressive ones have about ten. An empty scan is a few
bytes, and takes the decoder as long as a full one."""

REDUCED_PX = 2
"""Pixels per side that a reduced JPEG file keeps at least for each pixel of the resized image. The
decoder scales each block by its discrete cosine transform, close to the average over areas that
follows: the resized image differs by less than 1 of 255 on average."""

_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 274, 256, 257
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_REPLACE = "replace the file or remove it"
_MOST_WORDS = 200  # characters

# What is wrong with a file is reported here, once and with its name, instead of by the libraries.
warnings.filterwarnings("ignore", module=r"PIL\.")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
with suppress(OSError, AttributeError):  # a libtiff that is linked into Pillow is out of reach
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Decoded file, before its values are interpreted.

    Attributes:
        image: Image loaded by Pillow, upright only if Pillow rotates it (TIFF); ``DicomPixels`` for
            DICOM.
        data: Content of the file.
        where: Name of the file, for messages.
        stored: Samples as the header describes them.
        orientation: EXIF orientation still to be applied, 1 to 8.
        file_format: Name of the format, such as ``JPEG``.
        whole_size: Upright height and width in pixels if the image was decoded at a reduced size;
            otherwise None.
    """

    image: ImageFile | DicomPixels
    data: bytes
    where: str
    stored: Stored
    orientation: int
    file_format: str
    whole_size: tuple[int, int] | None = None

    @property
    def bits(self) -> int:
        """Bits per sample in the file, 1 to 64."""
        return self.stored.bits

    @property
    def lossy(self) -> bool:
        """True if compression may have changed the values."""
        return self.stored.lossy

    @property
    def pillow(self) -> ImageFile:
        """Pillow image, for all formats except DICOM."""
        assert isinstance(self.image, ImageFile), "a DICOM file has no image of Pillow"
        return self.image


def read_bytes(path: Path, *, hint: str = "check the path") -> bytes:
    """Return the bytes of a file.

    Raises:
        MedvisionError: If the file is missing or cannot be read.
    """
    with unreadable_named(path, hint=hint):
        return read_regular(path)


def unreadable_named(path: Path, *, hint: str = "check data.root") -> AbstractContextManager[None]:
    """Raise an error with the file's name if it cannot be read in the block."""
    return file_errors("cannot read the file", path, hint=hint, exit_code=2)


def decode(data: bytes, *, where: str, for_px: int | None = None) -> Picture:
    """Decode the file of an image.

    Args:
        data: Content of the file.
        where: Name of the file, for messages.
        for_px: Side of the square that the image will be resized to. JPEG files are decoded at 1/2,
            1/4 or 1/8 of their size where that leaves ``REDUCED_PX`` times as many pixels per side.
            None decodes all pixels.

    Raises:
        MedvisionError: If the file is empty, something else, damaged, cut short, larger than
            ``MAX_PIXELS``, has a property that is not supported, or holds more than one picture.
    """
    kind = kind_of(data[:START_BYTES])
    if kind == "DICOM":
        pixels = decode_dicom(data, where=where, max_pixels=MAX_PIXELS)
        return Picture(
            image=pixels,
            data=data,
            where=where,
            stored=Stored(bits=pixels.bits, lossy=pixels.lossy, white_is_zero=pixels.inverted),
            orientation=1,
            file_format="DICOM",
        )
    image, stored = _open(io.BytesIO(data), kind, where)
    with damage_named(where):
        frames = int(getattr(image, "n_frames", 1))
        if frames > 1:
            raise MedvisionError(
                f"the file contains {frames} pictures",
                where=where,
                hint="store each in its own file",
            )
        if isinstance(image, JpegImageFile):
            if data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):
                raise ValueError("truncated, no end marker")  # missing data would decode to grey
            if (scans := data.count(_JPEG_SCAN)) > MAX_SCANS:
                raise ValueError(f"{scans} scans")
        width, height = image.size
        if for_px is not None and isinstance(image, JpegImageFile):
            image.draft(None, (REDUCED_PX * for_px, REDUCED_PX * for_px))
        image.load()
        if isinstance(image, BmpImageFile):
            _check_runs(image, data)
    orientation = 1 if isinstance(image, TiffImageFile) else _exif_orientation(image)
    whole = None
    if isinstance(image, JpegImageFile) and image.size != (width, height):
        whole = (width, height) if orientation >= 5 else (height, width)
    return Picture(
        image=image,
        data=data,
        where=where,
        stored=stored,
        orientation=orientation,
        file_format=kind or "",
        whole_size=whole,
    )


def image_size(path: Path) -> tuple[int, int]:
    """Return the height and width in pixels, after EXIF orientation, from the header alone.

    An orientation stored after the pixels of a PNG file is ignored.

    Raises:
        MedvisionError: If the file cannot be read, is not an image, or has a property that is not
            supported.
    """
    with unreadable_named(path), open_regular(path) as stream, damage_named(str(path)):
        kind = kind_of(stream.read(START_BYTES))
        if kind == "DICOM":
            return dicom_size(stream, where=str(path), max_pixels=MAX_PIXELS)
        image, _ = _open(stream, kind, str(path))
        if not isinstance(image, TiffImageFile):
            width, height = image.size
            return (width, height) if _exif_orientation(image) >= 5 else (height, width)
        tags = image.tag_v2  # only newer Pillow swaps the size of a rotated TIFF
        height, width = int(tags[_TIFF_HEIGHT]), int(tags[_TIFF_WIDTH])
        return (width, height) if tags.get(_ORIENTATION, 1) in (5, 6, 7, 8) else (height, width)


def samples(picture: Picture) -> NDArray[Any]:
    """Return grey (H, W) or red, green, blue (H, W, 3), upright.

    Files of up to 8 bits give uint8 in [0, 255], with fewer bits scaled to that range, and signed
    values moved by 128; deeper files keep their values. Transparent pixels are composited over
    black, palettes are resolved, and CMYK and YCbCr become RGB.

    Raises:
        MedvisionError: If the colours cannot be converted to grey or RGB.
    """
    image = picture.image
    if isinstance(image, DicomPixels):
        return image.values
    with damage_named(picture.where):
        if picture.bits > 8:
            values = _deep(picture, image)
        elif image.has_transparency_data:
            values = _without_alpha(np.asarray(_with_alpha(image, picture.bits)), picture)
        elif image.mode == "1":
            values = np.asarray(image.convert("L"))
        elif picture.stored.signed:
            values = np.asarray(image) ^ np.uint8(128)  # two's complement to [0, 255]
        elif image.mode == "L" and picture.file_format == "JPEG 2000" and picture.bits < 8:
            full = 2**picture.bits - 1  # Pillow moves the values up, without filling lower bits
            values = (np.asarray(image) >> (8 - picture.bits)) * np.float32(255 / full)
            values = np.rint(values).astype(np.uint8)
        elif image.mode in ("L", "RGB"):
            values = np.asarray(image)
        else:
            values = np.asarray(image.convert("RGB"))
    return upright(values, picture.orientation)


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply an EXIF orientation to values (H, W) or (H, W, C)."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _is_text(start: bytes) -> bool:
    """Return True if the first bytes of a file are text in UTF-8."""
    text = start.decode("utf-8", errors="replace").rstrip("\ufffd")  # the last character may be cut
    return (
        "\ufffd" not in text and all(c.isprintable() or c in "\n\r\t" for c in text) and text != ""
    )


def _open(stream: BinaryIO, kind: str | None, where: str) -> tuple[ImageFile, Stored]:
    """Check the header of a file, and open it without decoding."""
    stream.seek(0)
    if kind is None:
        start = stream.read(START_BYTES)
        if not start:
            raise MedvisionError("the file is empty", where=where, hint=_REPLACE)
        what = "not an image in a supported format"
        raise MedvisionError(
            f"{what}: the file is text" if _is_text(start) else what,
            where=where,
            hint="its content decides, not its name; convert it to PNG or remove it",
        )
    form = FORMATS[kind]
    with damage_named(where):
        stored = form.stored(stream, where)
        stream.seek(0)
        image = form.plugin(stream)
        width, height = image.size
    check_size(width, height, where)
    return image, stored


def _exif_orientation(image: ImageFile) -> int:
    try:  # method of Image: that of PNG files would decode the picture
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # damaged metadata does not invalidate the picture
        return 1
    return orientation if orientation in range(1, 9) else 1


def _check_runs(image: BmpImageFile, data: bytes) -> None:
    """Compare a run-length encoded BMP with OpenCV: both read damaged ones, in different ways."""
    if image.info.get("compression") not in (1, 2):
        return
    other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if other is None or not np.array_equal(other, np.asarray(image.convert("RGB"))):
        raise ValueError("its run-length code is damaged")


def _deep(picture: Picture, image: ImageFile) -> NDArray[Any]:
    """Return values of more than 8 bits, of which Pillow keeps only those of grey."""
    if picture.file_format == "PNM":
        offset, highest = pnm_layout(PpmImageFile(io.BytesIO(picture.data)))
        if picture.data.startswith(b"P2"):  # text, which Pillow scales to 16 bits
            return np.rint(np.asarray(image) * (highest / 65535)).astype(np.uint16)
        shape = (image.height, image.width, *([3] if image.mode == "RGB" else []))
        flat = np.frombuffer(picture.data, ">u2", int(np.prod(shape)), offset)
        return flat.reshape(shape).astype(np.uint16)
    if not (image.mode.startswith("I") or image.mode == "F"):
        return _deep_colours(picture)
    values = np.asarray(image)
    if picture.file_format == "JPEG 2000":
        values = values >> (16 - picture.bits)  # Pillow moves the values up
    if picture.bits == 32 and values.dtype == np.int32 and not picture.stored.signed:
        values = values.view(np.uint32)
    if "transparency" in image.info:  # one grey level
        values = np.where(values == image.info["transparency"], 0, values)
    return values


def _deep_colours(picture: Picture) -> NDArray[Any]:
    """Decode 16-bit colours with OpenCV, because Pillow drops the lower 8 bits."""
    flat = np.frombuffer(picture.data, np.uint8)
    is_tiff = isinstance(picture.image, TiffImageFile)  # already rotated when read
    if is_tiff and TiffImageFile(io.BytesIO(picture.data)).tag_v2.get(_ORIENTATION, 1) != 1:
        raise ValueError("16-bit colour TIFF with an orientation tag; save it upright")
    values = cv2.imdecode(flat, cv2.IMREAD_UNCHANGED)  # ignores EXIF orientation
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise ValueError(f"{picture.bits}-bit {picture.pillow.mode} pictures are not supported")
    if values.shape[2] == 4:
        return _without_alpha(cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA), picture)
    return np.asarray(cv2.cvtColor(values, cv2.COLOR_BGR2RGB))


def _with_alpha(image: ImageFile, bits: int) -> Image.Image:
    """Return red, green, blue and straight alpha; Pillow compares scaled with unscaled levels."""
    level = image.info.get("transparency")
    if bits < 8 and image.mode in ("1", "L") and isinstance(level, int):
        full = 2**bits - 1
        image.info["transparency"] = (level & full) * 255 // full
    return image.convert("RGBA")


def _without_alpha(rgba: NDArray[Any], picture: Picture) -> NDArray[Any]:
    """Composite over black, as far as the fourth channel is alpha."""
    colours, alpha = rgba[..., :3], rgba[..., 3:]
    opaque = int(np.iinfo(rgba.dtype).max)
    kind, deep = picture.stored.alpha, picture.bits > 8
    if kind == "ignored" or (kind == "premultiplied" and deep) or alpha.min() == opaque:
        return colours
    if kind == "undeclared":
        raise MedvisionError(
            "a fourth channel that is not declared as alpha is not supported",
            where=picture.where,
            hint="store RGB, or RGB with declared alpha",
        )
    wide = np.uint32 if deep else np.uint16  # holds the products
    blended = (colours.astype(wide) * alpha + opaque // 2) // opaque
    return blended.astype(rgba.dtype)


@contextmanager
def damage_named(where: str) -> Iterator[None]:
    """Convert any exception while a file is read or processed to a one-line error of that file."""
    try:
        yield
    except MedvisionError:
        raise
    except Exception as fault:
        reason = " ".join(str(fault).split())[:_MOST_WORDS] or type(fault).__name__
        what = f"damaged or unsupported picture: {reason}"
        raise MedvisionError(what, where=where, hint=_REPLACE) from fault
