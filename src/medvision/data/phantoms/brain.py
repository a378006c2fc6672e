"""Synthetic head slices resembling contrast-enhanced T1-weighted MRI, in four classes.

A slice is axial, coronal or sagittal, whatever the class. A glioma is an irregular mass inside the
brain with a ragged bright rim, a dark core and a dark swelling around it; a meningioma is round,
evenly bright and lies on the lining of the brain; a pituitary tumour is small, bright and round,
and lies in the midline at the base. Bright vessels, glands and fat, a bias field and scanner
contrast occur in every class.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.data.phantoms.brushes import (
    LATTICE_PX,
    Field,
    Pose,
    Rng,
    blob,
    blur,
    check_at_least,
    check_label,
    fill,
    noise_field,
    ribbon,
    soft,
    spline,
    stretch,
    unit,
)

BRAIN_CLASSES = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
"""Class names in the order of their indices."""

PHANTOM_BRAIN_VERSION = 1
"""Part of every seed; incremented when a pixel changes."""

_GLIOMA, _MENINGIOMA, _NO_TUMOR, _PITUITARY = range(4)
# Separate random streams: another tumour leaves the patient unchanged.
_SCENE_STREAM, _SIGN_STREAM = 1, 2


def _mirrored(half: ArrayLike) -> NDArray[np.floating]:
    """Close the right half of an outline (P, 2), from top to bottom, with its mirror image."""
    right = np.asarray(half)
    return np.concatenate([right, right[::-1] * (-1, 1)])


def _pair(points: ArrayLike) -> list[NDArray[np.floating]]:
    """Return points (P, 2) on the right and their mirror image on the left."""
    return [np.asarray(points) * (side, 1) for side in (1, -1)]


@dataclass(frozen=True)
class _Slice:
    """Atlas of one plane: corner points in image widths, y down, origin in the centre."""

    head: NDArray[np.floating]  # outline of the skin
    brain: NDArray[np.floating]  # outline of the brain
    water: list[NDArray[np.floating]]  # outlines of ventricles and cisterns
    grooves: list[NDArray[np.floating]]  # paths of deep furrows
    falx: list[NDArray[np.floating]]  # paths of the lining between the halves of the brain
    hollow: list[NDArray[np.floating]]  # outlines filled with air
    solid: list[NDArray[np.floating]]  # outlines of brain stem and cerebellum
    sella: tuple[float, float]  # position of the pituitary gland
    base: float  # y below which no tumour is placed on the lining


# Points in rows: one per line would fill two screens.
# fmt: off
_AXIAL = _Slice(
    head=_mirrored([(0.02, -0.46), (0.16, -0.43), (0.29, -0.3), (0.36, -0.06), (0.37, 0.12),
                    (0.3, 0.34), (0.16, 0.44), (0.03, 0.46)]),
    brain=_mirrored([(0.015, -0.385), (0.13, -0.36), (0.24, -0.24), (0.3, -0.06), (0.31, 0.12),
                     (0.25, 0.29), (0.13, 0.38), (0.015, 0.39)]),
    water=[*_pair([(0.015, -0.15), (0.05, -0.23), (0.065, -0.2), (0.03, -0.1)]),
           *_pair([(0.06, 0.1), (0.12, 0.14), (0.15, 0.22), (0.12, 0.2)]),
           _mirrored([(0.02, -0.1), (0.06, -0.06), (0.035, -0.02), (0.01, 0.0)]),
           _mirrored([(0.01, 0.11), (0.025, 0.125), (0.01, 0.15)])],
    grooves=[*_pair([(0.1, -0.06), (0.2, -0.1), (0.29, -0.13)]),
             *_pair([(0.02, 0.1), (0.08, 0.06), (0.08, 0.0)])],
    falx=[np.array([(0, -0.38), (0, -0.17)]), np.array([(0, 0.2), (0, 0.385)])],
    hollow=[],
    solid=[_mirrored([(0.02, 0.01), (0.06, 0.03), (0.05, 0.085), (0.01, 0.1)])],
    sella=(0, -0.06),
    base=0.4,
)
_CORONAL = _Slice(
    head=_mirrored([(0.02, -0.45), (0.19, -0.41), (0.32, -0.25), (0.36, -0.03), (0.33, 0.15),
                    (0.33, 0.3), (0.29, 0.42), (0.27, 0.65)]),
    brain=_mirrored([(0.015, -0.375), (0.16, -0.345), (0.27, -0.21), (0.3, -0.02), (0.26, 0.12),
                     (0.17, 0.16), (0.1, 0.12), (0.05, 0.1), (0.01, 0.1)]),
    water=[*_pair([(0.008, -0.08), (0.03, -0.12), (0.1, -0.16), (0.08, -0.11), (0.03, -0.05)]),
           _mirrored([(0.008, -0.05), (0.012, 0.0), (0.006, 0.03)]),
           _mirrored([(0.01, 0.05), (0.06, 0.075), (0.05, 0.1), (0.01, 0.1)])],
    grooves=_pair([(0.14, 0.01), (0.2, 0.01), (0.29, -0.04)]),
    falx=[np.array([(0, -0.37), (0, -0.17)])],
    hollow=[_mirrored([(0.01, 0.165), (0.05, 0.175), (0.055, 0.215), (0.01, 0.23)]),
            *_pair([(0.22, 0.22), (0.3, 0.2), (0.31, 0.24), (0.25, 0.26)])],
    solid=[],
    sella=(0, 0.125),
    base=0.02,
)
_SAGITTAL = _Slice(
    head=np.array([(-0.02, -0.45), (0.18, -0.42), (0.34, -0.26), (0.38, -0.02), (0.32, 0.19),
                   (0.26, 0.32), (0.27, 0.65), (-0.1, 0.65), (-0.17, 0.42), (-0.33, 0.41),
                   (-0.36, 0.3), (-0.42, 0.2), (-0.35, 0.06), (-0.37, -0.06), (-0.34, -0.23),
                   (-0.2, -0.39)]),
    brain=np.array([(-0.02, -0.38), (0.16, -0.345), (0.285, -0.21), (0.31, -0.01), (0.27, 0.15),
                    (0.16, 0.22), (0.07, 0.2), (0.0, 0.11), (-0.08, 0.08), (-0.15, 0.06),
                    (-0.24, 0.03), (-0.295, -0.07), (-0.265, -0.22), (-0.16, -0.34)]),
    water=[np.array([(-0.15, -0.04), (-0.14, -0.09), (-0.02, -0.15), (0.12, -0.12), (0.17, -0.05),
                     (0.1, -0.08), (-0.02, -0.1)]),
           np.array([(0.055, 0.09), (0.085, 0.12), (0.065, 0.15)]),
           np.array([(-0.1, 0.05), (-0.02, 0.06), (-0.01, 0.1), (-0.1, 0.09)])],
    grooves=[np.array([(0.08, 0.02), (0.17, 0.03), (0.28, 0.1)])],
    falx=[],
    hollow=[np.array([(-0.17, 0.14), (-0.1, 0.15), (-0.1, 0.2), (-0.17, 0.2)]),
            np.array([(-0.3, 0.22), (-0.2, 0.2), (-0.08, 0.24), (-0.02, 0.36), (-0.07, 0.38)])],
    solid=[np.array([(-0.01, 0.03), (0.06, 0.02), (0.055, 0.2), (0.1, 0.65), (0.03, 0.65),
                     (0.0, 0.2)])],
    sella=(-0.09, 0.115),
    base=0.02,
)
# fmt: on
_SLICES = (_AXIAL, _CORONAL, _SAGITTAL)


def draw_brain(index: int, label: int, *, size_px: int, seed: int) -> NDArray[np.uint8]:
    """Draw a slice of a class, index into ``BRAIN_CLASSES``; arguments as for `draw_chest`.

    Another label shows the same slice of the same patient with another tumour or none, and changes
    only the tumour region.
    """
    check_at_least(("index", index, 0), ("size_px", size_px, 16), ("seed", seed, 0))
    check_label(label, len(BRAIN_CLASSES))
    rng = np.random.default_rng([PHANTOM_BRAIN_VERSION, seed, index, _SCENE_STREAM])
    plane = _SLICES[rng.integers(len(_SLICES))]
    pose = Pose.draw(rng, centre=(0.5, 0.5), turn_deg=8, sway=0.01)
    image = _head(rng, plane, pose, size_px)
    _brain(rng, plane, pose, image)
    _vessels(rng, plane, pose, image)
    sign_rng = np.random.default_rng([PHANTOM_BRAIN_VERSION, seed, index, _SIGN_STREAM])
    if label == _GLIOMA:
        _glioma(sign_rng, plane, pose, image)
    elif label == _MENINGIOMA:
        _meningioma(sign_rng, plane, pose, image)
    elif label == _PITUITARY:
        _pituitary(sign_rng, plane, pose, image)
    np.power(image, np.float32(rng.uniform(0.75, 1.3)), out=image)
    image *= stretch(rng.uniform(0.65, 1.15) + rng.uniform(0.2, 0.6) * noise_field(rng, 3), size_px)
    blur_px, grain = rng.uniform(0.5, 1.0) * size_px / 256, rng.uniform(0.02, 0.08)
    # the only draw that depends on the size comes last, so every size shows the same patient
    image += unit(rng.integers(0, 256, (size_px, size_px), dtype=np.uint8), grain)
    shown = cv2.GaussianBlur(image, (0, 0), max(0.2, blur_px))
    return np.clip(255 * shown, 0, 255).astype(np.uint8)


def _paint(image: Field, shape: Field, value: float | Field) -> None:
    """Blend a value into the image, weighted by the shape (H, W) in [0, 1]."""
    image += shape * (value - image)


def _shape(outlines: list[Field], image: Field) -> Field:
    """Fill polygons at the size of the image, in [0, 1]."""
    return unit(fill(outlines, len(image)))


def _grown(outline: Field, by: float) -> Field:
    """Move every point of a closed outline (P, 2), given clockwise, outwards."""
    step = np.roll(outline, -1, axis=0) - np.roll(outline, 1, axis=0)
    out = step[:, ::-1] * np.array([1, -1])
    return (outline + by * out / (np.hypot(*step.T)[:, None] + 1e-9)).astype(np.float32)


def _head(rng: Rng, plane: _Slice, pose: Pose, size_px: int) -> Field:
    """Draw fat under the skin, patchy soft tissue and a skull without signal, surrounded by air."""
    image = np.full((size_px, size_px), 0.01, np.float32)
    skin, brain = spline(plane.head, closed=True), spline(plane.brain, closed=True)
    _paint(image, _shape([pose(skin)], image), rng.uniform(0.5, 0.9))
    flesh = 0.3 + 0.4 * blur(noise_field(rng, 10), 0.05) + 0.35 * blur(noise_field(rng, 30), 0.015)
    inner = pose(_grown(skin, -rng.uniform(0.02, 0.035)))
    _paint(image, _shape([inner], image), np.clip(stretch(flesh, size_px), 0.05, 1))
    _paint(image, _shape([pose(_grown(brain, rng.uniform(0.025, 0.04)))], image), 0.06)
    _paint(image, _shape([pose(spline(part, closed=True)) for part in plane.hollow], image), 0.03)
    return image


def _brain(rng: Rng, plane: _Slice, pose: Pose, image: Field) -> None:
    """Draw grey and white matter, furrows, ventricles and the lining between the halves."""
    outline = pose(spline(plane.brain, closed=True))
    white, grey, water = rng.uniform(0.36, 0.46), rng.uniform(0.28, 0.35), rng.uniform(0.08, 0.16)
    deep = np.clip(2.2 * blur(unit(fill([outline], LATTICE_PX)), 0.12) - 1.3, 0, 1)
    ways = np.minimum(*(np.abs(blur(noise_field(rng, cells), 0.02)) for cells in (16, 24)))
    furrow = np.clip(1.2 - 12 * ways, 0, 1) * (1 - deep)
    matter = grey + (white - grey) * np.clip(deep + 3 * ways - 0.2, 0, 1)
    matter += rng.uniform(0.7, 1.0) * (water - matter) * furrow
    matter *= 1 + 0.15 * noise_field(rng, 6)
    _paint(image, _shape([outline], image), stretch(matter, len(image)))
    stem = [pose(spline(part, closed=True)) for part in plane.solid]
    _paint(image, _shape(stem, image), white)
    grooves = [ribbon(pose(spline(path)), rng.uniform(0.008, 0.016)) for path in plane.grooves]
    pools = []
    for part in plane.water:  # individual sizes: they differ between sides and with age
        middle = part.mean(axis=0)
        pools.append(pose(spline(middle + rng.uniform(0.6, 1.4) * (part - middle), closed=True)))
    _paint(image, _shape([*grooves, *pools], image), water)
    falx = [ribbon(pose(spline(path)), 0.007) for path in plane.falx]
    _paint(image, _shape(falx, image) * rng.uniform(0.3, 0.9), 0.55)


def _vessels(rng: Rng, plane: _Slice, pose: Pose, image: Field) -> None:
    """Draw structures that enhance in every patient: arteries, sinuses, plexus and gland."""
    bright = [pose(blob(rng, np.array(plane.sella), rng.uniform(0.008, 0.016), wobble=0.1))]
    rim = spline(plane.brain, closed=True)
    for place in rim[rng.integers(0, len(rim), 3)]:  # veins on the surface
        bright.append(pose(blob(rng, place, rng.uniform(0.004, 0.014), wobble=0.1)))
    for _ in range(rng.integers(3, 9)):
        place = rim[rng.integers(len(rim))] * rng.uniform(0.1, 0.95)
        if rng.random() < 0.5:
            way = place + rng.normal(0, 0.02, (5, 2)).cumsum(axis=0)
            bright.append(ribbon(pose(spline(way)), 0.005))
        else:
            bright.append(pose(blob(rng, place, rng.uniform(0.004, 0.01), wobble=0.1)))
    _paint(image, _shape(bright, image) * rng.uniform(0.5, 1.0), 0.8)


def _glioma(rng: Rng, plane: _Slice, pose: Pose, image: Field) -> None:
    """Draw dark swelling, ragged bright rim, dark core; in the brain, off the midline base."""
    radius = rng.uniform(0.06, 0.11)
    outline = spline(plane.brain, closed=True)
    places = outline[rng.integers(0, len(outline), 12)] * rng.uniform(0.2, 0.75, (12, 1))
    room = [cv2.pointPolygonTest(outline, place.tolist(), True) for place in places]
    away = np.hypot(*(places - plane.sella).T) - 0.1
    centre = places[np.minimum(np.minimum(room, away), 1.1 * radius).argmax()]
    mass = blob(rng, centre, radius, wobble=0.22)
    ring = unit(fill([pose(mass)], len(image)))
    inside = np.clip(soft([pose(outline)], 0.01), 0, 1)
    swelling = soft([pose(blob(rng, centre, 1.7 * radius, wobble=0.15))], 0.08) * inside
    _paint(image, stretch(swelling, len(image)) * rng.uniform(0.3, 0.6), 0.2)
    glow = rng.uniform(0.6, 0.95) * np.clip(0.85 + 1.2 * noise_field(rng, 12), 0.4, 1.1)
    _paint(image, ring, stretch(glow.astype(np.float32), len(image)))
    core = pose(centre + (mass - centre) * rng.uniform(0.5, 0.8) + rng.normal(0, 0.006, 2))
    _paint(image, _shape([core], image) * 0.9, rng.uniform(0.1, 0.22))


def _meningioma(rng: Rng, plane: _Slice, pose: Pose, image: Field) -> None:
    """Draw a round, evenly bright tumour, flat against the lining."""
    radius = rng.uniform(0.055, 0.1)
    outline = spline(plane.brain, closed=True)
    wall = outline[outline[:, 1] < plane.base]
    inwards = -_grown(outline, 1)[outline[:, 1] < plane.base] + wall
    spot = int(rng.integers(len(wall)))
    centre = wall[spot] + rng.uniform(0.55, 0.85) * radius * inwards[spot]
    if plane.falx and rng.random() < 0.25:
        start, end = plane.falx[0]
        side = rng.choice([-1, 1]) * rng.uniform(0.6, 0.9) * radius
        centre = start + (end - start) * rng.uniform(0.3, 0.8) + (side, 0)
    mass = _shape([pose(blob(rng, centre, radius, wobble=0.05))], image)
    mass *= _shape([pose(_grown(outline, 0.012))], image)
    _paint(image, mass, rng.uniform(0.62, 0.9))


def _pituitary(rng: Rng, plane: _Slice, pose: Pose, image: Field) -> None:
    """Draw a small, bright, round tumour in the midline at the base of the brain."""
    radius = rng.uniform(0.03, 0.055)
    centre = np.array(plane.sella) + rng.normal((0, -0.4 * radius), 0.006)
    _paint(
        image, _shape([pose(blob(rng, centre, radius, wobble=0.06))], image), rng.uniform(0.6, 0.9)
    )
