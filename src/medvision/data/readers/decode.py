"""Decode image files to upright samples, or raise an error with a one-line reason.

Formats are detected by the first bytes, never by the extension. Pillow plugins are called directly,
because `Image.open` warns about large pictures before their size can be checked here.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from medvision.data.readers.dicom import PREAMBLE, DicomPixels, decode_dicom, dicom_size, is_dicom
from medvision.errors import MedvisionError
from medvision.files import file_errors, open_regular, read_regular

MAX_PIXELS = 100_000_000
"""Largest number of pixels; larger pictures are rejected before decoding to save memory."""

MAX_SCANS = 100
"""Largest number of scans in a JPEG file; progressive ones have about ten. An empty scan is a few
bytes, and takes the decoder as long as a full one."""

_PLUGINS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"BM", BmpImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
    (b"II+\x00", TiffImageFile),
    (b"MM\x00+", TiffImageFile),
)
_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS = 274, 256, 257, 258
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_LOSSY = ("jpeg", "tiff_jpeg", "webp")  # TIFF compressions
_REPLACE = "replace the file or remove it"

# Pillow warns about a damaged TIFF before it fails; the failure is reported here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Decoded file, before its values are interpreted.

    Attributes:
        image: Image loaded by Pillow, upright only if Pillow rotates it (TIFF); ``DicomPixels`` for
            DICOM.
        data: Content of the file.
        where: Name of the file, for messages.
        bits: Bits per sample in the file, 1 to 64.
        orientation: EXIF orientation still to be applied, 1 to 8.
        lossy: True if compression may have changed the values.
        file_format: ``JPEG``, ``PNG``, ``BMP``, ``TIFF`` or ``DICOM``.
    """

    image: ImageFile | DicomPixels
    data: bytes
    where: str
    bits: int
    orientation: int
    lossy: bool
    file_format: str

    @property
    def pillow(self) -> ImageFile:
        """Pillow image, for all formats except DICOM."""
        assert isinstance(self.image, ImageFile), "a DICOM file has no image of Pillow"
        return self.image


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        MedvisionError: If the file is missing or cannot be read.
    """
    with unreadable_named(path):
        return read_regular(path)


def unreadable_named(path: Path) -> AbstractContextManager[None]:
    """Raise an error with the file's name if it cannot be read in the block."""
    return file_errors("cannot read the file", path, hint="check data.root", exit_code=2)


def decode(data: bytes, *, where: str) -> Picture:
    """Decode a JPEG, PNG, BMP, TIFF or DICOM file.

    Raises:
        MedvisionError: If the file is empty, something else, damaged, cut short, larger than
            ``MAX_PIXELS``, or holds more than one picture.
    """
    if is_dicom(data):
        pixels = decode_dicom(data, where=where, max_pixels=MAX_PIXELS)
        return Picture(
            image=pixels,
            data=data,
            where=where,
            bits=pixels.bits,
            orientation=1,
            lossy=pixels.lossy,
            file_format="DICOM",
        )
    image = _open(io.BytesIO(data), where)
    with _damage_named(where):
        bits, frames = _bits(image, data), int(getattr(image, "n_frames", 1))
        lossy = isinstance(image, JpegImageFile) or image.info.get("compression") in _LOSSY
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
        image.load()
    orientation = 1 if isinstance(image, TiffImageFile) else _exif_orientation(image)
    return Picture(
        image=image,
        data=data,
        where=where,
        bits=bits,
        orientation=orientation,
        lossy=lossy,
        file_format=str(image.format),
    )


def image_size(path: Path) -> tuple[int, int]:
    """Return the height and width in pixels, after EXIF orientation, from the header alone.

    An orientation stored after the pixels of a PNG file is ignored.

    Raises:
        MedvisionError: If the file cannot be read or is not a JPEG, PNG, BMP, TIFF or DICOM
            picture.
    """
    with unreadable_named(path), open_regular(path) as stream:
        if is_dicom(stream.read(PREAMBLE)):
            return dicom_size(stream, where=str(path), max_pixels=MAX_PIXELS)
        stream.seek(0)
        image = _open(stream, str(path))
        if not isinstance(image, TiffImageFile):
            width, height = image.size
            return (width, height) if _exif_orientation(image) >= 5 else (height, width)
        tags = image.tag_v2  # only newer Pillow swaps the size of a rotated TIFF
        height, width = int(tags[_TIFF_HEIGHT]), int(tags[_TIFF_WIDTH])
        return (width, height) if tags.get(_ORIENTATION, 1) in (5, 6, 7, 8) else (height, width)


def samples(picture: Picture) -> NDArray[Any]:
    """Return grey (H, W) or red, green, blue (H, W, 3), upright.

    Files of up to 8 bits give uint8 in [0, 255], with fewer bits scaled to that range; deeper files
    keep their values. Transparent pixels are composited over black, palettes are resolved, and CMYK
    and YCbCr become RGB.

    Raises:
        MedvisionError: If the colours cannot be converted to grey or RGB.
    """
    image = picture.image
    if isinstance(image, DicomPixels):
        return image.values
    with _damage_named(picture.where):
        if picture.bits > 8 and (image.mode.startswith("I") or image.mode == "F"):
            values = np.asarray(image)
        elif picture.bits > 8:
            values = _deep_colours(picture)
        elif image.has_transparency_data:
            values = _over_black(np.asarray(image.convert("RGBA")), opaque=255)
        elif image.mode == "1":
            values = np.asarray(image.convert("L"))
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


def _open(stream: BinaryIO, where: str) -> ImageFile:
    start = stream.read(8)
    stream.seek(0)
    if not start:
        raise MedvisionError("the file is empty", where=where, hint=_REPLACE)
    plugin = next((plugin for magic, plugin in _PLUGINS if start.startswith(magic)), None)
    if plugin is None:
        raise MedvisionError(
            "not a JPEG, PNG, BMP, TIFF or DICOM picture",
            where=where,
            hint="convert it or remove it",
        )
    with _damage_named(where):
        image = plugin(stream)
        width, height = image.size
    if width * height > MAX_PIXELS:
        raise MedvisionError(
            f"{width} x {height} pixels exceed the limit of {MAX_PIXELS // 1_000_000} million",
            where=where,
            hint="crop or shrink the picture",
        )
    return image


def _bits(image: ImageFile, data: bytes) -> int:
    if isinstance(image, PngImageFile):
        return data[24]  # in the IHDR chunk, which always comes first
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(_TIFF_BITS, (1,))
        return int(max(bits) if isinstance(bits, tuple) else bits)
    return 1 if image.mode == "1" else 8


def _exif_orientation(image: ImageFile) -> int:
    try:  # method of Image: that of PNG files would decode the picture
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # damaged metadata does not invalidate the picture
        return 1
    return orientation if orientation in range(1, 9) else 1


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
        return _over_black(cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA), opaque=65535)
    return np.asarray(cv2.cvtColor(values, cv2.COLOR_BGR2RGB))


def _over_black(rgba: NDArray[Any], *, opaque: int) -> NDArray[Any]:
    alpha = rgba[..., 3:]
    if alpha.min() == opaque:
        return rgba[..., :3]
    blended = (rgba[..., :3].astype(np.uint32) * alpha + opaque // 2) // opaque
    return blended.astype(rgba.dtype)


@contextmanager
def _damage_named(where: str) -> Iterator[None]:
    """Convert any exception of Pillow or OpenCV on damaged files to a one-line error."""
    try:
        yield
    except MedvisionError:
        raise
    except Exception as fault:
        reason = str(fault) or type(fault).__name__
        what = f"damaged or unsupported picture: {reason}"
        raise MedvisionError(what, where=where, hint=_REPLACE) from fault
