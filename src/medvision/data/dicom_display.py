"""What the stored values of a DICOM file mean, and how a viewer shows them.

Values go through the modality transform (rescale slope and intercept, or its table), then through
the first VOI window or table, and MONOCHROME1 is turned around (DICOM PS3.3, C.11.1, C.11.2 and
C.7.6.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class DicomPixels:
    """The values of one picture.

    Attributes:
        values: Grey (H, W) after the modality transform, or red, green, blue (H, W, 3).
        bits: Bits of each sample in the file.
        lossy: Whether compression may have changed the values.
        window: Values that are shown black and white, or None: the smallest and the largest.
        display: Values of a VOI table or sigmoid in [0, 255], where a window does not say it.
        inverted: Whether small values are white.
    """

    values: NDArray[Any]
    bits: int
    lossy: bool
    window: tuple[float, float] | None
    display: NDArray[np.uint8] | None
    inverted: bool


def as_grey(
    header: Any, stored: NDArray[Any], *, bits: int, lossy: bool, inverted: bool
) -> DicomPixels:
    """Put stored values through the modality transform, and find how they are shown.

    Args:
        header: The data set.
        stored: (H, W) as they stand in the file.
        bits: As in `DicomPixels`.
        lossy: As in `DicomPixels`.
        inverted: As in `DicomPixels`.
    """
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    values = np.asarray(apply_modality_lut(stored, header))
    window, display = _window(header), None
    if "VOILUTSequence" in header:
        shown = np.asarray(apply_voi_lut(values, header), np.float64)
        largest = 2 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1
        display, window = _as_levels(shown / largest), None
    elif window is not None and _function(header) == "SIGMOID":  # C.11.2.1.3.1
        low, high = window
        away = (values - (low + high) / 2) / (high - low)
        display, window = _as_levels(1 / (1 + np.exp(np.clip(-4 * away, -50, 50)))), None
    if values.dtype.kind == "f" and (values == np.rint(values)).all():  # slope 1, as of most files
        values = values.astype(np.int32)
    if window is None and display is None and (bits > 8 or values is not stored):
        window = _range(header, stored, values)
    return DicomPixels(
        values=values, bits=bits, lossy=lossy, window=window, display=display, inverted=inverted
    )


def _window(header: Any) -> tuple[float, float] | None:
    """The first window, as the values that become black and white (C.11.2.1.2 and C.11.2.1.3)."""
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
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__getitem__") and len(value) else value)


def _function(header: Any) -> str:
    return str(header.get("VOILUTFunction") or "LINEAR").upper()


def _as_levels(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Shares of white in [0, 1] as grey levels."""
    return np.rint(share * 255).clip(0, 255).astype(np.uint8)


def _range(header: Any, stored: NDArray[Any], values: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest value of what is no padding."""
    padding = header.get("PixelPaddingValue")
    seen = values if padding is None else values[stored != int(padding)]
    seen = seen if seen.size else values
    return float(seen.min()), float(seen.max())
