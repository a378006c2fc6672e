"""Read every file once before training, so that no fault waits for the tenth epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from medvision.data.decode import decode, image_size, read_bytes
from medvision.data.examine import (
    Finding,
    examine,
    fingerprint,
    header_note,
    reason,
    skip_notes,
)
from medvision.data.facts import Facts, FileFacts, image_facts, mask_facts
from medvision.data.facts_cache import FactsCache, Remembered
from medvision.data.mask_values import class_indices
from medvision.data.sample import Sample, count_names
from medvision.types import MedvisionError

MAX_DECODED = 20_000
"""Of more samples only the headers are read at the start of a training."""

Advance = Callable[[int, int], None]
"""Told how many of how many samples are done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What the check found.

    Attributes:
        samples: Those that can be used, in the order given.
        facts: What their files tell, a row for each; None where only headers were read.
        skipped: Path and reason of each sample left out.
        fingerprint: SHA-256 over the sorted paths and contents of the usable samples; over
            paths and file sizes where only headers were read.
        lines: What the fingerprint is made of, a line for each sample.
        notes: What a reader should know.
    """

    samples: list[Sample]
    facts: Facts | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    fingerprint: str = ""
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_segmentation(
    root: Path,
    samples: Sequence[Sample],
    *,
    num_classes: int,
    color_map: Sequence[Sequence[int]] | None = None,
    value_range: tuple[float, float] | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    max_decoded: int | None = MAX_DECODED,
    advance: Advance | None = None,
) -> CheckResult:
    """Decode every image and mask, and compare their sizes.

    What was decoded at an earlier start and has not changed since is not decoded again.

    Args:
        root: The folder that paths are relative to.
        samples: What to check.
        num_classes: As for `read_mask`.
        color_map: As for `read_mask`.
        value_range: As for `read_image`.
        on_error: ``fail`` raises one error for all faults; ``skip`` leaves the samples out
            and says so in the notes.
        max_decoded: For more samples only headers are read, unless all are known from earlier,
            and a note says so; None reads all whatever their number.
        advance: Told of the progress.

    Raises:
        MedvisionError: If a sample cannot be used and ``on_error`` is ``fail``, or if none can.
    """
    colours = None if color_map is None else [tuple(colour) for colour in color_map]
    cache = FactsCache(root, masks=num_classes, color_map=colours, value_range=value_range)
    look = partial(
        _pair,
        root,
        num_classes=num_classes,
        color_map=color_map,
        value_range=value_range,
    )
    usable, faults, notes = _examine(
        root, samples, cache, look, partial(_pair_header, root), on_error, max_decoded, advance
    )
    notes = skip_notes(root, len(samples), faults, lambda s: s.split or "not yet split") + notes
    result = _result(root, usable, faults, notes)
    if result.facts is not None and result.facts.mask is not None:
        empty = int((result.facts.mask.foreground == 0).sum())
        if empty == len(usable):
            result.notes.append(
                f"all {empty} masks are empty: there is no foreground to learn or to find"
            )
    return result


def check_images(
    root: Path,
    samples: Sequence[Sample],
    *,
    value_range: tuple[float, float] | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    max_decoded: int | None = MAX_DECODED,
    advance: Advance | None = None,
) -> CheckResult:
    """Decode every image of a classification set.

    Args:
        root: The folder that paths are relative to.
        samples: What to check; their targets are names of classes.
        value_range: As for `read_image`.
        on_error: As for `check_segmentation`.
        max_decoded: As for `check_segmentation`.
        advance: As for `check_segmentation`.

    Raises:
        MedvisionError: If an image cannot be used and ``on_error`` is ``fail``, or if a class
            has none that can.
    """
    cache = FactsCache(root, value_range=value_range)
    look = partial(_image, root, value_range=value_range)
    usable, faults, notes = _examine(
        root, samples, cache, look, partial(_image_header, root), on_error, max_decoded, advance
    )
    lost = {sample.target for sample, _ in faults} - {sample.target for sample, _ in usable}
    if lost:
        name = min(lost)
        reasons = [reason(root, fault) for sample, fault in faults if sample.target == name]
        raise MedvisionError(
            f"no image of the class {name} can be used: {count_names(reasons)}",
            where=str(root),
            hint="mend the files, or remove the class",
        )
    place = skip_notes(
        root, len(samples), faults, lambda s: f"{s.split or 'not yet split'} {s.target}"
    )
    return _result(root, usable, faults, place + notes)


def _examine(
    root: Path,
    samples: Sequence[Sample],
    cache: FactsCache,
    look: Callable[[Sample], Finding],
    glance: Callable[[Sample], Finding],
    on_error: Literal["fail", "skip"],
    max_decoded: int | None,
    advance: Advance | None,
) -> tuple[list[tuple[Sample, Finding]], list[tuple[Sample, MedvisionError]], list[str]]:
    """Take what is known from earlier, look at the rest, or only glance at it where it is much."""
    known = [cache.known(sample) for sample in samples]
    num_new = sum(row is None for row in known)
    decode_all = max_decoded is None or num_new <= max_decoded
    remembered = {
        id(sample): Finding(line=row.line, facts=row.facts)
        for sample, row in zip(samples, known, strict=True)
        if row is not None and decode_all
    }

    def find(sample: Sample) -> Finding:
        return remembered.get(id(sample)) or (look if decode_all else glance)(sample)

    usable, faults = examine(root, samples, find, on_error, advance=advance)
    if not decode_all:
        return usable, faults, [header_note(len(samples))]
    if num_new:
        cache.keep(
            (sample, Remembered(found.line, found.facts))
            for sample, found in usable
            if found.facts is not None
        )
    return usable, faults, [] if cache.note is None else [cache.note]


def _result(
    root: Path,
    usable: list[tuple[Sample, Finding]],
    faults: list[tuple[Sample, MedvisionError]],
    notes: list[str],
) -> CheckResult:
    rows = [finding.facts for _, finding in usable if finding.facts is not None]
    lines = [finding.line for _, finding in usable]
    return CheckResult(
        samples=[sample for sample, _ in usable],
        facts=Facts.stack(rows) if len(rows) == len(usable) else None,
        skipped=[(sample.path, reason(root, fault)) for sample, fault in faults],
        fingerprint=fingerprint(lines),
        lines=lines,
        notes=notes,
    )


def _pair(
    root: Path,
    sample: Sample,
    *,
    num_classes: int,
    color_map: Sequence[Sequence[int]] | None,
    value_range: tuple[float, float] | None,
) -> Finding:
    image_path, mask_path = root / sample.path, root / sample.target
    try:
        image_bytes, mask_bytes = read_bytes(image_path), read_bytes(mask_path)
        image = image_facts(decode(image_bytes, where=str(image_path)), value_range=value_range)
        picture = decode(mask_bytes, where=str(mask_path))
        indices = class_indices(picture, num_classes=num_classes, color_map=color_map)
        _compare(sample, (image["height"], image["width"]), indices.shape, mask_path)
        mask = mask_facts(indices, picture, binary=num_classes == 2 and color_map is None)
    except MedvisionError as fault:
        return Finding(fault=fault)
    content = (hashlib.sha256(data).hexdigest() for data in (image_bytes, mask_bytes))
    line = "\0".join((sample.path, sample.target, *content))
    return Finding(line=line, facts=FileFacts(image, mask))


def _pair_header(root: Path, sample: Sample) -> Finding:
    image_path, mask_path = root / sample.path, root / sample.target
    try:
        _compare(sample, image_size(image_path), image_size(mask_path), mask_path)
    except MedvisionError as fault:
        return Finding(fault=fault)
    sizes = (str(path.stat().st_size) for path in (image_path, mask_path))
    return Finding(line="\0".join((sample.path, sample.target, *sizes)))


def _image(root: Path, sample: Sample, *, value_range: tuple[float, float] | None) -> Finding:
    path = root / sample.path
    try:
        data = read_bytes(path)
        facts = FileFacts(image_facts(decode(data, where=str(path)), value_range=value_range))
    except MedvisionError as fault:
        return Finding(fault=fault)
    line = "\0".join((sample.path, sample.target, hashlib.sha256(data).hexdigest()))
    return Finding(line=line, facts=facts)


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
