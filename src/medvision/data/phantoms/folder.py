"""Phantoms as a folder of image files, laid out like a data set of a user."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.phantoms.brain import BRAIN_CLASSES, draw_brain
from medvision.data.phantoms.chest import CHEST_CLASSES, draw_chest
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.errors import MedvisionError
from medvision.files import file_errors

Kind = Literal["polyps", "chest_xray", "brain_mri"]
TEST_EVERY = 5
"""Every fifth image of a class goes to the test folder."""


def write_phantoms(
    kind: Kind, root: Path, *, num_images: int, size_px: int = 256, seed: int = 0
) -> Path:
    """Write phantoms to a new folder.

    ``polyps`` has ``images/*.png`` and ``masks/*.png`` (0 and 255) with the same names.
    ``chest_xray`` has ``train`` and ``test`` with a folder for each class, ``brain_mri`` has
    ``Training`` and ``Testing``; a fifth of the images is in the test folder.

    Args:
        kind: Which phantoms.
        root: New folder; it appears when all images are written.
        num_images: Number of images; classes take turns.
        size_px: Height and width.
        seed: Seed of the drawing.

    Returns:
        The folder.

    Raises:
        MedvisionError: If the folder exists and is not empty, or cannot be written.
    """
    if kind not in get_args(Kind):
        raise MedvisionError(
            f"unknown phantoms {kind}", where="NAME", hint=f"choose {', '.join(get_args(Kind))}"
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise MedvisionError("this folder is not empty", where=str(root), hint="give a new folder")
    with file_errors("cannot write the phantoms", root):
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
        try:
            for index in range(num_images):
                for name, pixels in _files(kind, index, size_px=size_px, seed=seed).items():
                    path = temporary / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
            temporary.chmod(0o755)
            if root.exists():
                root.rmdir()
            temporary.rename(root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return root


def _files(kind: Kind, index: int, *, size_px: int, seed: int) -> dict[str, NDArray[np.uint8]]:
    """Draw the files of one image, in the channel order of OpenCV."""
    if kind == "polyps":
        image, mask = draw_polyp_scene(index, size_px=size_px, seed=seed)
        name = f"scene_{index:04d}.png"
        return {
            f"images/{name}": np.ascontiguousarray(image[..., ::-1]),
            f"masks/{name}": mask * 255,
        }
    classes, folders = (
        (CHEST_CLASSES, ("train", "test"))
        if kind == "chest_xray"
        else (BRAIN_CLASSES, ("Training", "Testing"))
    )
    number, label = divmod(index, len(classes))
    folder = folders[number % TEST_EVERY == TEST_EVERY - 1]
    draw = draw_chest if kind == "chest_xray" else draw_brain
    image = draw(index, label, size_px=size_px, seed=seed)
    return {f"{folder}/{classes[label]}/phantom_{index:04d}.png": image}
