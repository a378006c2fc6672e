"""Draw the phantoms that faults are added to, including similar images.

A set of nothing but unlike images would flatter every search for duplicates. So some of the
drawn images are chosen for their likeness: of several draws, the one most like another image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.phantoms.brain import BRAIN_CLASSES, draw_brain
from medvision.data.phantoms.chest import CHEST_CLASSES, draw_chest
from medvision.data.phantoms.polyps import draw_polyp_scene
from synthetic_faults.frames import FRAME_CLASSES, FRAMES, draw_framed

CLASSES: dict[str, tuple[str, ...]] = {
    "brain": BRAIN_CLASSES,
    "chest": CHEST_CLASSES,
    "polyps": (),
    **dict.fromkeys(FRAMES, FRAME_CLASSES),
}
"""Kinds of data sets, with their classes by index; none for data sets with masks."""

CANDIDATES = 8
"""Draws of which a look-alike is the one most like another image."""

_TRIES = 16  # numbers kept for each polyp scene; one scene in fourteen is empty
_LIKENESS_PX = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenes:
    """Phantoms of one sort.

    Attributes:
        drawn: A key of `CLASSES`.
        size_px: Height and width.
        seed: Number of the data set.
    """

    drawn: str
    size_px: int
    seed: int

    def draw(
        self, index: int, label: int, *, size_px: int | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Return the image, and the mask (H, W) in {0, 1} of a polyp scene, which is never empty.

        Args:
            index: Number of the image, 0 or greater.
            label: Its class; of no account for polyps.
            size_px: Height and width, where they are not those of the set.

        Returns:
            Grey (H, W) for brain, chest and ultrasound, red, green, blue (H, W, 3) for others.
        """
        size = size_px or self.size_px
        if self.drawn == "brain":
            return draw_brain(index, label, size_px=size, seed=self.seed), None
        if self.drawn == "chest":
            return draw_chest(index, label, size_px=size, seed=self.seed), None
        if self.drawn in FRAMES:
            return draw_framed(self.drawn, index, label, size_px=size, seed=self.seed), None
        for number in range(index * _TRIES, (index + 1) * _TRIES):
            image, mask = draw_polyp_scene(number, size_px=size, seed=self.seed)
            if mask.any():
                return image, mask
        raise ValueError(f"expected a size at which polyps show, got {size} px")

    def most_alike(
        self, labels: Sequence[int], wanted: Sequence[int]
    ) -> list[tuple[int, int, float]]:
        """Find look-alikes of the first images among further draws.

        Args:
            labels: Classes of the images 0 to ``len(labels) - 1``.
            wanted: Class of each look-alike.

        Returns:
            For each the number of the draw, the number of the image it is most like, of the same
            class, and their correlation as thumbnails of 48 px.

        Raises:
            ValueError: If no image has a class that is wanted.
        """
        shown = {
            label: [row for row, each in enumerate(labels) if each == label]
            for label in sorted(set(wanted))
        }
        if not all(shown.values()):
            raise ValueError("expected an image of the class of each look-alike, got none of one")
        ground = {
            label: np.stack([self._unit_vector(row, label) for row in rows])
            for label, rows in shown.items()
        }
        found = []
        for place, label in enumerate(wanted):
            first = len(labels) + place * CANDIDATES
            tried = [self._unit_vector(first + k, label) for k in range(CANDIDATES)]
            alike = np.stack(tried) @ ground[label].T
            draw, row = np.unravel_index(alike.argmax(), alike.shape)
            found.append((first + int(draw), shown[label][int(row)], float(alike.max())))
        return found

    def _unit_vector(self, index: int, label: int) -> NDArray[np.float32]:
        image, _ = self.draw(index, label)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        small = cv2.resize(grey, (_LIKENESS_PX, _LIKENESS_PX), interpolation=cv2.INTER_AREA)
        vector = small.astype(np.float32).ravel()
        vector -= vector.mean()
        return vector / np.float32(np.linalg.norm(vector) or 1)


def class_counts(count: int, shares: Sequence[float]) -> list[int]:
    """Split a number of images into classes by their shares, largest remainders first."""
    exact = count * np.array(shares) / np.sum(shares)
    counts = np.floor(exact).astype(int)
    rest = np.argsort(counts - exact, kind="stable")[: count - counts.sum()]
    counts[rest] += 1
    return counts.tolist()
