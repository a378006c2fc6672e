"""Look at the files of one sample: wholly, or at their headers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from medvision.data.decode import decode, image_size, read_bytes
from medvision.data.examine import Finding
from medvision.data.facts import FileFacts, image_facts, mask_facts
from medvision.data.mask_values import class_indices
from medvision.data.sample import Sample
from medvision.types import MedvisionError


def look_at_pair(
    root: Path,
    sample: Sample,
    *,
    num_classes: int,
    color_map: Sequence[Sequence[int]] | None,
    value_range: tuple[float, float] | None,
) -> Finding:
    """Decode an image and its mask, as `read_image` and `read_mask` do."""
    image_path, mask_path = root / sample.path, root / sample.target
    try:
        image_bytes, mask_bytes = read_bytes(image_path), read_bytes(mask_path)
        whole = decode(image_bytes, where=str(image_path))
        image = image_facts(whole, value_range=value_range)
        picture = decode(mask_bytes, where=str(mask_path))
        indices = class_indices(picture, num_classes=num_classes, color_map=color_map)
        turned = whole.orientation != picture.orientation
        size = (image["height"], image["width"])
        compare_sizes(sample, size, indices.shape, mask_path, turned=turned)
        binary = num_classes == 2 and color_map is None
        mask = mask_facts(indices, picture, binary=binary, turned=turned)
    except MedvisionError as fault:
        return Finding(fault=fault)
    content = (hashlib.sha256(data).hexdigest() for data in (image_bytes, mask_bytes))
    line = "\0".join((sample.path, sample.target, *content))
    return Finding(line=line, facts=FileFacts(image, mask))


def glance_at_pair(root: Path, sample: Sample) -> Finding:
    """Read the headers of an image and its mask."""
    image_path, mask_path = root / sample.path, root / sample.target
    try:
        compare_sizes(sample, image_size(image_path), image_size(mask_path), mask_path)
    except MedvisionError as fault:
        return Finding(fault=fault)
    sizes = (str(path.stat().st_size) for path in (image_path, mask_path))
    return Finding(line="\0".join((sample.path, sample.target, *sizes)))


def look_at_image(
    root: Path, sample: Sample, *, value_range: tuple[float, float] | None
) -> Finding:
    """Decode an image, as `read_image` does."""
    path = root / sample.path
    try:
        data = read_bytes(path)
        facts = FileFacts(image_facts(decode(data, where=str(path)), value_range=value_range))
    except MedvisionError as fault:
        return Finding(fault=fault)
    line = "\0".join((sample.path, sample.target, hashlib.sha256(data).hexdigest()))
    return Finding(line=line, facts=facts)


def glance_at_image(root: Path, sample: Sample) -> Finding:
    """Read the header of an image."""
    path = root / sample.path
    try:
        image_size(path)
    except MedvisionError as fault:
        return Finding(fault=fault)
    return Finding(line="\0".join((sample.path, sample.target, str(path.stat().st_size))))


def compare_sizes(
    sample: Sample,
    image: tuple[int, ...],
    mask: tuple[int, ...],
    mask_path: Path,
    *,
    turned: bool = False,
) -> None:
    """Refuse a mask whose height and width are not those of its image.

    Args:
        sample: The pair.
        image: Height and width of the image.
        mask: Those of the mask.
        mask_path: For the message.
        turned: Whether one of the two is turned by an EXIF orientation, for the message.

    Raises:
        MedvisionError: If they differ.
    """
    if image != mask:
        raise MedvisionError(
            f"the mask is {mask[1]} x {mask[0]} pixels (width x height),"
            f" its image {sample.path} is {image[1]} x {image[0]}",
            where=str(mask_path),
            hint="one of them is turned by its EXIF orientation: turn the other too"
            if turned
            else "give both the same size",
        )
