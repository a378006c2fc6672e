"""Synthetic colonoscopy-like scenes with polyps, for demos and tests.

This data set is always available: no download, no licence, no patient data. A scene is a tube of
mucosa with folds, vessels and wet highlights. A polyp differs from it by relief, rim, contact
shadow and a surface without vessels, which a network has to learn; its colour may be redder, paler
or the same, so a colour threshold does not find it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.phantoms.brushes import (
    LATTICE_PX,
    SHIFT_BITS,
    Canvas,
    Field,
    Rng,
    blob,
    blur,
    check_at_least,
    fill,
    fixed,
    noise_field,
    polar,
    stretch,
    unit,
)

PHANTOM_VERSION = 1
"""Part of every seed; incremented when a pixel changes."""

_COUNT_SHARES = (0.07, 0.8, 0.13)  # shares of scenes with no, one and two polyps
_TINTS = ((1.08, 0.74, 0.78), (1.1, 1.26, 1.22), (1.0, 1.0, 1.0))  # redder, paler, same hue
_ABSORPTION = (0.45, 1.0, 0.85)  # of light by blood in red, green, blue; 1 is strongest

_X, _Y = np.meshgrid(*2 * [(np.arange(LATTICE_PX, dtype=np.float32) + 0.5) / LATTICE_PX])


@dataclass(frozen=True)
class _Polyp:
    """Polyp; positions and lengths in image widths, y pointing down."""

    outlines: list[Field]  # closed polygons (P, 2) whose union is the polyp
    centre: Field  # of the head, (2,)
    radius: float  # mean radius of the head
    towards_light: Field  # unit vector in the image plane, (2,)
    tint: NDArray[np.floating]  # factors on red, green and blue of the mucosa, (3,)
    relief: float  # strength of the dome shading; 0.2 is subtle, 0.35 is plain


def draw_polyp_scene(
    index: int, *, size_px: int = 256, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a scene and the mask of its polyps.

    The result depends only on the arguments, not on order, process or number of threads. Another
    size shows the same scene. About one scene in fourteen has no polyp and an empty mask, one in
    eight has two polyps. Blood, mucus and bubbles occur and are not part of the mask.

    Args:
        index: Number of the scene, 0 or greater.
        size_px: Height and width in pixels, 16 or greater.
        seed: Seed of the data set, 0 or greater.

    Returns:
        The RGB image (H, W, 3) in [0, 255] and the mask (H, W) in {0, 1}.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_at_least(("index", index, 0), ("size_px", size_px, 16), ("seed", seed, 0))
    rng = np.random.default_rng([PHANTOM_VERSION, seed, index])
    away = float(rng.choice([0.2, 0.45, 0.9], p=[0.4, 0.35, 0.25]))  # 0.9 is out of view
    lumen = 0.5 + away * polar(rng.uniform(0, 2 * np.pi))
    light, relief = _light(rng, lumen)
    mucosa = _mucosa(rng, relief)
    polyps = _polyps(rng, lumen)
    flesh = _raise_polyps(rng, mucosa, light, polyps)
    mucosa *= light
    vessels = _vessels(rng, size_px)
    gleam = _gleam(rng, polyps, mucosa[0], size_px)
    view = _view(rng, size_px)
    inside = fill([outline for polyp in polyps for outline in polyp.outlines], size_px)
    grain = 1 + rng.uniform(0.25, 0.45) * noise_field(rng, 128, size_px)
    shown = unit(view, 255 * rng.uniform(0.9, 1.2))
    blur_px, noise = rng.uniform(0.3, 0.8) * size_px / 256, rng.uniform(0.02, 0.05)
    # the only draw that depends on the size comes last, so every size shows the same scene
    sensor = unit(rng.integers(0, 256, (size_px, size_px), dtype=np.uint8), noise) - noise / 2
    alpha, dry = unit(inside), 1 - gleam
    gleam += sensor
    plane, over = np.empty((2, size_px, size_px), np.float32)  # reused: allocation is slow
    planes = []
    for ground, dome, absorption in zip(mucosa, flesh, _ABSORPTION, strict=True):
        stretch(ground, size_px, out=plane)
        plane *= cv2.scaleAdd(vessels, -absorption, grain, dst=over)
        stretch(dome, size_px, out=over)
        over -= plane
        over *= alpha
        plane += over
        plane *= dry
        plane += gleam
        plane *= shown
        planes.append(np.clip(plane, 0, 255, out=plane).astype(np.uint8))
    image = cv2.GaussianBlur(cv2.merge(planes), (0, 0), max(0.2, blur_px))
    return image.astype(np.uint8, copy=False), ((inside > 127) & (view > 127)).astype(np.uint8)


def _light(rng: Rng, lumen: Field) -> tuple[Field, Field]:
    """Draw brightness that decreases with depth, and fold shading; both lattice fields."""
    dx, dy = _X - lumen[0], _Y - lumen[1]
    wide = rng.uniform(0.6, 1.6)
    bend = 0.16 * noise_field(rng, 4) + 0.06 * noise_field(rng, 10)
    depth = np.sqrt(dx * dx * wide + dy * dy / wide) + bend
    near = np.clip((depth - rng.uniform(0.02, 0.1)) / rng.uniform(0.2, 0.4), 0, 1)
    off = (_X - rng.uniform(0.35, 0.65)) ** 2 + (_Y - rng.uniform(0.35, 0.65)) ** 2
    light = (0.1 + 0.9 * near * (2 - near)) * (1.08 - rng.uniform(0.5, 1.1) * off)
    # folds get denser towards the lumen, and each shades the base of the next
    turns = rng.uniform(0.9, 2.0) * np.log(np.maximum(depth, 0) + 0.12) + rng.uniform(0, 1)
    rise = 1 - turns % 1
    strength = rng.uniform(0.2, 0.7) * np.clip(0.7 + 1.6 * noise_field(rng, 4), 0, 1)
    return light, 1 + strength * (cv2.blur(rise * rise, (4, 4)) - 0.5)


def _mucosa(rng: Rng, relief: Field) -> Field:
    """Draw the colour of the wall with folds and flat stains, (3, lattice, lattice)."""
    red, green, blue = np.cumprod(rng.uniform((0.68, 0.46, 0.7), (0.9, 0.7, 0.95))).tolist()
    mottle = relief * (1 + 0.25 * noise_field(rng, 12) + 0.2 * noise_field(rng, 32))
    colour = np.stack([red * mottle, green * mottle, blue * mottle])
    colour[1:] *= 1 + 0.18 * noise_field(rng, 5) + 0.09 * noise_field(rng, 16)
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.45, 0.3, 0.15, 0.1])):
        stain = (0.72, 0.42, 0.45) if rng.random() < 0.6 else (1.05, 1.05, 0.62)  # blood, mucus
        spot = blob(rng, rng.uniform(0.1, 0.9, 2), rng.uniform(0.03, 0.13), wobble=0.3)
        soft = blur(unit(fill([spot], LATTICE_PX)), rng.uniform(0.05, 0.09))
        soft *= np.clip(0.7 + 2 * noise_field(rng, 20), 0, 1) * rng.uniform(0.5, 1.0)
        for plane, factor in zip(colour, stain, strict=True):
            plane *= 1 + (factor - 1) * soft
    return colour


def _polyps(rng: Rng, lumen: Field) -> list[_Polyp]:
    """Draw the number, positions, shapes and appearance of the polyps."""
    count = int(rng.choice(3, p=_COUNT_SHARES))
    polyps: list[_Polyp] = []
    for _ in range(count):
        radius = 0.06 + (0.26 if count == 1 else 0.12) * rng.random() ** 0.75  # few are tiny
        places = 0.5 + np.sqrt(rng.uniform(0, 0.16, (6, 1))) * polar(rng.uniform(0, 2 * np.pi, 6))
        room = np.minimum(np.hypot(*(places - lumen).T) - 0.15, 0.15)  # outside dark regions
        for other in polyps:
            room += np.hypot(*(places - other.centre).T) - other.radius
        centre = places[room.argmax()].astype(np.float32)
        outlines = [blob(rng, centre, radius, wobble=rng.uniform(0.04, 0.14))]
        lot, along = rng.random(), polar(rng.uniform(0, 2 * np.pi))
        if lot < 0.2:  # lobed
            size = radius * rng.uniform(0.5, 0.75)
            outlines.append(blob(rng, centre + 0.8 * radius * along, size, wobble=0.08))
        elif lot < 0.4 and radius < 0.2:  # on a stalk
            foot = radius * rng.uniform(1.4, 1.9) * along
            width = radius * rng.uniform(0.3, 0.45) * along[::-1] * np.array([1, -1], np.float32)
            outlines.append(np.add(centre, [width, foot + width, 1.1 * foot, foot - width, -width]))
        towards_light = polar(rng.uniform(0, 2 * np.pi))
        tint = rng.uniform(0.92, 1.08) * np.array(_TINTS[rng.choice(3, p=[0.4, 0.3, 0.3])])
        polyps.append(_Polyp(outlines, centre, radius, towards_light, tint, rng.uniform(0.2, 0.35)))
    return polyps


def _raise_polyps(rng: Rng, mucosa: Field, light: Field, polyps: list[_Polyp]) -> Field:
    """Draw the colour of the lit polyps, (3, lattice, lattice); their shadows darken ``mucosa``."""
    body = 0.75 * mucosa.mean(axis=(1, 2), keepdims=True) + 0.25 * mucosa
    flesh = body * light
    for polyp in polyps:
        shape = unit(fill(polyp.outlines, LATTICE_PX))
        # a blurred outline forms a dome, whose slope determines the shading
        dome = blur(blur(shape, polyp.radius * 0.8), polyp.radius * 0.6)
        rim = np.clip(2 - 2 * blur(shape, polyp.radius * 0.35), 0, 1)
        to_x, to_y = (polyp.towards_light * (polyp.radius * LATTICE_PX)).tolist()
        d_x, d_y = cv2.Sobel(dome, -1, 1, 0), cv2.Sobel(dome, -1, 0, 1)
        slope = to_x / 8 * d_x + to_y / 8 * d_y
        shade = 0.84 + 0.44 * dome - polyp.relief * (slope + 1.2 * rim)
        shade *= 1 - rng.uniform(0.0, 0.15) * np.clip(1 - 8 * np.abs(noise_field(rng, 40)), 0, 1)
        column, row = (polyp.centre * LATTICE_PX).astype(int)
        shade *= 0.4 * light + 0.6 * light[row, column]  # brighter than its surroundings
        own = np.ceil(cv2.dilate(shape, np.ones((5, 5), np.uint8)))
        for paint, base, factor in zip(flesh, body, polyp.tint, strict=True):
            paint += own * (float(factor) * base * shade - paint)
        away = np.array([[1, 0, -0.25 * to_x], [0, 1, -0.25 * to_y]])
        cast = cv2.warpAffine(blur(shape, polyp.radius * 0.4), away, shape.shape)
        mucosa *= 1 - polyp.relief * cast
    return flesh


def _vessels(rng: Rng, size_px: int) -> Field:
    """Draw absorption by blood: branching lines in [0, 0.5] at the size of the image."""
    trunks, steps = 8, 24
    bends = rng.normal(0, 0.22, (3 * trunks, steps)).cumsum(axis=1)
    bends[:trunks] += rng.uniform(0, 2 * np.pi, (trunks, 1))
    stems = rng.uniform(0, 1, (trunks, 1, 2)) + 0.022 * polar(bends[:trunks]).cumsum(axis=1)
    parent, leave = np.arange(2 * trunks) % trunks, rng.integers(4, steps, 2 * trunks)
    aside = bends[parent, leave - 1] + rng.choice([-0.7, 0.7], 2 * trunks)
    twigs = 0.014 * polar(bends[trunks:] + aside[:, None]).cumsum(axis=1)
    twigs += stems[parent, leave][:, None]
    canvas: Canvas = np.zeros((size_px, size_px), np.uint8)
    for paths, width in ((twigs, 0.7), (stems, 1.3)):
        width_px = width * size_px / 256
        ink = int(255 * min(1.0, width_px))  # draw a line thinner than a pixel as a fainter pixel
        lines = list(fixed(paths, size_px))
        cv2.polylines(canvas, lines, False, ink, max(1, round(width_px)), cv2.LINE_AA, SHIFT_BITS)
    return unit(canvas, rng.uniform(0.1, 0.5))


def _gleam(rng: Rng, polyps: list[_Polyp], brightness: Field, size_px: int) -> Field:
    """Draw wet highlights and bubbles in [0, 1] at the size of the image."""
    canvas: Canvas = np.zeros((size_px, size_px), np.uint8)

    def drops(middle: NDArray[np.floating], spread: float, radius: float, count: int) -> None:
        places = fixed(middle + rng.normal(0, spread, (count, 2)), size_px)
        axes = radius * rng.uniform(0.15, 1, (count, 2)) * size_px * 2**SHIFT_BITS
        slant = rng.uniform(0, 180)  # neighbours share a slope and a direction
        for place, axis in zip(places.tolist(), axes.astype(int).tolist(), strict=True):
            cv2.ellipse(canvas, place, axis, slant, 0, 360, 255, -1, cv2.LINE_AA, SHIFT_BITS)

    for _ in range(rng.integers(1, 5)):
        spots = rng.uniform(0.05, 0.95, (6, 2))
        column, row = (spots * LATTICE_PX).astype(int).T
        crest = spots[brightness[row, column].argmax()]  # bright sides of folds first
        drops(crest, 0.04, rng.uniform(0.006, 0.018), int(rng.integers(3, 12)))
    for polyp in polyps:
        lit, size = polyp.centre + 0.35 * polyp.radius * polyp.towards_light, polyp.radius
        drops(lit, 0.2 * size, rng.uniform(0.06, 0.16) * size, int(rng.integers(1, 6)))
    if rng.random() < 0.3:  # bubbles
        for place in rng.uniform(0.15, 0.85, 2) + rng.normal(0, 0.05, (rng.integers(2, 8), 2)):
            radius = rng.uniform(0.01, 0.03)
            ring, spark = fixed(np.stack([place, place - 0.4 * radius]), size_px).tolist()
            reach = int(radius * size_px * 2**SHIFT_BITS)
            cv2.circle(canvas, ring, reach, 110, 1, cv2.LINE_AA, SHIFT_BITS)
            cv2.circle(canvas, spark, reach // 4, 230, -1, cv2.LINE_AA, SHIFT_BITS)
    return unit(canvas)


def _view(rng: Rng, size_px: int) -> Canvas:
    """Draw the visible area of the endoscope, 255, inside its black frame, 0."""
    lot, reach = rng.random(), rng.uniform(0.53, 0.6)
    if lot < 0.4:
        return np.full((size_px, size_px), 255, np.uint8)
    corners = 8 if lot < 0.75 else 96  # octagon or circle, clipped by the image border
    turn = (2 * np.arange(corners) + 1) * np.pi / corners
    return fill([0.5 + reach / np.cos(np.pi / corners) * polar(turn)], size_px)
