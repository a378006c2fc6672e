"""Read and check every file of a data set once, before training starts."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from medvision.console import counted
from medvision.data.readers.annotations import container, read_content
from medvision.data.readers.decode import damage_named, decode, image_size
from medvision.data.readers.images import count_remarks
from medvision.data.readers.kinds import DICOM_SUFFIXES, IMAGE_SUFFIXES
from medvision.data.readers.masks import grey_share
from medvision.data.readers.targets import decode_target
from medvision.data.reading import Reading
from medvision.data.samples import Sample, SampleTable, StringColumn, count_names, files_in
from medvision.data.validation.properties import (
    ImageProperties,
    Inspected,
    MaskProperties,
    image_properties,
    mask_properties,
    row_of,
)
from medvision.data.validation.properties_cache import PropertiesCache
from medvision.errors import MedvisionError

_MAX_WORKERS = 8
_IN_PARTS, _PART = 10_000, 32  # large sets go to threads in parts: single tasks take 2 kB

OnError = Literal["fail", "skip"]


Faults = list[tuple[Sample, MedvisionError]]

Advance = Callable[[int, int], None]
"""Progress callback: completed samples, total samples."""


def _in_threads(
    inspect: Callable[[Sample], Inspected], samples: Sequence[Sample], advance: Advance | None
) -> list[Inspected]:
    """Apply a function in threads, as decoding releases the GIL."""
    pool = ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1))
    findings: list[Inspected] = []
    at_once = 1 if len(samples) < _IN_PARTS else _PART
    parts = [samples[start : start + at_once] for start in range(0, len(samples), at_once)]
    try:
        for found in pool.map(lambda part: [inspect(sample) for sample in part], parts):
            for finding in found:
                findings.append(finding)
                if advance is not None:
                    advance(len(findings), len(samples))
        return findings
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for pending samples


def _refuse(root: Path, faults: Faults, looked_at: int, total: int, on_error: OnError) -> None:
    """Raise one error for all faults if faults are errors or no sample is left.

    A fault of a config key is raised alone, because it does not concern the files.
    """
    of_config = next((f for _, f in faults if (f.where or "").startswith("data.")), None)
    if of_config:
        raise of_config
    if not faults or (on_error == "skip" and len(faults) < looked_at):
        return
    if len(faults) == 1:
        raise faults[0][1]
    reasons = [reason(root, fault) for _, fault in faults]
    hints = Counter(fault.hint for _, fault in faults)
    hint = "fix or remove them, or set data.on_error=skip"
    if len(hints) == 1 and len(faults) == looked_at:  # the cause is the config, not the files
        hint = next(iter(hints)) or hint
    of = f"{total} images"
    if looked_at < total:
        of = f"{looked_at} checked images (of {total})"
    raise MedvisionError(
        f"cannot use {len(faults)} of {of}: {count_names(reasons)}", where=str(root), hint=hint
    )


def reason(root: Path, fault: MedvisionError) -> str:
    """Return the file relative to the root, and its fault."""
    name = (fault.where or "").removeprefix(f"{root}{os.sep}")
    return f"{name}: {fault.what}"


def fingerprint(samples: SampleTable, contents: StringColumn) -> str:
    """Return the SHA-256 of the sorted lines (path, target and content) of the samples."""
    lines = _lines(samples, contents)
    digest = hashlib.sha256()
    for line in lines if samples.paths.ascends() else sorted(lines):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _lines(samples: SampleTable, contents: StringColumn) -> Iterator[str]:
    columns = zip(samples.paths, samples.targets, contents, strict=True)
    return (f"{path}\0{target}{content}" for path, target, content in columns)


def _skip_notes(root: Path, total: int, faults: Faults, *, with_class: bool) -> list[str]:
    """Report the number of omitted samples by split and class, with the reasons."""
    if not faults:
        return []
    with_split = any(sample.split for sample, _ in faults)
    by_place = Counter(
        ((f" in {s.split}" if s.split else " without a split") if with_split else "")
        + (f" of class {s.target}" if with_class else "")
        for s, _ in faults
    )
    places = ", ".join(f"{count}{name}" for name, count in sorted(by_place.items()))
    places = f" ({places})" if with_split or with_class else ""
    notes = [
        f"SKIPPED {len(faults)} of {total} images{places} because of data.on_error=skip:"
        f" {count_names([reason(root, fault) for _, fault in faults])}"
    ]
    held_out = sum(sample.split in ("val", "test") for sample, _ in faults)
    if held_out:
        notes.append(
            f"skipped {counted(held_out, 'image')} of the given val and test splits:"
            " scores are not comparable with those on the whole splits"
        )
    return notes


def _header_note(total: int, looked_at: int) -> str:
    """Report that no content was read, or that only few files were opened."""
    if looked_at == total:
        return (
            f"large data set of {total} images: only their headers were read before the start;"
            " the fingerprint covers file sizes, not contents, and near-duplicates were not"
            " searched; run `medvision audit` once: later starts use its results"
        )
    return (
        f"very large data set of {total} images: only the headers of {looked_at} random images were"
        " read before the start; a damaged file ends the run, with its name, when it is read"
        " (data.on_error=skip cannot skip it); the fingerprint covers names, and sizes of these"
        f" {looked_at} files only; near-duplicates were not searched; `medvision audit` reads all"
    )


def inspect_files(root: Path, sample: Sample, reading: Reading) -> Inspected:
    """Decode an image, and its mask if it has one, as `read_image` and `read_mask` do."""
    path, contents, mask = root / sample.path, [], None
    try:
        contents.append(read_content(root, sample.path))
        if reading.has_masks:
            contents += [read_content(root, name) for name in files_in(sample.target)]
        with damage_named(str(path)):
            picture = decode(contents[0], where=str(path))
            image = image_properties(picture, value_range=reading.value_range)
        if reading.num_classes is not None:
            first = str(root / files_in(sample.target)[0])
            with damage_named(first):
                indices, drawn = decode_target(
                    contents[1:], sample.target, reading, where=lambda name: str(root / name)
                )
                turned = drawn is not None and picture.orientation != drawn.orientation
                size = (image["height"], image["width"])
                compare_sizes(sample, size, indices.shape, first, turned=turned)
                grey = 0.0
                if drawn is not None and reading.num_classes == 2 and reading.color_map is None:
                    grey = grey_share(
                        drawn, ignore_index=reading.ignore_index, instances=reading.instances
                    )
                mask = mask_properties(indices, grey=grey, turned=turned)
    except MedvisionError as fault:
        return Inspected(fault=fault)
    hashes = (hashlib.sha256(content).hexdigest() for content in contents)
    return Inspected(content="\0".join(("", *hashes)), properties=row_of(image, mask))


def read_headers(root: Path, sample: Sample, reading: Reading) -> Inspected:
    """Read the header of an image, and of its mask if it has one."""
    names = files_in(sample.target) if reading.has_masks else []
    paths = [root / container(name) for name in (sample.path, *names)]
    pictures = [path for path in paths if path.suffix not in (".json", ".npz")]
    try:
        with damage_named(str(paths[0])):
            sizes_px = [image_size(path) for path in pictures]
            for size_px, path in zip(sizes_px[1:], pictures[1:], strict=True):
                compare_sizes(sample, sizes_px[0], size_px, str(path))
            sizes = [str(path.stat().st_size) for path in paths]
    except MedvisionError as fault:
        return Inspected(fault=fault)
    return Inspected(content="\0".join(("", *sizes)))


def compare_sizes(
    sample: Sample,
    image: tuple[int, ...],
    mask: tuple[int, ...],
    where: str,
    *,
    turned: bool = False,
) -> None:
    """Reject a mask whose height and width differ from those of its image.

    Args:
        sample: Sample of image and mask.
        image: Height and width of the image.
        mask: Height and width of the mask.
        where: Name of the mask in messages.
        turned: If True, the EXIF orientations of the two differ; for the message.

    Raises:
        MedvisionError: If the sizes differ.
    """
    if image != mask:
        raise MedvisionError(
            f"the mask is {mask[1]} x {mask[0]} pixels (width x height),"
            f" its image {sample.path} is {image[1]} x {image[0]}",
            where=where,
            hint="one of them is rotated by its EXIF orientation: rotate the other too"
            if turned
            else "give both the same size",
        )


MAX_DECODED = 20_000
"""Number of samples beyond which only headers are read at the start of a training."""

MAX_HEADERS = 100_000
"""Number of samples beyond which only ``NUM_SAMPLED`` headers are read: all of them would take more
than ten seconds from a warm cache, and an hour from a network disk with 30 ms latency."""

NUM_SAMPLED = 1000
"""Number of headers read of very many files. If one file in a hundred is faulty, all faults are
missed with probability 4e-5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """Result of the check.

    Attributes:
        samples: Usable samples in the given order.
        properties: File properties, one row per sample; None if only headers were read.
        skipped: Path and reason of each omitted sample.
        fingerprint: SHA-256 over the sorted paths and contents of the usable samples; over paths
            and file sizes if only headers were read, without the sizes of files whose headers were
            not read.
        contents: Part of each sample's fingerprint line after path and target; None for phantoms.
        notes: Remarks for the user.
    """

    samples: SampleTable
    properties: ImageProperties | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    fingerprint: str = ""
    contents: StringColumn | None = None
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Iterate over the lines of the fingerprint, one per sample; empty for phantoms."""
        return iter(()) if self.contents is None else _lines(self.samples, self.contents)


def check_files(
    root: Path,
    samples: Sequence[Sample],
    reading: Reading,
    *,
    on_error: OnError = "fail",
    max_decoded: int | None = MAX_DECODED,
    max_headers: int = MAX_HEADERS,
    advance: Advance | None = None,
) -> CheckResult:
    """Decode every image and mask of a data set, and compare the sizes of both.

    Unchanged files that were decoded at an earlier start are not decoded again.

    Args:
        root: The folder that paths are relative to.
        samples: Samples to check; their targets are masks or class names.
        reading: Reading options.
        on_error: ``fail`` raises one error for all faults; ``skip`` omits the samples with a note.
        max_decoded: For more samples, only headers are read, with a note, unless all are cached;
            None always decodes all.
        max_headers: For more samples, only ``NUM_SAMPLED`` headers are read, with a note.
        advance: Progress callback.

    Raises:
        MedvisionError: If a sample cannot be used and ``on_error`` is ``fail``, or if no sample, or
            none of a class, can be used.
    """
    if on_error not in ("fail", "skip"):
        raise MedvisionError(f"expected fail or skip, got {on_error}", where="data.on_error")
    table, cache = SampleTable.of(samples), PropertiesCache(root, reading)
    looked_at, known = _what_to_read(table, cache, max_decoded=max_decoded, max_headers=max_headers)

    def inspect(sample: Sample) -> Inspected:
        if known is None:
            return read_headers(root, sample, reading)
        return known.get(sample.path) or inspect_files(root, sample, reading)

    pairs = list(zip(looked_at, _in_threads(inspect, looked_at, advance), strict=True))
    faults = [(sample, found.fault) for sample, found in pairs if found.fault is not None]
    _refuse(root, faults, len(looked_at), len(table), on_error)
    usable = {sample.path: found for sample, found in pairs if found.fault is None}
    if faults:
        bad = {sample.path for sample, _ in faults}
        table = table.select(np.array([path not in bad for path in table.paths], bool))
    if not reading.has_masks:
        _refuse_lost_class(root, table, faults)
    notes = _skip_notes(root, len(samples), faults, with_class=not reading.has_masks)
    if known is None:
        notes.append(_header_note(len(samples), len(looked_at)))
    elif len(known) < len(looked_at):
        notes += cache.keep((sample, found) for sample, found in pairs if found.fault is None)
    rows = [found.properties for found in usable.values() if found.properties is not None]
    properties = None if known is None else ImageProperties.stack(rows)
    if properties is not None:
        said = (line for text in properties.remark for line in str(text).splitlines())
        notes += count_remarks(said, of=len(table))
        notes += _dicom_notes(table, properties)
    if properties is not None and properties.mask is not None:
        notes += _mask_notes(table, properties.mask)
    found_in = (usable[path].content if path in usable else "" for path in table.paths)
    contents = StringColumn.of(found_in)
    return CheckResult(
        samples=table,
        properties=properties,
        skipped=[(sample.path, reason(root, fault)) for sample, fault in faults],
        fingerprint=fingerprint(table, contents),
        contents=contents,
        notes=notes,
    )


def _what_to_read(
    samples: SampleTable, cache: PropertiesCache, *, max_decoded: int | None, max_headers: int
) -> tuple[list[Sample], dict[str, Inspected] | None]:
    """Return the samples to check and the cached properties by path; None: read headers."""
    drawn: list[Sample] = []
    if max_decoded is not None and len(samples) > max_headers:
        number = min(NUM_SAMPLED, len(samples))
        rows = np.random.default_rng(0).choice(len(samples), number, replace=False)
        drawn = list(samples.select(np.sort(rows)))  # the same samples at every start
        known = [cache.known(sample) is not None for sample in drawn]
        if sum(known) <= len(known) / 2:  # then looking up all of them cannot pay off
            return drawn, None
    every = list(samples)
    remembered = {s.path: found for s in every if (found := cache.known(s)) is not None}
    if max_decoded is None or len(every) - len(remembered) <= max_decoded:
        return every, remembered
    return drawn or every, None


def _refuse_lost_class(root: Path, usable: SampleTable, faults: Faults) -> None:
    lost = {sample.target for sample, _ in faults} - {*usable.targets.numbered()[0]}
    if lost:
        name = min(lost)
        reasons = [reason(root, fault) for sample, fault in faults if sample.target == name]
        raise MedvisionError(
            f"cannot use any image of the class {name}: {count_names(reasons)}",
            where=str(root),
            hint="fix the files, or remove the class",
        )


def _dicom_notes(samples: SampleTable, properties: ImageProperties) -> list[str]:
    """Report DICOM files under the extension of another format: their patients were not read."""
    named = (PurePosixPath(path).suffix.lower() for path in samples.paths)
    others = np.array([suffix in IMAGE_SUFFIXES - DICOM_SUFFIXES for suffix in named], bool)
    rows = np.flatnonzero((properties.file_format == "DICOM") & others)
    if not len(rows):
        return []
    names = count_names(list(samples.paths.select(rows)))
    return [
        f"{counted(len(rows), 'DICOM file')} named as another format: {names}; they were not"
        " grouped by patient: rename them to .dcm"
    ]


def _mask_notes(samples: SampleTable, masks: MaskProperties) -> list[str]:
    notes = []
    if not masks.foreground.any():
        notes.append(f"all {len(samples)} masks are empty: there is no foreground")
    turned = np.flatnonzero(masks.turned)
    if len(turned):
        names = count_names(list(samples.paths.select(turned)))
        notes.append(
            f"image and mask differ in EXIF orientation in {counted(len(turned), 'pair')}:"
            f" {names}; check that they overlap"
        )
    return notes
