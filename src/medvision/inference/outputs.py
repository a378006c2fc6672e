"""What predicting an image leaves on the disk: pictures, and a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.files import write_atomically
from medvision.inference.card import ModelCard
from medvision.inference.inputs import Input
from medvision.inference.results import ClassificationResult, Image, SegmentationResult

SHOWN = 24
"""Pictures in the grid of a classification."""

THUMBNAIL_PX = 224

Explain = Callable[[Sequence[Image], Sequence[int]], NDArray[np.float32]]
"""Heat maps (N, S, S) in [0, 1] of prepared images and class indices."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Writes the results of one image after the other, from several threads.

    Attributes:
        folder: Where everything goes.
        card: Of the model.
        overlays: Whether a segmentation gets the image with contours beside the original.
        probabilities: Whether a segmentation gets its probabilities as PNG files.
        grid: The first pictures of a classification with their titles, by name of the input.
    """

    folder: Path
    card: ModelCard
    overlays: bool
    probabilities: bool
    grid: dict[str, tuple[Image, str]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Of ``predictions.csv``."""
        if self.card.task == "segmentation":
            names = self.card.class_names
            own = ["foreground_px", "foreground_percent", "num_regions", "mean_confidence"]
            several = [f"foreground_px/{name}" for name in names[1:]] if len(names) > 2 else []
            return ["path", "mask", *own, *several, "time_s", "error"]
        classes = [f"probability/{name}" for name in self.card.class_names]
        return ["path", "predicted", *classes, "time_s", "error"]

    def write_mask(self, given: Input, result: SegmentationResult) -> dict[str, Any]:
        """Write the pictures of a segmentation; return its row."""
        from medvision.reports.overlays import draw_overlay, encode_png

        two = len(self.card.class_names) == 2
        mask = result.mask * np.uint8(255) if two else result.mask
        self._write("masks", given, encode_png(mask))
        if self.overlays:
            self._write("overlays", given, encode_png(draw_overlay(result.image, result.mask)))
        if self.probabilities:
            p = result.probability if two else 1 - result.probability[..., 0]
            self._write("probabilities", given, encode_png(to_uint8(p)))
        row = {
            "mask": f"masks/{given.name}.png",
            "foreground_px": result.foreground_px,
            "foreground_percent": result.foreground_percent,
            "num_regions": result.num_regions,
            "mean_confidence": result.mean_confidence,
        }
        if not two:
            counts = np.bincount(result.mask.ravel(), minlength=self.card.num_classes)
            names = self.card.class_names[1:]
            row |= {f"foreground_px/{n}": int(c) for n, c in zip(names, counts[1:], strict=True)}
        return row

    def write_class(self, given: Input, result: ClassificationResult, place: int) -> dict[str, Any]:
        """Keep the picture of a classification for the grid; return its row."""
        if place < SHOWN:
            title = f"{result.predicted} {100 * result.confidence:.1f} %"
            self.grid[given.name] = (_thumbnail(result.image), title)
        probability = {f"probability/{name}": p for name, p in result.probability.items()}
        return {"predicted": result.predicted, **probability}

    def write_heat(self, given: Input, image: Image, heat: NDArray[np.float32]) -> None:
        """Write what the network looked at, beside the image."""
        from medvision.reports.overlays import encode_png, heat_overlay

        self._write("explanations", given, encode_png(heat_overlay(image, heat)))

    def write_grid(self, inputs: Sequence[Input]) -> None:
        """Write the pictures kept, in the order of the inputs."""
        from medvision.reports.prediction_grid import write_grid

        kept = [self.grid[given.name] for given in inputs[:SHOWN] if given.name in self.grid]
        if kept:
            note = f"the first {len(kept)} of {len(inputs)} images" if len(inputs) > SHOWN else ""
            pictures, titles = zip(*kept, strict=True)
            write_grid(self.folder / "grid.png", pictures, titles, note=note)

    def _write(self, kind: str, given: Input, png: bytes) -> None:
        path = self.folder / kind / f"{given.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, png)


def to_uint8(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The 8-bit value of a probability p: min(255, floor(256 p)); 128 and more is p >= 0.5."""
    return np.minimum(probability * 256, 255).astype(np.uint8)


def _thumbnail(image: Image) -> Image:
    scale = THUMBNAIL_PX / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small.reshape(size[1], size[0], image.shape[2]).astype(np.uint8, copy=False)
