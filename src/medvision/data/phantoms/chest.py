"""Synthetic frontal chest radiographs of a child, normal or with pneumonia.

The image is the sum of the attenuation by soft tissue, bones and air-filled lungs. Disease replaces
air: in one soft patch that is densest in the centre (lobar consolidation) or along a net of fine
lines on both sides (interstitial). Exposure, build, position and the transparency of each lung vary
more than the disease, so brightness does not reveal the class; tubes, cables and side markers occur
in both classes.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.data.phantoms.brushes import (
    Field,
    Pose,
    Rng,
    blob,
    blur,
    check_at_least,
    check_label,
    fill,
    noise_field,
    polar,
    ribbon,
    soft,
    spline,
    stretch,
    unit,
)

CHEST_CLASSES = ("NORMAL", "PNEUMONIA")
"""Class names in the order of their indices."""

PHANTOM_CHEST_VERSION = 1
"""Part of every seed; incremented when a pixel changes."""

# Separate random streams: the disease leaves the patient unchanged.
_SCENE_STREAM, _SIGN_STREAM = 1, 2

# Atlas: x from the midline outwards, y down, in image widths; the trunk is about 0.8 wide.
# fmt: off
_TRUNK = ((0.08, -0.6), (0.085, -0.47), (0.22, -0.41), (0.39, -0.34), (0.41, -0.25),
          (0.38, -0.12), (0.385, 0.1), (0.4, 0.35), (0.39, 0.7))
_LUNG = ((0.06, -0.28), (0.1, -0.35), (0.17, -0.34), (0.25, -0.22), (0.305, -0.03),
         (0.335, 0.15), (0.345, 0.27), (0.345, 0.27), (0.27, 0.205), (0.17, 0.18),
         (0.07, 0.205), (0.055, 0.0), (0.05, -0.18))
_HEART = ((-0.05, -0.25), (-0.06, -0.1), (-0.1, 0.06), (-0.1, 0.23), (0.06, 0.26),
          (0.19, 0.22), (0.185, 0.12), (0.12, -0.02), (0.075, -0.13), (0.06, -0.25))
# fmt: on
_CLAVICLE = ((0.035, -0.3), (0.12, -0.325), (0.22, -0.365), (0.3, -0.35))
_WALL = np.array(((-0.36, 0.14), (-0.22, 0.25), (-0.03, 0.31), (0.15, 0.34), (0.5, 0.36)))
_VERTEBRAE = np.array(((-0.032, 0), (0.032, 0), (0.032, 0.055), (-0.032, 0.055))) + np.stack(
    [np.zeros((15, 1)), np.linspace(-0.5, 0.48, 15)[:, None]], axis=-1
)
_SIDES = np.array(((-1, 1), (1, 1)), np.float32)
_LETTERS = {
    "L": ([(0.0, 0.0), (0.0, 1.0), (0.6, 1.0)],),
    "R": ([(0.0, 1.0), (0.0, 0.0), (0.5, 0.05), (0.55, 0.4), (0.0, 0.5)], [(0.2, 0.5), (0.6, 1.0)]),
}


def draw_chest(index: int, label: int, *, size_px: int, seed: int) -> NDArray[np.uint8]:
    """Draw a radiograph of a class.

    The result depends only on the arguments, not on order, process or number of threads. Another
    size shows the same patient; the other label shows the same patient with or without disease, and
    changes only the lungs.

    Args:
        index: Number of the patient, 0 or greater.
        label: 0 for normal, 1 for pneumonia: the index into ``CHEST_CLASSES``.
        size_px: Height and width in pixels, 16 or greater.
        seed: Seed of the data set, 0 or greater.

    Returns:
        The grey image (H, W) in [0, 255].

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_at_least(("index", index, 0), ("size_px", size_px, 16), ("seed", seed, 0))
    check_label(label, len(CHEST_CLASSES))
    rng = np.random.default_rng([PHANTOM_CHEST_VERSION, seed, index, _SCENE_STREAM])
    pose = Pose.draw(rng, centre=(0.5, 0.5), turn_deg=6, sway=0.008)
    turned = rng.uniform(-0.02, 0.02)  # rotation of the patient shifts heart and spine
    density = _tissue(rng, pose, size_px)
    air = _air(rng, pose, turned, size_px)
    if label == 1:
        sign_rng = np.random.default_rng([PHANTOM_CHEST_VERSION, seed, index, _SIGN_STREAM])
        air *= 1 - stretch(_disease(sign_rng, pose), size_px)
    density *= 1 - air
    density += _bones(rng, pose, turned, size_px)
    density += _foreign(rng, pose, size_px)
    # film: dark at high exposure, with lower contrast in bright regions
    low, gain, speed = rng.uniform(0.02, 0.12), rng.uniform(0.7, 1.0), rng.uniform(0.5, 1.6)
    shown = low + (gain - low) * (1 - np.exp(-speed * density)) / (1 - np.exp(-speed))
    shown *= stretch(1 + rng.uniform(0.1, 0.35) * noise_field(rng, 3), size_px)
    blur_px, grain = rng.uniform(0.5, 1.1) * size_px / 256, rng.uniform(0.02, 0.07)
    # the only draw that depends on the size comes last, so every size shows the same patient
    shown += unit(rng.integers(0, 256, (size_px, size_px), dtype=np.uint8), grain) - grain / 2
    shown = cv2.GaussianBlur(shown, (0, 0), max(0.2, blur_px))
    return np.clip(255 * shown, 0, 255).astype(np.uint8)


def _both(points: ArrayLike) -> Field:
    """Return shapes (..., P, 2) on the left and right of the image, (2, ..., P, 2)."""
    half = np.asarray(points, np.float32)
    return half * _SIDES.reshape(2, *[1] * (half.ndim - 1), 2)


def _tissue(rng: Rng, pose: Pose, size_px: int) -> Field:
    """Draw soft tissue of trunk, arms and head, thicker in the middle and below the diaphragm."""
    left, right = (spline(half) for half in _both(_TRUNK))
    trunk = pose(np.concatenate([left, right[::-1]]))
    raised = rng.uniform(-0.25, 0.45)  # y of the elbows
    arms = [
        ribbon(pose(spline(path)), 0.13 * rng.uniform(0.8, 1.1))
        for path in _both(((0.33, -0.29), (0.47, -0.25 + 0.4 * raised), (0.56, raised)))
    ]
    jaw = pose(blob(rng, np.array([0, -0.6 - rng.uniform(0, 0.1)]), 0.17, wobble=0.02))
    body = [trunk, *arms, jaw]
    depth = soft(body, 0.3) * (0.72 + 0.1 * noise_field(rng, 6))
    depth += 0.18 * soft([pose(blob(rng, np.array([0.0, 0.52]), 0.34, wobble=0.02))], 0.25)
    if rng.random() < 0.4:  # gas in the stomach
        depth -= 0.15 * soft([pose(blob(rng, np.array([0.16, 0.3]), 0.05, wobble=0.1))], 0.05)
    depth += 0.14 * soft([pose(ribbon(np.array([(0, -0.7), (0, 0.7)], np.float32), 0.16))], 0.12)
    depth -= 0.1 * soft([pose(ribbon(np.array([(0, -0.7), (0, -0.14)], np.float32), 0.04))], 0.03)
    return stretch(depth, size_px) * unit(fill(body, size_px))


def _air(rng: Rng, pose: Pose, turned: float, size_px: int) -> Field:
    """Draw the air share of the beam's path: each lung individually, minus heart and vessels."""
    air = np.zeros((size_px, size_px), np.float32)
    for half in _both(_LUNG):
        lift = rng.uniform(-0.03, 0.03) * np.clip(4 * half[:, 1], 0, 1)  # of the diaphragm
        outline = half * (rng.uniform(0.92, 1.06), 1) + np.stack([0 * lift, lift], axis=1)
        air += unit(fill([pose(spline(outline, closed=True))], size_px), rng.uniform(0.42, 0.68))
    size = rng.uniform(0.85, 1.2)
    heart = np.array(_HEART) * (size, 1) + (turned, rng.uniform(-0.02, 0.02))
    filled = 1 - soft([pose(spline(heart, closed=True))], 0.02)
    lean = rng.uniform(-1.2, 1.4, (2, 8, 1)) + rng.normal(0, 0.25, (2, 8, 4)).cumsum(axis=2)
    steps = rng.uniform(0.03, 0.065, (2, 8, 1, 1)) * polar(lean)
    paths = (steps.cumsum(axis=2) + np.array([0.06, -0.06])) * _SIDES[:, None, None]
    vessels = ribbon(pose(spline(paths)), np.linspace(0.016, 0.003, 19)).reshape(16, -1, 2)
    hilum = [pose(blob(rng, np.array([x, -0.05]), 0.04, wobble=0.1)) for x in (-0.08, 0.08)]
    filled *= 1 - rng.uniform(0.2, 0.5) * soft(hilum, 0.05)
    filled *= 1 - rng.uniform(0, 0.12) * _net(rng)
    filled *= 1 + 0.25 * noise_field(rng, 4)
    air *= stretch(filled, size_px)
    air *= 1 - unit(fill(vessels, size_px), rng.uniform(0.15, 0.4))
    return air


def _disease(rng: Rng, pose: Pose) -> Field:
    """Draw the share of air replaced by disease, a lattice field in [0, 1]."""
    if rng.random() < 0.6:  # lobar
        place = np.array([rng.uniform(0.13, 0.23), rng.uniform(-0.18, 0.15)])
        if rng.random() < 0.5:
            place[0] *= -1
        else:
            place[0] += 0.03  # not hidden by the heart
        size = rng.uniform(0.085, 0.13)
        patch = soft([pose(blob(rng, place, size, wobble=0.12))], size)
        core = soft([pose(blob(rng, place, 0.5 * size, wobble=0.1))], 0.6 * size)
        mottle = 1 + 0.5 * noise_field(rng, 20)
        return np.clip((0.6 * patch + 0.4 * core) * mottle * rng.uniform(0.85, 1.05), 0, 0.95)
    near = [pose(blob(rng, np.array([side * 0.15, 0.02]), 0.19, wobble=0.1)) for side in (-1, 1)]
    return soft(near, 0.1) * _net(rng) * np.float32(rng.uniform(0.45, 0.7))


def _net(rng: Rng) -> Field:
    """Draw a net of fine lines, a lattice field in [0, 1]."""
    ways = [np.abs(blur(noise_field(rng, cells), 0.018)) for cells in (26, 38)]
    return np.clip(1 - 9 * np.minimum(*ways), 0, 1)


def _bones(rng: Rng, pose: Pose, turned: float, size_px: int) -> Field:
    """Draw ribs, spine, clavicles and arms, at the size of the image."""
    y = rng.uniform(-0.4, -0.37) + rng.uniform(0.062, 0.07) * np.arange(11)
    droop, wide = rng.uniform(0.05, 0.11), rng.uniform(0.019, 0.024)
    wall = np.interp(y + droop, *_WALL.T) + 0.005
    bow = (
        (0.02 + 0 * y, y),
        (0.4 * wall, y - 0.02),
        (0.8 * wall, y + 0.3 * droop),
        (wall, y + droop),
    )
    turn = ((wall, y + droop), (0.85 * wall, y + 1.9 * droop), (0.5 * wall, y + 2.6 * droop))
    back, front = (
        ribbon(pose(spline(_both(np.moveaxis(np.array(half), 2, 0)))), wide) for half in (bow, turn)
    )
    spine = _VERTEBRAE + np.array([turned, 0])
    hard = [*ribbon(pose(spline(_both(_CLAVICLE))), 0.026), *pose(spine)]
    bones = rng.uniform(0.1, 0.17) * _hollow(fill(back.reshape(22, -1, 2), size_px))
    bones += rng.uniform(0.03, 0.07) * unit(fill(front[:, :8].reshape(16, -1, 2), size_px))
    bones += rng.uniform(0.07, 0.14) * _hollow(fill(hard, size_px))
    return bones


def _hollow(canvas: NDArray[np.uint8]) -> Field:
    """Make bone denser at its surface than inside."""
    solid = unit(canvas)
    return solid * (1.25 - 0.5 * blur(solid, 0.012))


def _foreign(rng: Rng, pose: Pose, size_px: int) -> Field:
    """Draw side marker, tube and cable, independent of the class, at the size of the image."""
    things = []
    letter, shown = "LR"[rng.integers(2)], rng.random() < 0.7
    corner = np.array([rng.uniform(0.03, 0.08), rng.uniform(0.06, 0.5)])
    if letter == "L":
        corner[0] = 0.95 - corner[0]
    height, slant = rng.uniform(0.035, 0.06), rng.normal(0, 0.15)
    if shown:
        for stroke in _LETTERS[letter]:
            points = np.array(stroke, np.float32) * height @ np.array([[1, slant], [-slant, 1]])
            things.append(ribbon((corner + points).astype(np.float32), 0.009))
    ways = rng.normal(0, 0.03, (2, 4, 2)).cumsum(axis=1)
    starts = np.array([(0.0, -0.5), (rng.choice([-0.2, 0.2]), -0.5)])
    runs = starts[:, None] + ways + np.arange(4)[:, None] * (0.0, rng.uniform(0.08, 0.2))
    for run, share in zip(runs, (0.25, 0.3), strict=True):
        if rng.random() < share:
            things.append(ribbon(pose(spline(run)), 0.008))
            things.append(pose(blob(rng, run[-1], 0.013, wobble=0)))
    return unit(fill(things, size_px), rng.uniform(0.2, 0.45))
