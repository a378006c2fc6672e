"""Turn an image into a copy with the same content: resized, brighter, cropped, written on.

Each kind has strengths with a unit of their own; `STRENGTHS` lists what is measured.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medvision.data.readers.decode import decode, samples

STRENGTHS: dict[str, tuple[float, ...]] = {
    "same_bytes": (0,),
    "same_pixels": (0,),  # another lossless format, or other metadata
    "resized": (0.5, 0.75, 1.5, 2),  # factor on height and width
    "recompressed": (30, 50, 70, 90),  # JPEG quality
    "brightness": (-30, -20, -10, 10, 20, 30),  # percent of each value, clipped
    "offset": (-30, -20, -10, 10, 20, 30),  # percent of the full range added, clipped
    "contrast": (0.7, 1.3),  # factor on the distance from the mean, clipped
    "gamma": (0.5, 0.7, 1.4, 2),  # exponent
    "noise": (5, 10),  # standard deviation, grey levels
    "cropped": (2, 5, 10),  # percent of height and of width cut off, at a random place
    "cropped_each_side": (7.5, 15),  # percent of height and of width cut off at each side
    "half": (0,),  # left, right, upper or lower
    "mirrored_left_right": (0,),
    "mirrored_up_down": (0,),
    "rotated": (90, 180, 270),  # degrees, anticlockwise
    "turned": (2, 3, 5, 8, 10),  # degrees about the centre, either way, the corners black
    "bordered": (3, 10),  # percent of height and of width added at each side, black or white
    "border_on_one_side": (10, 20),  # percent of height or of width, black or white
    "screenshot": (10, 20),  # percent of margin at each side, with a title and buttons in it
    "stretched": (1.2,),  # factor on the width
    "burned_in_text": (2, 4),  # lines in one corner, with a grey ground or without
    "marker_and_arrow": (0,),  # a letter in a corner, an arrow and a circle somewhere
    "inverted": (0,),
    "equalised": (0,),  # histogram equalisation of the luminance
    "clahe": (2, 4),  # limit of the contrast, in 8 x 8 tiles of the luminance
    "blurred": (0.5, 1),  # standard deviation, in percent of the shorter side
    "coloured": (0,),  # another colour map for grey images, a tint for colour images
}
"""Kinds of change and the strengths of each; 0 where a kind has but one."""

SAVED_QUALITY = 92
"""JPEG quality at which a changed copy of a JPEG file is saved."""

_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
_COMMENT = b"\xff\xfe"  # marker of a JPEG segment that no decoder shows


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One change with all that chance decides about it but noise.

    Attributes:
        kind: A key of `STRENGTHS`.
        strength: In the unit of the kind.
        place: Where a crop lies, two numbers in [0, 1).
        seed: Of noise, of the side a picture is turned to and of the format it is saved in.
    """

    kind: str
    strength: float
    place: tuple[float, float] = (0.5, 0.5)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in STRENGTHS:
            raise ValueError(f"expected a kind of {', '.join(STRENGTHS)}, got {self.kind}")

    @classmethod
    def draw(cls, kind: str, strength: float, rng: np.random.Generator) -> Change:
        """Let chance decide place and seed."""
        x, y = rng.random(2).tolist()
        return cls(kind=kind, strength=strength, place=(x, y), seed=int(rng.integers(2**31)))


def changed_file(data: bytes, change: Change) -> tuple[bytes, str]:
    """Return the bytes of the changed copy of an image file, and the suffix of its format.

    A copy is saved in the format of its source, JPEG at `SAVED_QUALITY`, unless the change is
    about the file.

    Args:
        data: A JPEG or PNG file of 8 bits.
        change: What to do.

    Raises:
        ValueError: If the file is of another kind.
        MedvisionError: If it cannot be decoded.
    """
    picture = decode(data, where="the image to be copied")
    suffix = {"JPEG": ".jpg", "PNG": ".png"}.get(picture.file_format)
    if suffix is None or picture.bits > 8:
        raise ValueError(f"expected JPEG or PNG of 8 bits, got {picture.file_format}")
    if change.kind == "same_bytes":
        return data, suffix
    values = samples(picture)
    if change.kind == "same_pixels":
        return _same_pixels(data, values, suffix, change.seed)
    if change.kind == "recompressed":
        return encode(values, ".jpg", quality=int(change.strength)), ".jpg"
    shown = changed_shape(values, change)
    return encode(changed_values(shown, change), suffix, quality=SAVED_QUALITY), suffix


def changed_values(values: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    """Return the pixels (H, W) or (H, W, 3) with other grey levels, if the kind changes them."""
    level: NDArray[np.floating] = values.astype(np.float32)
    strength = change.strength
    if change.kind == "brightness":
        level = level * (1 + strength / 100)
    elif change.kind == "offset":
        level = level + 255 * strength / 100
    elif change.kind == "contrast":
        level = (level - level.mean()) * strength + level.mean()
    elif change.kind == "gamma":
        level = 255 * (level / 255) ** strength
    elif change.kind == "noise":
        noise = np.random.default_rng(change.seed).normal(0, strength, values.shape)
        level = level + noise.astype(np.float32)
    elif change.kind in _TONES:
        return _TONES[change.kind](values, change)
    else:
        return values
    return np.rint(level.clip(0, 255)).astype(np.uint8)


def _inverted(values: NDArray[np.uint8], _: Change) -> NDArray[np.uint8]:
    return 255 - values


def _of_luminance(
    values: NDArray[np.uint8], change: Callable[[NDArray[np.uint8]], Any]
) -> NDArray[np.uint8]:
    """Return the pixels with a changed luminance and the same colours."""
    if values.ndim == 2:
        return np.asarray(change(np.ascontiguousarray(values)), np.uint8)
    parts = cv2.cvtColor(values, cv2.COLOR_RGB2YCrCb)
    parts[..., 0] = change(np.ascontiguousarray(parts[..., 0]))
    return np.asarray(cv2.cvtColor(parts, cv2.COLOR_YCrCb2RGB), np.uint8)


def _equalised(values: NDArray[np.uint8], _: Change) -> NDArray[np.uint8]:
    return _of_luminance(values, cv2.equalizeHist)


def _clahe(values: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    return _of_luminance(values, cv2.createCLAHE(change.strength, (8, 8)).apply)


def _blurred(values: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    sigma = max(0.3, min(values.shape[:2]) * change.strength / 100)
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.uint8)


def _coloured(values: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    if values.ndim == 3:
        tint = np.random.default_rng(change.seed).uniform(0.75, 1, 3)
        return np.rint(values * tint).astype(np.uint8)
    maps = (cv2.COLORMAP_BONE, cv2.COLORMAP_HOT, cv2.COLORMAP_VIRIDIS, cv2.COLORMAP_OCEAN)
    shown = cv2.applyColorMap(values, maps[change.seed % len(maps)])
    return np.asarray(cv2.cvtColor(shown, cv2.COLOR_BGR2RGB), np.uint8)


def _text(values: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    """Write a name, a number, a date and a device into a corner."""
    shown, rng = np.ascontiguousarray(values.copy()), np.random.default_rng(change.seed)
    height, width = shown.shape[:2]
    size, gap = max(0.25, min(height, width) / 420), max(7, round(min(height, width) / 18))
    words = [f"ID {rng.integers(10**6):06d}", "DOE JANE F", f"{rng.integers(1, 29):02d}.03.2019",
             "12 MHz G 54 DR 60"]  # fmt: skip
    lines = words[: int(change.strength)]
    top = 0 if change.place[1] < 0.5 else height - gap * (len(lines) + 1)
    left = 2 if change.place[0] < 0.5 else max(2, width - 6 * gap)
    if change.seed % 2:
        cv2.rectangle(shown, (left - 2, top), (left + 6 * gap, top + gap * (len(lines) + 1)),
                      (40, 40, 40), -1)  # fmt: skip
    for number, line in enumerate(lines):
        spot = (left, top + gap * (number + 1))
        cv2.putText(shown, line, spot, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1)
    return shown


def _marker(values: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    """Put a letter into a corner, and an arrow and a circle somewhere inside."""
    shown, rng = np.ascontiguousarray(values.copy()), np.random.default_rng(change.seed)
    height, width = shown.shape[:2]
    side, thick = min(height, width), max(1, min(height, width) // 120)
    white = (255, 255, 255)
    spot = (round(0.05 * width) if change.seed % 2 else round(0.85 * width), round(0.15 * height))
    cv2.putText(shown, "LR"[change.seed % 2], spot, cv2.FONT_HERSHEY_SIMPLEX, side / 160, white,
                2 * thick)  # fmt: skip
    ends = (rng.uniform(0.25, 0.75, (2, 2)) * (width, height)).astype(int)
    tip = ends[0] + np.array([0.15, -0.12]) * side * (1 if change.seed % 4 < 2 else -1)
    cv2.arrowedLine(shown, ends[0].tolist(), tip.astype(int).tolist(), white, thick)
    cv2.circle(shown, ends[1].tolist(), round(0.08 * side), white, thick)
    return shown


_TONES: dict[str, Callable[[NDArray[np.uint8], Change], NDArray[np.uint8]]] = {
    "inverted": _inverted,
    "equalised": _equalised,
    "clahe": _clahe,
    "blurred": _blurred,
    "coloured": _coloured,
    "burned_in_text": _text,
    "marker_and_arrow": _marker,
}


def changed_shape(
    values: NDArray[np.uint8], change: Change, *, is_mask: bool = False
) -> NDArray[np.uint8]:
    """Return the pixels (H, W) or (H, W, 3) moved, if the kind changes places.

    Args:
        values: An image or a mask.
        change: What to do; the same for an image and its mask.
        is_mask: Take the nearest value instead of mixing neighbours.
    """
    height, width = values.shape[:2]
    if change.kind == "resized":
        size = [max(1, round(change.strength * side)) for side in (width, height)]
        mixing = cv2.INTER_AREA if change.strength < 1 else cv2.INTER_CUBIC
        method = cv2.INTER_NEAREST_EXACT if is_mask else mixing
        return np.asarray(cv2.resize(values, size, interpolation=method), np.uint8)
    if change.kind == "cropped":
        cut = [round(side * change.strength / 100) for side in (height, width)]
        top, left = (int(u * (c + 1)) for u, c in zip(change.place, cut, strict=True))
        kept = values[top : top + height - cut[0], left : left + width - cut[1]]
        return np.ascontiguousarray(kept)
    if change.kind == "cropped_each_side":
        top, left = (round(side * change.strength / 100) for side in (height, width))
        return np.ascontiguousarray(values[top : height - top, left : width - left])
    if change.kind == "half":
        halves = (
            values[:, : width // 2],
            values[:, width // 2 :],
            values[: height // 2],
            values[height // 2 :],
        )
        return np.ascontiguousarray(halves[change.seed % 4])
    if change.kind in ("bordered", "border_on_one_side", "screenshot"):
        return _surrounded(values, change, is_mask=is_mask)
    if change.kind == "stretched":
        size = [round(change.strength * width), height]
        method = cv2.INTER_NEAREST_EXACT if is_mask else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(values, size, interpolation=method), np.uint8)
    if change.kind == "mirrored_left_right":
        return np.ascontiguousarray(values[:, ::-1])
    if change.kind == "mirrored_up_down":
        return np.ascontiguousarray(values[::-1])
    if change.kind == "rotated":
        return np.asarray(cv2.rotate(values, _TURNS[int(change.strength)]), np.uint8)
    if change.kind == "turned":
        angle = change.strength * (1 if change.seed % 2 else -1)
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
        method = cv2.INTER_NEAREST if is_mask else cv2.INTER_LINEAR
        turned = cv2.warpAffine(values, matrix, (width, height), flags=method)
        return np.asarray(turned, np.uint8)
    return values


def _surrounded(values: NDArray[np.uint8], change: Change, *, is_mask: bool) -> NDArray[np.uint8]:
    """Return the pixels with a border, at all sides or at one, or as in a window of a screen."""
    height, width = values.shape[:2]
    down, across = (round(side * change.strength / 100) for side in (height, width))
    sides = [down, down, across, across]
    if change.kind == "border_on_one_side":
        sides = [size * (k == change.seed // 2 % 4) for k, size in enumerate(sides)]
    ground = 255 * (change.seed % 2) if change.kind != "screenshot" else (236, 30)[change.seed % 2]
    ground *= not is_mask
    framed = cv2.copyMakeBorder(values, *sides, cv2.BORDER_CONSTANT, value=(ground,) * 3)
    if change.kind == "screenshot" and not is_mask:
        ink, bar = (255 - ground,) * 3, (ground // 2 + 60,) * 3
        high, wide = framed.shape[:2]
        cv2.rectangle(framed, (0, 0), (wide, max(3, down // 3)), bar, -1)
        size = max(0.25, down / 60)
        cv2.putText(framed, "Viewer - series 3", (4, max(8, down - 4)), cv2.FONT_HERSHEY_SIMPLEX,
                    size, ink, 1)  # fmt: skip
        for number in range(4):
            left = round(0.08 * wide) + number * round(0.12 * wide)
            box = (left, high - round(0.7 * down), round(0.07 * wide), max(2, round(0.4 * down)))
            cv2.rectangle(framed, box, bar, -1)
            cv2.rectangle(framed, box, ink, 1)
    return np.asarray(framed, np.uint8)


def encode(values: NDArray[np.uint8], suffix: str, *, quality: int = SAVED_QUALITY) -> bytes:
    """Return the file of grey (H, W) or red, green, blue (H, W, 3) values.

    Args:
        values: The pixels.
        suffix: ``.png``, ``.jpg``, ``.bmp`` or ``.tif``.
        quality: Of JPEG.
    """
    stored = values if values.ndim == 2 else cv2.cvtColor(values, cv2.COLOR_RGB2BGR)
    settings = {
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
    }
    done, data = cv2.imencode(suffix, stored, settings.get(suffix, []))
    if not done:
        raise ValueError(f"expected pixels that {suffix} can hold, got {values.shape}")
    return bytes(data)


def _same_pixels(data: bytes, values: NDArray[Any], suffix: str, seed: int) -> tuple[bytes, str]:
    """Return other bytes that decode to the same pixels."""
    if seed % 2:
        other = ".png" if suffix == ".jpg" else (".bmp", ".tif")[seed // 2 % 2]
        return encode(values, other), other
    note = f"copy {seed}"
    if suffix == ".jpg":
        size = (len(note) + 2).to_bytes(2, "big")
        return data[:2] + _COMMENT + size + note.encode() + data[2:], suffix
    info, stream = PngInfo(), io.BytesIO()
    info.add_text("Comment", note)
    Image.fromarray(values).save(stream, "PNG", pnginfo=info)
    return stream.getvalue(), suffix
