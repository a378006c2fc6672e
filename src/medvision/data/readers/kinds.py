"""Detect file formats by their first bytes."""

from __future__ import annotations

import re
from pathlib import Path

from medvision.files import open_regular

FORMAT_NAMES = "JPEG, PNG, BMP, TIFF, GIF, WebP, JPEG 2000, PNM or DICOM"

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})

IMAGE_SUFFIXES = DICOM_SUFFIXES | {
    *(".bmp", ".gif", ".j2c", ".j2k", ".jp2", ".jpc", ".jpeg", ".jpf", ".jpg", ".jpx"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
}
"""Extensions of images. Files without one are detected by their content."""

START_BYTES = 132
"""Number of bytes at the start of a file by which formats are detected."""

_STARTS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "BMP": rb"BM",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF....WEBPVP8[ LX]",
    "JPEG 2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "PNM": rb"P[1-6][\s#]",
    "DICOM": rb".{128}DICM",  # after 128 arbitrary bytes; first in `kind_of`
}
_PATTERNS = {name: re.compile(start, re.DOTALL) for name, start in reversed(_STARTS.items())}


def kind_of(start: bytes) -> str | None:
    """Return the name of the format of a file with these first bytes, or None."""
    return next((name for name, start_of in _PATTERNS.items() if start_of.match(start)), None)


def may_need_content(suffix: str) -> bool:
    """Return True if an extension does not tell the format: none, or the end of a DICOM UID."""
    return not suffix or suffix[1:].isdigit()


def kind_of_file(path: Path) -> str | None:
    """Return the name of the format of a file by its content; None if it cannot be read."""
    try:
        with open_regular(path) as stream:
            return kind_of(stream.read(START_BYTES))
    except OSError:
        return None
