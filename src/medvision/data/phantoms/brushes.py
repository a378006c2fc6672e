"""Drawing primitives of all phantoms: smooth noise, smooth outlines, soft fills.

Positions and lengths are in image widths with y pointing down. Smooth fields are computed on a
lattice of fixed size and resampled to the image; edges are drawn at the size of the image. An index
therefore shows the same scene at every size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

LATTICE_PX = 128  # sufficient for folds and domes, a quarter of the cost of 256 px
SHIFT_BITS = 4  # OpenCV draws in fixed point; 1/16 px keeps outlines alike at all sizes

_T = np.arange(6, dtype=np.float32)[:, None] / 6
_CATMULL_ROM = np.hstack([np.ones_like(_T), _T, _T**2, _T**3]) @ np.array(
    [[0, 1, 0, 0], [-0.5, 0, 0.5, 0], [1, -2.5, 2, -0.5], [-0.5, 1.5, -1.5, 0.5]], np.float32
)  # weights of four neighbouring points at six positions between the middle two, (6, 4)
_LABEL_STREAM = 3  # independent of the stream that draws the scene of the same index

Field = NDArray[np.float32]
Canvas = NDArray[np.uint8]
Rng = np.random.Generator


def phantom_label(index: int, num_classes: int, seed: int) -> int:
    """Return the class of a phantom; each block of ``num_classes`` indices is a seeded shuffle.

    Any ``2 * num_classes - 1`` consecutive indices contain every class, and the class counts of the
    first n indices differ by at most one.

    Args:
        index: Number of the scene, 0 or greater.
        num_classes: Number of classes K, 1 or greater.
        seed: Seed of the data set, 0 or greater.

    Returns:
        The class index in [0, K).

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_at_least(("index", index, 0), ("num_classes", num_classes, 1), ("seed", seed, 0))
    block, place = divmod(index, num_classes)
    rng = np.random.default_rng([seed, block, num_classes, _LABEL_STREAM])
    return int(rng.permutation(num_classes)[place])


def check_at_least(*arguments: tuple[str, int, int]) -> None:
    """Raise ValueError for the first (name, value, least) whose value is less than its least."""
    for name, value, least in arguments:
        if value < least:
            raise ValueError(f"expected {name} of {least} or greater, got {value}")


def check_label(label: int, num_classes: int) -> None:
    """Raise ValueError unless ``label`` lies in [0, ``num_classes``)."""
    if not 0 <= label < num_classes:
        raise ValueError(f"expected label in [0, {num_classes}), got {label}")


@dataclass(frozen=True)
class Pose:
    """Individual anatomy of a patient: maps points of the atlas to the image."""

    matrix: Field  # (2, 2): size, proportions, rotation and shear
    centre: Field  # position of the origin of the atlas in the image, (2,)
    phase: Field  # phase of a wave that varies outlines and sides, (2,)
    sway: float  # amplitude of that wave

    @classmethod
    def draw(cls, rng: Rng, *, centre: ArrayLike, turn_deg: float, sway: float) -> Pose:
        """Draw size and proportions within 10 %, and a rotation of up to ±``turn_deg`` degrees."""
        turn = np.deg2rad(rng.uniform(-turn_deg, turn_deg))
        cos, sin = np.cos(turn), np.sin(turn)
        shape = np.diag(rng.uniform(0.9, 1.08) * rng.uniform(0.95, 1.05, 2))
        shape[0, 1] = rng.uniform(-0.03, 0.03)
        matrix = np.array([[cos, -sin], [sin, cos]]) @ shape
        place = np.asarray(centre) + rng.uniform(-0.03, 0.03, 2)
        phase = rng.uniform(0, 2 * np.pi, 2)
        return cls(
            matrix.astype(np.float32), place.astype(np.float32), phase.astype(np.float32), sway
        )

    def __call__(self, points: ArrayLike) -> Field:
        """Map points (..., 2) to the image."""
        atlas = np.asarray(points, np.float32)
        wave = self.sway * np.sin(7 * atlas[..., ::-1] + self.phase)
        return ((atlas + wave) @ self.matrix.T + self.centre).astype(np.float32)


def spline(points: ArrayLike, *, closed: bool = False) -> Field:
    """Interpolate points (..., P, 2) by Catmull-Rom curves, six steps per segment.

    A repeated point gives a corner.
    """
    knots = np.asarray(points, np.float32)
    first, last = (
        (knots[..., -1:, :], knots[..., :2, :])
        if closed
        else (knots[..., :1, :], knots[..., -1:, :])
    )
    padded = np.concatenate([first, knots, last], axis=-2)
    spans = padded.shape[-2] - 3
    quads = np.stack([padded[..., k : spans + k, :] for k in range(4)], axis=-2)
    curve = (_CATMULL_ROM @ quads).reshape(*knots.shape[:-2], -1, 2)
    return curve if closed else np.concatenate([curve, last], axis=-2)


def ribbon(path: Field, width: ArrayLike) -> Field:
    """Return outlines of bands along paths (..., P, 2); ``width`` is a number or one per point."""
    step = np.empty_like(path)
    step[..., 1:-1, :] = path[..., 2:, :] - path[..., :-2, :]
    step[..., 0, :] = path[..., 1, :] - path[..., 0, :]
    step[..., -1, :] = path[..., -1, :] - path[..., -2, :]
    half = np.asarray(width, np.float32) / (2 * np.hypot(step[..., 0], step[..., 1]) + 1e-9)
    aside = half[..., None] * step[..., ::-1] * np.array([-1, 1], np.float32)
    return np.concatenate([path + aside, (path - aside)[..., ::-1, :]], axis=-2)


def blob(rng: Rng, centre: NDArray[np.floating], radius: float, *, wobble: float) -> Field:
    """Draw the outline of a smooth irregular ellipse, (48, 2)."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = np.arange(2, 6)[:, None]
    swing = rng.normal(0, wobble, (4, 1)) / (waves - 0.5)
    reach = radius + radius * (swing * np.sin(waves * angle + rng.uniform(0, 6.28, (4, 1)))).sum(0)
    squeeze, (cos, sin) = rng.uniform(0.8, 1.0), polar(rng.uniform(0, np.pi))
    ring = reach[:, None] * polar(angle) * [1 / squeeze, squeeze]
    return (ring @ np.array([[cos, sin], [-sin, cos]]) + centre).astype(np.float32)


def polar(angle: float | NDArray[np.floating]) -> Field:
    """Return unit vectors at angles in radians, (..., 2)."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)


def noise_field(rng: Rng, cells: int, size_px: int = LATTICE_PX) -> Field:
    """Draw smooth noise in [-0.5, 0.5] with ``cells`` cells across, (size_px, size_px)."""
    values = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
    return stretch(unit(values) - np.float32(0.5), size_px)


def stretch(field: Field, size_px: int, out: Field | None = None) -> Field:
    """Resample a square field without ringing or aliasing."""
    method = cv2.INTER_AREA if size_px < len(field) else cv2.INTER_LINEAR
    fitted = cv2.resize(field, (size_px, size_px), dst=out, interpolation=method)
    return fitted.astype(np.float32, copy=False)


def blur(field: Field, width: float) -> Field:
    """Average a field over a square ``width`` image widths wide."""
    reach = 2 * round(width * len(field) / 2) + 1
    return cv2.blur(field, (reach, reach)).astype(np.float32, copy=False)


def soft(outlines: Iterable[NDArray[np.floating]], width: float) -> Field:
    """Fill the union of polygons with edges ``width`` image widths wide; a lattice field."""
    return blur(blur(unit(fill(outlines, LATTICE_PX)), width / 2), width / 2)


def unit(canvas: Canvas, full: float = 1.0) -> Field:
    """Convert bytes to floats in [0, full]."""
    return canvas * np.float32(full / 255)


def fill(outlines: Iterable[NDArray[np.floating]], size_px: int) -> Canvas:
    """Fill the union of polygons, 255 inside and 0 outside, with smooth edges."""
    finer = max(2, 256 // size_px)  # OpenCV fills half a pixel too far: use smaller pixels
    canvas: Canvas = np.zeros((finer * size_px, finer * size_px), np.uint8)
    for outline in outlines:
        cv2.fillPoly(canvas, [fixed(outline, len(canvas))], 255, cv2.LINE_8, SHIFT_BITS)
    return cv2.resize(canvas, (size_px, size_px), interpolation=cv2.INTER_AREA).astype(np.uint8)


def fixed(points: NDArray[np.floating], size_px: int) -> NDArray[np.int32]:
    """Convert points in image widths to OpenCV's fixed-point pixels with integer centres."""
    return np.rint((points * size_px - 0.5) * 2**SHIFT_BITS).astype(np.int32)
