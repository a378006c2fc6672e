"""Read DICOM files: values, their interpretation and their display.

The modality transform (rescale slope and intercept, or its table) is applied, then the first VOI
window or table, and MONOCHROME1 or a PresentationLUTShape of INVERSE is inverted (DICOM PS3.3,
C.11.1, C.11.2, C.7.6.3 and C.11.6). Empty tags count as missing, because many writers leave them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvision.errors import MedvisionError, install_command


@dataclass(frozen=True, kw_only=True, slots=True)
class DicomPixels:
    """Values of a picture.

    Attributes:
        values: Grey (H, W) after the modality transform, or red, green, blue (H, W, 3).
        bits: Bits per sample in the file.
        lossy: True if compression may have changed the values.
        window: Values shown as black and white; None if they are 0 and 255 as stored.
        display: Values of a VOI table or sigmoid in [0, 255], if used instead of a window.
        inverted: True if small values are white.
        shown_by: Origin of black and white: ``window``, ``table``, ``bits``, ``values`` or
            ``colours``.
    """

    values: NDArray[Any]
    bits: int
    lossy: bool
    window: tuple[float, float] | None = None
    display: NDArray[np.uint8] | None = None
    inverted: bool = False
    shown_by: str = "colours"


def _as_grey(header: Any, stored: NDArray[Any], *, bits: int, lossy: bool) -> DicomPixels:
    """Apply the modality transform to stored values (H, W), and determine their display."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    values = np.asarray(apply_modality_lut(stored, header))
    window, display, shown_by = _window(header), None, "window"
    if "VOILUTSequence" in header:  # then it has a table
        shown = np.asarray(apply_voi_lut(values, header), np.float64)
        largest = 2 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1
        display, window, shown_by = _as_levels(shown / largest), None, "table"
    elif window is not None and _function(header) == "SIGMOID":  # C.11.2.1.3.1
        low, high = window
        away = (values - (low + high) / 2) / (high - low)
        display, window = _as_levels(1 / (1 + np.exp(np.clip(-4 * away, -50, 50)))), None
    if values.dtype.kind == "f" and (values == np.rint(values)).all():  # slope 1, as in most files
        values = values.astype(np.int32)
    if window is None and display is None:
        by_bits = bits <= 8 and values is stored and stored.dtype.kind in "iu"
        window = _range_of_bits(header, bits) if by_bits else _range(header, stored, values)
        shown_by = "bits" if by_bits else "values"
        if window == (0, 255) and values.dtype == np.uint8:
            window = None
    return DicomPixels(
        values=values,
        bits=bits,
        lossy=lossy,
        window=window,
        display=display,
        shown_by=shown_by,
    )


def _window(header: Any) -> tuple[float, float] | None:
    """Return the black and white values of the first window (C.11.2.1.2 and C.11.2.1.3)."""
    centre, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    if centre is None or width is None or not np.isfinite((centre, width)).all():
        return None
    if _function(header) in ("LINEAR_EXACT", "SIGMOID"):
        return (centre - width / 2, centre + width / 2) if width > 0 else None
    if width < 1:
        return None
    if width == 1:  # a threshold
        return centre - 0.5, np.nextafter(centre - 0.5, np.inf)
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2


def _first(header: Any, name: str) -> float | None:
    value = header.get(name)
    if hasattr(value, "__getitem__") and not isinstance(value, str):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)


def _function(header: Any) -> str:
    return str(header.get("VOILUTFunction") or "LINEAR").upper()


def _as_levels(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Convert shares of white in [0, 1] to grey levels."""
    return np.rint(share * 255).clip(0, 255).astype(np.uint8)


def _range_of_bits(header: Any, bits: int) -> tuple[float, float]:
    """Return the smallest and largest value that the stored bits can hold."""
    half = 2 ** (bits - 1) if header.get("PixelRepresentation") == 1 else 0
    return float(-half), float(2**bits - 1 - half)


def _range(header: Any, stored: NDArray[Any], values: NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and largest value, excluding padding."""
    padding = _first(header, "PixelPaddingValue")
    seen = values if padding is None else values[stored != int(padding)]
    seen = seen if seen.size else values
    return float(seen.min()), float(seen.max())


_PREAMBLE = 132
"""Bytes before the header: 128 arbitrary ones, then DICM."""

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_MOST_WORDS = 200
_DEFLATED = "1.2.840.10008.1.2.1.99"
_SIZE = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation")
_PIXELS = (
    *_SIZE,
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "PixelPaddingValue"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape"),
)
_PLUGINS = install_command("dicom")

# Warnings of pydicom quote tag values, which may contain patient data.
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def dicom_size(stream: BinaryIO, *, where: str, max_pixels: int) -> tuple[int, int]:
    """Return height and width in pixels from the header.

    Raises:
        MedvisionError: If the file is damaged, too large, or contains more than one picture.
    """
    with _told(where):
        return _checked_size(_read(stream, _SIZE, where), where, max_pixels)


def dicom_texts(stream: BinaryIO, tags: tuple[str, ...], *, where: str) -> list[str]:
    """Return the text of the named tags, blank if missing.

    Raises:
        MedvisionError: If pydicom is not installed, or the file is damaged.
    """
    with _told(where):
        header = _read(stream, tags, where)
        return [str(header.get(tag) or "").strip() for tag in tags]


def decode_dicom(data: bytes, *, where: str, max_pixels: int) -> DicomPixels:
    """Decode a file with a single picture.

    Raises:
        MedvisionError: If pydicom or a plugin is not installed, or the file is damaged, too large,
            has several frames, or has colours other than grey or RGB.
    """
    with _told(where):
        header = _read(io.BytesIO(data), _PIXELS, where, pixels=True)
        height, width = _checked_size(header, where, max_pixels)
        before = _read(io.BytesIO(data), _SIZE, where)  # header without pixels
        if (before.get("Rows"), before.get("Columns")) != (height, width):
            raise ValueError("it repeats its size after its pixels")
        kind = str(header.get("PhotometricInterpretation", ""))
        if kind not in _GREY and kind not in _COLOURS:
            raise MedvisionError(
                f"unsupported DICOM photometric interpretation {kind[:20] or 'unknown'!r}",
                where=where,
                hint="convert it to grey or RGB",
            )
        _drop_empty(header)
        bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 8)
        if int(header.get("HighBit", bits - 1)) != bits - 1:
            raise MedvisionError(
                f"DICOM with bit {int(header.HighBit)} as the highest of {bits} is not supported",
                where=where,
                hint="store the lowest bits",
            )
        values = _pixels(header, where)
        if values.shape[:2] != (height, width) or values.ndim not in (2, 3):
            raise ValueError(f"pixels of shape {values.shape}")
        lossy = header.file_meta.TransferSyntaxUID.is_compressed and _may_be_lossy(header)
        if kind not in _GREY:
            if values.dtype != np.uint8 or bits != 8 or values.shape[2:] != (3,):
                raise MedvisionError(
                    f"DICOM with {bits}-bit colours of type {values.dtype} is not supported",
                    where=where,
                    hint="store 8 bits per colour",
                )
            return DicomPixels(values=values, bits=8, lossy=lossy)
        if values.ndim != 2:
            raise ValueError(f"grey pixels of shape {values.shape}")
        shown = _as_grey(header, values, bits=bits, lossy=lossy)
        inverse = str(header.get("PresentationLUTShape") or "").upper() == "INVERSE"
        return replace(shown, inverted=kind == "MONOCHROME1" or inverse)


def _drop_empty(header: Any) -> None:
    """Remove tags without a value, which pydicom would use as a number or a table."""
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        items = header.get(name)
        usable = items and items[0].get("LUTDescriptor") and items[0].get("LUTData")
        if not usable:
            header.pop(name, None)
    slope, intercept = _first(header, "RescaleSlope"), _first(header, "RescaleIntercept")
    if slope == 0:
        raise ValueError("its rescale slope is 0")
    if slope in (None, 1) and intercept in (None, 0):
        for name in ("RescaleSlope", "RescaleIntercept"):
            header.pop(name, None)
    elif slope is None:
        header.RescaleSlope = 1
    elif intercept is None:
        header.RescaleIntercept = 0


def _pixels(header: Any, where: str) -> NDArray[Any]:
    from pydicom.pixels.utils import pixel_array

    _check_coded_size(header)
    try:
        return np.asarray(pixel_array(header))
    except RuntimeError as fault:
        if "missing dependencies" not in str(fault):
            raise
        name = header.file_meta.TransferSyntaxUID.name
        raise MedvisionError(
            f"a plugin for {name} is not installed", where=where, hint=f"run: {_PLUGINS}"
        ) from fault


def _check_coded_size(header: Any) -> None:
    """Check that a compressed frame has the size in the header, before it can fill the memory.

    Raises:
        ValueError: If the two differ.
    """
    if not header.file_meta.TransferSyntaxUID.is_encapsulated or "PixelData" not in header:
        return
    from pydicom.encaps import generate_frames

    size = _coded_size(next(generate_frames(bytes(header.PixelData), number_of_frames=1)))
    if size is not None and size != (int(header.Rows), int(header.Columns)):
        raise ValueError(f"its compressed picture has {size[1]} x {size[0]} pixels")


def _coded_size(code: bytes) -> tuple[int, int] | None:
    """Return the height and width in a JPEG, JPEG-LS or JPEG 2000 codestream, or None."""
    start = code.find(b"\xff\x4f\xff\x51")  # JPEG 2000, with or without boxes
    if 0 <= start < 4096 and not code.startswith(b"\xff\xd8"):
        wide, high, left, top = struct.unpack_from(">4I", code, start + 8)
        return high - top, wide - left
    place = 2
    while code.startswith(b"\xff\xd8") and place + 9 <= len(code) and code[place] == 0xFF:
        marker, length = code[place + 1], struct.unpack_from(">H", code, place + 2)[0]
        frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if frame or marker == 0xF7:
            high, wide = struct.unpack_from(">2H", code, place + 5)
            return high, wide
        place += 1 if marker == 0xFF else 2 + length
    return None


def _may_be_lossy(header: Any) -> bool:
    lossless = ("Lossless", "RLE", "JPIP")
    return not any(word in header.file_meta.TransferSyntaxUID.name for word in lossless)


def _checked_size(header: Any, where: str, max_pixels: int) -> tuple[int, int]:
    if "Rows" not in header or "Columns" not in header:
        raise ValueError("it contains no picture")
    height, width = int(header.Rows), int(header.Columns)
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        raise MedvisionError(
            f"expected a DICOM file with a single picture, got {frames} frames",
            where=where,
            hint="store each frame in its own file",
        )
    if height < 1 or width < 1:
        raise ValueError(f"{width} x {height} pixels")
    if height * width > max_pixels:
        raise MedvisionError(
            f"{width} x {height} pixels exceed the limit of {max_pixels // 1_000_000} million",
            where=where,
            hint="crop or shrink the picture",
        )
    return height, width


def _read(stream: BinaryIO, tags: tuple[str, ...], where: str, *, pixels: bool = False) -> Any:
    try:
        import pydicom
        from pydicom.filereader import read_dataset
    except ImportError as fault:
        raise MedvisionError(
            "pydicom, which reads DICOM files, is not installed",
            where=where,
            hint=f"run: {_PLUGINS}",
        ) from fault
    stream.seek(_PREAMBLE)
    about = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    if "TransferSyntaxUID" not in about:
        raise ValueError("its transfer syntax is missing")
    if str(about.TransferSyntaxUID) == _DEFLATED:  # would be decompressed without a size limit
        raise ValueError("deflated files are not supported; store it uncompressed")
    stream.seek(0)
    return pydicom.dcmread(stream, stop_before_pixels=not pixels, specific_tags=list(tags))


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """Convert any exception of pydicom or its plugins on damaged files to a one-line error.

    Values are converted to numbers only on access.
    """
    try:
        yield
    except MedvisionError:
        raise
    except BaseException as fault:
        if not isinstance(fault, Exception) and type(fault).__name__ != "PanicException":
            raise  # not a panic of a Rust plugin
        words = " ".join(str(fault).split()) or type(fault).__name__
        raise MedvisionError(
            f"damaged or unsupported DICOM file: {words[:_MOST_WORDS]}",
            where=where,
            hint="replace the file or remove it",
        ) from fault
