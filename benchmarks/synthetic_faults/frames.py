"""Draw phantoms of which all share a frame: a disc, a fan, a ruler, a letterbox.

The frame is most of the contrast of such pictures, so that different ones look alike as thumbnails:
fundus photographs, ultrasound, dermoscopy with a burned-in ruler, and letterboxed photographs.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.phantoms.polyps import draw_polyp_scene

Picture = NDArray[np.uint8]

FRAME_CLASSES = ("healthy", "lesion")


def draw_framed(drawn: str, index: int, label: int, *, size_px: int, seed: int) -> Picture:
    """Return a picture (S, S) or (S, S, 3) of one of `FRAMES`."""
    kind = sorted(FRAMES).index(drawn)
    return FRAMES[drawn](np.random.default_rng([seed, kind, index]), label, size_px)


def _smooth(rng: np.random.Generator, size: int, sigma: float) -> NDArray[np.float32]:
    """Return smoothed noise of mean 0 and standard deviation 1."""
    noise = rng.normal(0, 1, (size, size)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), max(0.3, sigma))
    return np.asarray((blurred - blurred.mean()) / (blurred.std() + 1e-6), np.float32)


def _grid(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    return at[:, None], at[None, :]


def _disc(rng: np.random.Generator, label: int, size: int) -> Picture:
    """Fundus: a bright disc on black, a papilla at one side, and a tree of vessels of its own."""
    y, x = _grid(size)
    middle = 0.5 + rng.normal(0, 0.004, 2)
    far = np.hypot(y - middle[0], x - middle[1])
    ground = 150 - 90 * far**2 + 6 * _smooth(rng, size, size / 6)
    side = rng.choice([-1, 1])
    papilla = np.array([0.5 + rng.normal(0, 0.02), 0.5 + side * (0.22 + rng.normal(0, 0.015))])
    ground += 70 * np.exp(-((np.hypot(y - papilla[0], x - papilla[1]) / 0.05) ** 2))
    vessels = np.zeros((size, size), np.float32)
    for start in (-1.2, -0.5, 0.5, 1.2):
        _branch(
            rng, vessels, papilla, np.pi / 2 * (1 + side) + start + rng.normal(0, 0.2), 0.016, 3
        )
    ground = ground - 60 * cv2.GaussianBlur(vessels, (0, 0), size / 400)
    for _ in range(rng.integers(4, 12) if label else 0):
        spot = rng.uniform(0.25, 0.75, 2)
        ground += 50 * np.exp(-((np.hypot(y - spot[0], x - spot[1]) / 0.012) ** 2))
    ground = np.where(far < 0.46, ground + rng.normal(0, 2, (size, size)), 4)
    shown = np.stack([ground * 1.2, ground * 0.7, ground * 0.35], axis=2)
    return np.rint(shown.clip(0, 255)).astype(np.uint8)


def _branch(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    start: NDArray[np.float64],
    angle: float,
    width: float,
    depth: int,
) -> None:
    """Draw a winding vessel (y, x in shares of a side) and the vessels that leave it."""
    size, place, bend = canvas.shape[0], start.copy(), rng.normal(0, 0.05)
    for step in range(14):
        angle += bend + rng.normal(0, 0.12)
        following = place + 0.03 * np.array([np.sin(angle), np.cos(angle)])
        ends = [tuple((p[::-1] * size).astype(int).tolist()) for p in (place, following)]
        cv2.line(canvas, ends[0], ends[1], 1.0, max(1, round(width * size)), cv2.LINE_AA)
        place = following
        if depth and step in (4, 9):
            _branch(rng, canvas, place, angle + rng.choice([-1, 1]) * rng.uniform(0.4, 0.9),
                    width * 0.7, depth - 1)  # fmt: skip


def _fan(rng: np.random.Generator, label: int, size: int) -> Picture:
    """Ultrasound: speckle in layers inside a fan, with the same text and depth scale in all."""
    y, x = _grid(size)
    depth = np.hypot(y + 0.25, x - 0.5)
    angle = np.arctan2(x - 0.5, y + 0.25)
    inside = (np.abs(angle) < 0.6) & (depth > 0.32) & (depth < 1.15)
    tissue = np.full((size, size), 70, np.float32) + 18 * _smooth(rng, size, size / 10)
    for place in rng.uniform(0.4, 1.1, 4):
        bent = place + 0.04 * np.sin(rng.uniform(3, 8) * angle + rng.uniform(0, 6))
        tissue += rng.uniform(25, 70) * np.exp(-(((depth - bent) / 0.015) ** 2))
    for _ in range(rng.integers(1, 3) + label):
        spot, axes = rng.uniform([0.3, 0.35], [0.75, 0.65]), rng.uniform(0.04, 0.12, 2)
        dark = ((y - spot[0]) / axes[0]) ** 2 + ((x - spot[1]) / axes[1]) ** 2 < 1
        tissue[dark] *= 0.35
    speckle = np.exp(0.35 * _smooth(rng, size, size / 130))
    shown = np.where(inside, tissue * speckle + 8, 6)
    picture = np.rint(shown.clip(0, 255)).astype(np.uint8)
    for tick in range(11):
        row = round((0.08 + 0.08 * tick) * size)
        cv2.line(picture, (size - round(0.05 * size), row), (size - 2, row), 200, 1)
    cv2.putText(picture, "MI 0.8  9L-D", (2, round(0.07 * size)), cv2.FONT_HERSHEY_SIMPLEX,
                size / 500, 220, 1)  # fmt: skip
    return picture


def _ruler(rng: np.random.Generator, label: int, size: int) -> Picture:
    """Skin with a mole and hairs, and the same ruler and date in all."""
    y, x = _grid(size)
    skin = 185 + 6 * _smooth(rng, size, size / 5) + 3 * _smooth(rng, size, size / 60)
    spot, radius = 0.48 + rng.normal(0, 0.03, 2), rng.uniform(0.12, 0.2)
    turn = np.arctan2(y - spot[0], x - spot[1])
    edge = radius * (1 + sum(rng.normal(0, 0.1 / k) * np.cos(k * turn + rng.uniform(0, 6))
                             for k in range(1, 7)))  # fmt: skip
    mole = 1 / (1 + np.exp((np.hypot(y - spot[0], x - spot[1]) - edge) / 0.008))
    skin = skin - mole * (80 + 18 * _smooth(rng, size, size / 30))
    picture = skin.astype(np.float32)
    for _ in range(rng.integers(0, 8)):
        start, end = (rng.uniform(0, size, (2, 2))).astype(int).tolist()
        cv2.line(picture, start, end, 60.0, 1, cv2.LINE_AA)
    if label:
        picture += 25 * mole * (_smooth(rng, size, size / 40) > 0.8)
    shown = np.stack([picture, picture * 0.82, picture * 0.7], axis=2)
    shown = np.rint((shown + rng.normal(0, 2, shown.shape)).clip(0, 255)).astype(np.uint8)
    top = round(0.88 * size)
    cv2.rectangle(shown, (0, top), (size, size), (245, 245, 245), -1)
    for tick in range(41):
        column, high = round(tick * size / 40), 0.08 if tick % 10 == 0 else 0.04
        cv2.line(shown, (column, top), (column, top + round(high * size)), (10, 10, 10), 1)
    cv2.putText(shown, "mm  CLINIC 7", (3, size - 3), cv2.FONT_HERSHEY_SIMPLEX, size / 500,
                (10, 10, 10), 1)  # fmt: skip
    return shown


def _letterbox(rng: np.random.Generator, label: int, size: int) -> Picture:
    """A wide photograph between black bars, with the same sign in a corner."""
    high = round(0.56 * size)
    inner = draw_polyp_scene(int(rng.integers(2**31)), size_px=size, seed=7 + label)[0]
    cut = inner[(size - high) // 2 :][:high]
    shown = np.zeros((size, size, 3), np.uint8)
    shown[(size - high) // 2 :][:high] = cut
    cv2.circle(
        shown, (round(0.93 * size), round(0.1 * size)), round(0.04 * size), (230, 60, 40), -1
    )
    return shown


FRAMES = {"retina": _disc, "ultrasound": _fan, "ruler": _ruler, "letterbox": _letterbox}
"""Kinds of pictures with a shared frame."""
