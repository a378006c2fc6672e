"""Images in an npz file of arrays, as MedMNIST ships them: ``train_images``, ``train_labels``."""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.errors import MedvisionError
from medvision.files import open_regular

_INSIDE = ".npz#"
_STAGES = ("train", "val", "test")


def is_array_file(path: Path) -> bool:
    """Return True if an npz file holds ``train_images`` and ``train_labels``; reads names only."""
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            return {"train_images.npy", "train_labels.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):  # some other file
        return False


def array_keys(path: Path, *, stages: Sequence[str] = _STAGES) -> list[str]:
    """Return the key of each image, such as ``train/12``, in the order of the arrays.

    Raises:
        MedvisionError: If the file is damaged, or holds volumes.
    """
    found: list[str] = []
    for stage in stages:
        count = _count(path, stage)
        digits = len(str(count))
        found += [f"{stage}/{row:0{digits}d}" for row in range(count)]
    return found


def _count(path: Path, stage: str) -> int:
    """Return the number of images of a split, 0 without one, after checking their shape."""
    shape = _shape(path, f"{stage}_images")
    if shape and (len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3)):
        raise MedvisionError(
            f"expected images (N, H, W) or (N, H, W, 3), got {shape}",
            where=str(path),
            hint="volumes are not supported: choose a 2-D set",
        )
    return shape[0] if shape else 0


def array_labels(path: Path) -> dict[str, NDArray[np.int64]]:
    """Return the class of each image of each split, (N,).

    Raises:
        MedvisionError: If the file is damaged, images have several labels each, or are volumes.
    """
    state = path.stat()
    found = {}
    for stage in _STAGES:
        labels = _array(path, f"{stage}_labels", state.st_mtime_ns, state.st_size)
        if labels is None:
            continue
        if labels.ndim == 2 and labels.shape[1] > 1:
            raise MedvisionError(
                f"each image has {labels.shape[1]} labels, expected one class",
                where=str(path),
                hint="findings that occur together need a task of your own: docs/architecture.md",
            )
        if labels.dtype.kind not in "iu":
            raise MedvisionError(
                f"the labels are {labels.dtype}, expected integers",
                where=str(path),
                hint="store the index of the class",
            )
        if (count := _count(path, stage)) != len(labels):
            raise MedvisionError(
                f"{count} images and {len(labels)} labels in {stage}",
                where=str(path),
                hint="get the file again",
            )
        found[stage] = labels.reshape(-1).astype(np.int64)
    return found


def array_image(path: Path, key: str) -> bytes:
    """Return an image as the content of a PNG file.

    Args:
        path: The file.
        key: Split and index, such as ``train/12``.

    Raises:
        MedvisionError: If there is no such image.
    """
    stage, _, number = key.partition("/")
    state = path.stat()
    images = _array(path, f"{stage}_images", state.st_mtime_ns, state.st_size)
    if images is None or not number.isdecimal() or int(number) >= len(images):
        raise MedvisionError(f"no image {key} in the file", where=str(path), hint="check its name")
    image = images[int(number)]
    if image.ndim == 3:
        image = image[..., ::-1]
    return cv2.imencode(".png", image)[1].tobytes()


@functools.lru_cache(maxsize=8)
def _array(path: Path, name: str, *_: int) -> NDArray[np.generic] | None:
    """Return an array of a file, read once; None if there is none of that name."""
    shape = _shape(path, name)
    if not shape:
        return None
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            size = archive.getinfo(f"{name}.npy").file_size
            if size > limit:
                raise MedvisionError(
                    f"{name} takes {size / 1e9:.1f} GB, half of the memory is {limit / 1e9:.1f} GB",
                    where=str(path),
                    hint="choose the set in a smaller size",
                )
            with archive.open(f"{name}.npy") as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError) as fault:
        raise _damaged(path, fault) from fault
    if name.endswith("_images") and array.dtype != np.uint8:
        raise MedvisionError(
            f"the images are {array.dtype}, expected 8 bit",
            where=str(path),
            hint="store them as unsigned 8 bit",
        )
    return array


def _shape(path: Path, name: str) -> tuple[int, ...]:
    """Return the shape of an array from its header; empty if there is none of that name."""
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            if f"{name}.npy" not in archive.namelist():
                return ()
            with archive.open(f"{name}.npy") as member:
                version = np.lib.format.read_magic(member)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                return tuple(read(member)[0])
    except (OSError, zipfile.BadZipFile, ValueError) as fault:
        raise _damaged(path, fault) from fault


def _damaged(path: Path, fault: Exception) -> MedvisionError:
    return MedvisionError(
        f"cannot read the arrays: {fault}", where=str(path), hint="get the file again"
    )
