"""Read the mask of a sample: one file, several that are combined, and a field of view."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from medvision.data.readers.annotations import decode_annotation, is_annotation
from medvision.data.readers.decode import Picture, decode
from medvision.data.readers.masks import class_indices
from medvision.data.reading import Reading
from medvision.data.samples import masks_in
from medvision.errors import MedvisionError
from medvision.types import IGNORE_INDEX


def decode_target(
    contents: Sequence[bytes], target: str, reading: Reading, *, where: Callable[[str], str]
) -> tuple[NDArray[np.uint8], Picture | None]:
    """Return the class indices (H, W) of a sample, and its first mask file as decoded.

    The second is None for an annotation file.

    Several masks are combined by ``reading.mask_merge``: ``union`` takes the first class that is
    not background, ``majority`` the class that more than half of the masks agree on, otherwise the
    background. Pixels outside of the field of view become ``IGNORE_INDEX``.

    Args:
        contents: Content of each file of the target, in the order of `files_in`.
        target: Target of the sample.
        reading: Reading options, with a number of classes.
        where: Returns the name of a file in messages.

    Raises:
        MedvisionError: If a file cannot be read, or the sizes differ.
    """
    masks, view = masks_in(target)
    parts, pictures = [], []
    for name, content in zip(masks, contents, strict=False):  # the field of view follows
        part, picture = _decode_mask(content, reading, where(name))
        parts.append(part)
        pictures.append(picture)
    for part, name in zip(parts, masks, strict=True):
        _compare(part, parts[0], where(name), masks[0])
    indices = parts[0] if len(parts) == 1 else combined(parts, reading)
    if view is not None:
        name = where(view)
        inside = class_indices(decode(contents[-1], where=name), num_classes=2, color_map=None)
        _compare(inside, indices, name, masks[0])
        indices[inside == 0] = IGNORE_INDEX
    return indices, pictures[0]


def _decode_mask(
    content: bytes, reading: Reading, where: str
) -> tuple[NDArray[np.uint8], Picture | None]:
    assert reading.num_classes is not None, "read only where there are masks"
    if is_annotation(content):
        names, count = reading.class_names, reading.num_classes
        return decode_annotation(content, where=where, num_classes=count, class_names=names), None
    picture = decode(content, where=where)
    indices = class_indices(
        picture,
        num_classes=reading.num_classes,
        color_map=reading.color_map,
        ignore_index=reading.ignore_index,
        instances=reading.instances,
    )
    return indices, picture


def combined(parts: Sequence[NDArray[np.uint8]], reading: Reading) -> NDArray[np.uint8]:
    """Combine class indices (H, W) of several masks of one image, as `decode_target` does."""
    stack = np.stack(parts)
    if reading.mask_merge == "majority":
        merged = np.zeros_like(parts[0])
        for label in np.unique(stack).tolist():
            agreed = (stack == label).sum(axis=0) * 2 > len(parts)
            merged[agreed] = label
        return merged
    merged = parts[0].copy()
    for part in parts[1:]:
        new = (merged == 0) & (part != 0)
        merged[new] = part[new]
    return merged


def _compare(one: NDArray[np.uint8], other: NDArray[np.uint8], where: str, first: str) -> None:
    if one.shape != other.shape:
        raise MedvisionError(
            f"the mask is {one.shape[1]} x {one.shape[0]} pixels (width x height), {first} is"
            f" {other.shape[1]} x {other.shape[0]}",
            where=where,
            hint="give all masks of an image the same size",
        )
