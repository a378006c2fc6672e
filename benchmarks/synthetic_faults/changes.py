"""Turn an image into a copy with the same content: resized, recompressed, brighter, cropped.

Each kind has strengths with a unit of their own; `STRENGTHS` lists what is measured.
"""

from __future__ import annotations

import io
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
    "gamma": (0.7, 1.4),  # exponent
    "noise": (5, 10),  # standard deviation, grey levels
    "cropped": (2, 5, 10),  # percent of height and of width cut off, at a random place
    "mirrored_left_right": (0,),
    "mirrored_up_down": (0,),
    "rotated": (90, 180, 270),  # degrees, anticlockwise
    "turned": (2, 5),  # degrees about the centre, either way, the corners black
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
    else:
        return values
    return np.rint(level.clip(0, 255)).astype(np.uint8)


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
