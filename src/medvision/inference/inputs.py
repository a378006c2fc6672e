"""Files to predict, and the names of their results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medvision.console import counted
from medvision.data.discovery.folders import list_images
from medvision.data.discovery.mask_folders import masks_below
from medvision.data.readers.arrays import array_keys, is_array_file
from medvision.data.readers.decode import image_size
from medvision.data.readers.kinds import FORMAT_NAMES
from medvision.errors import MedvisionError
from medvision.files import short_name

_MOST_BYTES = 255 - len(".png")

MAX_PIXELS_AT_ONCE = 16_000_000
"""Largest number of pixels held in memory at once, unless a single image is larger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One image to predict.

    Attributes:
        path: The file, as given or below the given folder.
        name: Unique path of its results relative to their folder, without extension.
        error: Reason why it is not predicted; None if it is.
    """

    path: Path
    name: str
    error: str | None = None


def find_inputs(given: Sequence[Path]) -> tuple[list[Input], list[str]]:
    """List the images of files and folders, in the given order; those of a folder by name.

    Args:
        given: Files, which are tried whatever their extension; npz files of arrays, whose images
            are named as in a data set (``FILE.npz#test/12``); and folders, which are searched
            recursively for images, or else for one such npz file.

    Returns:
        The images, each once, and remarks for the user.

    Raises:
        MedvisionError: If a path does not exist, or no image is found.
    """
    found: list[tuple[Path, PurePosixPath]] = []
    notes: list[str] = []
    errors: dict[Path, str] = {}
    for path in (path.expanduser() for path in given):
        if os.path.isdir(path):  # noqa: PTH112  False for a name that is too long
            refused: dict[str, str] = {}
            images, others = list_images(path, refused=refused)
            errors |= {path / image: reason for image, reason in refused.items()}
            images = sorted([*images, *refused])
            arrays = [] if images else list(filter(is_array_file, sorted(path.glob("*.npz"))))
            if len(arrays) == 1:
                found += _images_of(arrays[0])
                continue
            if not images:
                raise MedvisionError(
                    "no images in the folder",
                    where=str(path),
                    hint=f"files must be {FORMAT_NAMES}"
                    if not arrays
                    else f"name one of its files of arrays, such as {arrays[0]}",
                )
            if others:
                kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
                notes.append(f"other files in {path} were ignored: {kinds}")
            masks = set() if refused else masks_below(path).intersection(images)
            if masks:
                images = [image for image in images if image not in masks]
                notes.append(f"left out {counted(len(masks), 'mask')} in {path}: {min(masks)}, ...")
            below = PurePosixPath() if len(given) == 1 else PurePosixPath(path.resolve().name)
            found += [(path / image, below / image) for image in images]
        elif os.path.exists(path):  # noqa: PTH110
            try:
                is_array = path.suffix == ".npz" and is_array_file(path)
                found += _images_of(path) if is_array else [(path, PurePosixPath(path.name))]
            except MedvisionError as error:
                errors[path] = error.what
                found.append((path, PurePosixPath(path.name)))
        else:
            raise MedvisionError("no such file or folder", where=str(path), hint="check the path")
    once: dict[Path, tuple[Path, PurePosixPath]] = {}
    for path, name in found:
        once.setdefault(path.resolve(), (path, name))
    twice = len(found) - len(once)
    if twice:
        notes.append(f"ignored {counted(twice, 'repeated image')}")
    names = _distinct_names([name for _, name in once.values()])
    paths = (path for path, _ in once.values())
    inputs = [
        Input(path=path, name=name, error=errors.get(path))
        for path, name in zip(paths, names, strict=True)
    ]
    return inputs, notes


def _images_of(arrays: Path) -> list[tuple[Path, PurePosixPath]]:
    """Return path and name of the results of each image in a file of arrays."""
    return [
        (Path(f"{arrays}#{key}"), PurePosixPath(arrays.stem, key)) for key in array_keys(arrays)
    ]


def _distinct_names(paths: Iterable[PurePosixPath]) -> list[str]:
    """Create a unique name for each path: without extension, with it, or with a number appended.

    The names leave space for the extension of a result.
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        tries = (short_name(name, most=_MOST_BYTES) for name in _tries(path))
        name = next(name for name in tries if name.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _tries(path: PurePosixPath) -> Iterator[str]:
    yield str(path.with_suffix(""))
    yield str(path)
    number = 2
    while True:
        yield f"{path}_{number}"
        number += 1


def chunks(inputs: Sequence[Input], *, most: int) -> Iterator[list[Input]]:
    """Split the inputs into batches that fit into memory, reading image headers only.

    Args:
        inputs: Inputs in order.
        most: Largest number of images per batch.
    """
    chunk: list[Input] = []
    pixels = 0
    for given in inputs:
        own = _num_pixels(given.path)
        if chunk and (len(chunk) == most or pixels + own > MAX_PIXELS_AT_ONCE):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(given)
        pixels += own
    if chunk:
        yield chunk


def _num_pixels(path: Path) -> int:
    try:
        height, width = image_size(path)
    except MedvisionError:  # reported when the file is read
        return 0
    return height * width
