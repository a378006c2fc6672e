"""Read every file once before training, so that no fault waits for the tenth epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.decode import image_size, read_bytes
from medvision.data.examine import (
    Finding,
    examine,
    fingerprint,
    header_note,
    reason,
    skip_notes,
)
from medvision.data.image_io import decode_image, decode_mask
from medvision.data.sample import Sample, count_names
from medvision.types import MedvisionError


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What the check found.

    Attributes:
        samples: Those that can be used, in the order given.
        foreground: For each of them, the share of its mask's pixels that are not background,
            in [0, 1]; None where only headers were read. Empty for images without masks.
        skipped: Path and reason of each sample left out.
        empty_masks: How many of the masks read have no foreground.
        fingerprint: SHA-256 over the sorted paths and contents of the usable samples; over
            paths and file sizes where only headers were read.
        notes: What a reader should know.
        thumbnails: Of `check_images`: uint8 (N, t, t), grey, shrunk by averaging (OpenCV's
            ``INTER_AREA``); None where they were not asked for.
        pixel_hashes: Of `check_images`: SHA-256 over the shape and the decoded pixels of each
            image; empty where only headers were read.
    """

    samples: list[Sample]
    foreground: list[float | None] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    empty_masks: int = 0
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)
    thumbnails: NDArray[np.uint8] | None = None
    pixel_hashes: list[str] = field(default_factory=list)


def check_segmentation(
    root: Path,
    samples: Sequence[Sample],
    *,
    channels: int,
    num_classes: int,
    color_map: Sequence[tuple[int, int, int]] | None = None,
    value_range: tuple[float, float] | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    max_decoded: int = 20_000,
) -> CheckResult:
    """Decode every image and mask, and compare their sizes.

    Args:
        root: The folder that paths are relative to.
        samples: What to check.
        channels: As for `read_image`.
        num_classes: As for `read_mask`.
        color_map: As for `read_mask`.
        value_range: As for `read_image`.
        on_error: ``fail`` raises one error for all faults; ``skip`` leaves the samples out
            and says so in the notes.
        max_decoded: For more samples only headers are read, and a note says so.

    Raises:
        MedvisionError: If a sample cannot be used and ``on_error`` is ``fail``, or if none can.
    """
    decode_all = len(samples) <= max_decoded
    look: Callable[[Sample], Finding] = partial(_header, root)
    if decode_all:
        look = partial(
            _content,
            root,
            channels=channels,
            num_classes=num_classes,
            color_map=color_map,
            value_range=value_range,
        )
    usable, faults = examine(root, samples, look, on_error)
    empty = sum(finding.foreground == 0 for _, finding in usable)
    notes = skip_notes(root, len(samples), faults, lambda s: s.split or "not yet split")
    if not decode_all:
        notes.append(header_note(len(samples)))
    elif empty and empty == len(usable):
        notes.append(f"all {empty} masks are empty: there is no foreground to learn or to find")
    return CheckResult(
        samples=[sample for sample, _ in usable],
        foreground=[finding.foreground for _, finding in usable],
        skipped=[(sample.path, reason(root, fault)) for sample, fault in faults],
        empty_masks=empty,
        fingerprint=fingerprint(finding.line for _, finding in usable),
        notes=notes,
    )


def check_images(
    root: Path,
    samples: Sequence[Sample],
    *,
    channels: int,
    value_range: tuple[float, float] | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    max_decoded: int = 20_000,
    thumbnail_px: int | None = None,
) -> CheckResult:
    """Decode every image of a classification set.

    Args:
        root: The folder that paths are relative to.
        samples: What to check; their targets are names of classes.
        channels: As for `read_image`.
        value_range: As for `read_image`.
        on_error: As for `check_segmentation`.
        max_decoded: For more samples only headers are read, and a note says so, unless
            thumbnails are asked for.
        thumbnail_px: Height and width of the thumbnails, or None for none.

    Raises:
        MedvisionError: If an image cannot be used and ``on_error`` is ``fail``, or if a class
            has none that can.
    """
    decode_all = thumbnail_px is not None or len(samples) <= max_decoded
    look: Callable[[Sample], Finding] = partial(_image_header, root)
    if decode_all:
        look = partial(
            _image_content,
            root,
            channels=channels,
            value_range=value_range,
            thumbnail_px=thumbnail_px,
        )
    usable, faults = examine(root, samples, look, on_error)
    lost = {sample.target for sample, _ in faults} - {sample.target for sample, _ in usable}
    if lost:
        name = min(lost)
        reasons = [reason(root, fault) for sample, fault in faults if sample.target == name]
        raise MedvisionError(
            f"no image of the class {name} can be used: {count_names(reasons)}",
            where=str(root),
            hint="mend the files, or remove the class",
        )
    findings = [finding for _, finding in usable]
    thumbnails = [f.thumbnail for f in findings if f.thumbnail is not None]
    notes = skip_notes(
        root, len(samples), faults, lambda s: f"{s.split or 'not yet split'} {s.target}"
    )
    return CheckResult(
        samples=[sample for sample, _ in usable],
        skipped=[(sample.path, reason(root, fault)) for sample, fault in faults],
        fingerprint=fingerprint(finding.line for finding in findings),
        notes=notes if decode_all else [*notes, header_note(len(samples))],
        thumbnails=np.stack(thumbnails) if thumbnails else None,
        pixel_hashes=[finding.pixel_hash for finding in findings] if decode_all else [],
    )


def _content(
    root: Path,
    sample: Sample,
    *,
    channels: int,
    num_classes: int,
    color_map: Sequence[tuple[int, int, int]] | None,
    value_range: tuple[float, float] | None,
) -> Finding:
    image_path, mask_path = root / sample.path, root / sample.target
    try:
        image_bytes, mask_bytes = read_bytes(image_path), read_bytes(mask_path)
        image = decode_image(
            image_bytes, where=str(image_path), channels=channels, value_range=value_range
        )
        mask = decode_mask(
            mask_bytes, where=str(mask_path), num_classes=num_classes, color_map=color_map
        )
        _compare(sample, image.shape[:2], mask.shape, mask_path)
    except MedvisionError as fault:
        return Finding(fault=fault)
    content = (hashlib.sha256(data).hexdigest() for data in (image_bytes, mask_bytes))
    return Finding(
        line="\0".join((sample.path, sample.target, *content)),
        foreground=np.count_nonzero(mask) / mask.size,
    )


def _header(root: Path, sample: Sample) -> Finding:
    image_path, mask_path = root / sample.path, root / sample.target
    try:
        _compare(sample, image_size(image_path), image_size(mask_path), mask_path)
    except MedvisionError as fault:
        return Finding(fault=fault)
    sizes = (str(path.stat().st_size) for path in (image_path, mask_path))
    return Finding(line="\0".join((sample.path, sample.target, *sizes)))


def _image_content(
    root: Path,
    sample: Sample,
    *,
    channels: int,
    value_range: tuple[float, float] | None,
    thumbnail_px: int | None,
) -> Finding:
    path = root / sample.path
    try:
        data = read_bytes(path)
        image = decode_image(data, where=str(path), channels=channels, value_range=value_range)
    except MedvisionError as fault:
        return Finding(fault=fault)
    pixels = hashlib.sha256(f"{image.shape}".encode())
    pixels.update(image.data)
    thumbnail = None
    if thumbnail_px is not None:
        grey = image[..., 0] if channels == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        size = (thumbnail_px, thumbnail_px)
        thumbnail = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Finding(
        line="\0".join((sample.path, sample.target, hashlib.sha256(data).hexdigest())),
        pixel_hash=pixels.hexdigest(),
        thumbnail=thumbnail,
    )


def _image_header(root: Path, sample: Sample) -> Finding:
    path = root / sample.path
    try:
        image_size(path)
    except MedvisionError as fault:
        return Finding(fault=fault)
    return Finding(line="\0".join((sample.path, sample.target, str(path.stat().st_size))))


def _compare(
    sample: Sample, image: tuple[int, ...], mask: tuple[int, ...], mask_path: Path
) -> None:
    if image != mask:
        raise MedvisionError(
            f"the mask is {mask[1]} x {mask[0]} pixels (width x height),"
            f" its image {sample.path} is {image[1]} x {image[0]}",
            where=str(mask_path),
            hint="give both the same size",
        )
