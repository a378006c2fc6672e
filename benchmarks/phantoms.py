"""Phantoms as files, for measurements where no data set is given."""

import csv
from pathlib import Path

import cv2

from medvision.data.phantoms.brain import BRAIN_CLASSES, draw_brain
from medvision.data.phantoms.polyps import draw_polyp_scene


def write_polyps(root: Path, count: int = 400, size_px: int = 512) -> Path:
    """Images with masks and their splits.csv, eight in ten for training."""
    rows = [("split", "path", "target")]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        image, mask = draw_polyp_scene(number, size_px=size_px, seed=0)
        names = f"images/{number:04d}.jpg", f"masks/{number:04d}.png"
        cv2.imwrite(str(root / names[0]), image[..., ::-1])
        cv2.imwrite(str(root / names[1]), mask * 255)
        rows.append((("val", "test")[number % 2] if number % 5 == 0 else "train", *names))
    with (root / "splits.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return root


def write_brains(root: Path, count: int = 400, size_px: int = 256) -> Path:
    """Images in class folders, one in ten for testing."""
    for number in range(count):
        label = number % len(BRAIN_CLASSES)
        folder = root / ("Testing" if number % 10 == 0 else "Training") / BRAIN_CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        image = draw_brain(number, label, size_px=size_px, seed=0)
        cv2.imwrite(str(folder / f"{number:04d}.png"), image)
    return root
