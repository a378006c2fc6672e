"""Read and check every file of a data set once, before training starts."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from medvision.data.readers.decode import Picture, decode, image_size, read_bytes
from medvision.data.readers.masks import class_indices
from medvision.data.reading import Reading
from medvision.data.samples import Sample, SampleTable, count_names
from medvision.data.validation.properties import (
    FileProperties,
    ImageProperties,
    MaskProperties,
    image_properties,
    mask_properties,
)
from medvision.data.validation.properties_cache import PropertiesCache, Remembered
from medvision.errors import MedvisionError

_MAX_WORKERS = 8
_IN_PARTS, _PART = 10_000, 32  # of so many samples a thread takes a few at a time: 2 kB each else

OnError = Literal["fail", "skip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One sample: its line of the fingerprint and the properties of its files, or its fault."""

    line: str = ""
    properties: FileProperties | None = None
    fault: MedvisionError | None = None


Faults = list[tuple[Sample, MedvisionError]]
Scanned = tuple[list[tuple[Sample, Finding]], Faults]

Advance = Callable[[int, int], None]
"""Told how many of how many samples are done."""


def scan_files(
    root: Path,
    samples: Sequence[Sample],
    inspect: Callable[[Sample], Finding],
    *,
    on_error: OnError,
    advance: Advance | None = None,
    out_of: int | None = None,
) -> Scanned:
    """Return the usable samples with what was found, and the others with their faults.

    Args:
        root: The folder that paths are relative to.
        samples: What to inspect.
        inspect: Inspects one.
        on_error: Whether a fault is an error, or the sample left out.
        advance: Told of the progress.
        out_of: Size of the set that the samples were drawn from; None: they are all of it.

    Raises:
        MedvisionError: For all faults together where ``on_error`` is ``fail`` or no sample is
            usable, or for one that is about a config key.
    """
    if on_error not in ("fail", "skip"):
        raise MedvisionError(
            f"expected fail or skip, got {on_error}", where="data.on_error", hint="use one of them"
        )
    findings = _in_threads(inspect, samples, advance)
    faults = [(s, f.fault) for s, f in zip(samples, findings, strict=True) if f.fault]
    told = next((f for _, f in faults if (f.where or "").startswith("data.")), None)
    if told:  # about a config key, not about the files
        raise told
    if faults and (on_error == "fail" or len(faults) == len(samples)):
        raise _one_error(root, faults, len(samples), out_of)
    return [(s, f) for s, f in zip(samples, findings, strict=True) if not f.fault], faults


def _in_threads(
    inspect: Callable[[Sample], Finding],
    samples: Sequence[Sample],
    advance: Advance | None,
) -> list[Finding]:
    """Decoding releases the lock of the interpreter, so threads share the work."""
    workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    findings: list[Finding] = []
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
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest


def _one_error(root: Path, faults: Faults, total: int, out_of: int | None) -> MedvisionError:
    if len(faults) == 1:
        return faults[0][1]
    reasons = [reason(root, fault) for _, fault in faults]
    hints = Counter(fault.hint for _, fault in faults)
    hint = "mend or remove them, or set data.on_error=skip"
    if len(hints) == 1 and len(faults) == total:  # not the files: what was said about them
        hint = next(iter(hints)) or hint
    looked_at = f"{total}" if out_of is None else f"the {total} (of {out_of})"
    seen = "" if out_of is None else " that were looked at"
    return MedvisionError(
        f"{len(faults)} of {looked_at} images{seen} cannot be used: {count_names(reasons)}",
        where=str(root),
        hint=hint,
    )


def reason(root: Path, fault: MedvisionError) -> str:
    """Return the file below the root and what is wrong with it."""
    name = (fault.where or "").removeprefix(f"{root}{os.sep}")
    return f"{name}: {fault.what}"


def fingerprint(lines: Sequence[str]) -> str:
    """Return the SHA-256 of the sorted lines."""
    digest = hashlib.sha256()
    in_order = all(one <= other for one, other in pairwise(lines))
    for line in lines if in_order else sorted(lines):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


class NameLines(Sequence[str]):
    """The lines of a fingerprint that knows most files by name only, made when they are read.

    Args:
        samples: The usable ones.
        known: Lines of those whose headers were read, by path.
    """

    def __init__(self, samples: SampleTable, known: Mapping[str, str]) -> None:
        self._samples, self._known = samples, known

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> NameLines: ...
    def __getitem__(self, row: int | slice) -> str | NameLines:
        if isinstance(row, slice):
            return NameLines(self._samples[row], self._known)
        sample = self._samples[row]
        return self._known.get(sample.path) or f"{sample.path}\0{sample.target}"

    def __iter__(self) -> Iterator[str]:
        known = self._known
        for path, target in zip(self._samples.paths, self._samples.targets, strict=True):
            yield known.get(path) or f"{path}\0{target}"


def drawn_rows(total: int, number: int) -> list[int]:
    """Rows to look at of very many: the same ones for the same total, ascending."""
    drawn = np.random.default_rng(0).choice(total, min(number, total), replace=False)
    return sorted(drawn.tolist())


def skip_notes(
    root: Path,
    total: int,
    faults: Faults,
    *,
    with_class: bool,
) -> list[str]:
    """Say how many samples of which split, and of which class, are left out, and why."""
    if not faults:
        return []
    by_place = Counter(
        (s.split or "not yet split") + (f" {s.target}" if with_class else "") for s, _ in faults
    )
    places = ", ".join(f"{name} {count}" for name, count in sorted(by_place.items()))
    notes = [
        f"SKIPPED {len(faults)} of {total} images ({places}), as data.on_error=skip asks:"
        f" {count_names([reason(root, fault) for _, fault in faults])}"
    ]
    held_out = sum(sample.split in ("val", "test") for sample, _ in faults)
    if held_out:
        notes.append(
            f"{held_out} of the skipped images belong to the given val or test split:"
            " scores are not comparable with those on the whole split"
        )
    return notes


def header_note(total: int) -> str:
    """Say that no content was read."""
    return (
        f"{total} images are many: only their headers were read before the start;"
        " the fingerprint holds file sizes, not contents, and near-duplicates were not looked for;"
        " `medvision audit` reads them once, and later starts know what it found"
    )


def sample_note(total: int, number: int) -> str:
    """Say that hardly any file was opened."""
    return (
        f"{total} images are very many: the headers of {number} of them, drawn by chance, were read"
        " before the start; a broken file shows when it is read, which ends the run with its name"
        " (data.on_error=skip cannot leave it out); the fingerprint holds names, and sizes of the"
        f" {number} files only; near-duplicates were not looked for; `medvision audit` reads them"
        " all"
    )


def inspect_files(root: Path, sample: Sample, reading: Reading) -> Finding:
    """Decode an image, and its mask if it has one, as `read_image` and `read_mask` do."""
    path = root / sample.path
    contents, mask = [], None
    try:
        contents.append(read_bytes(path))
        if reading.has_masks:
            contents.append(read_bytes(root / sample.target))
        picture = decode(contents[0], where=str(path))
        image = image_properties(picture, value_range=reading.value_range)
        if reading.has_masks:
            mask = _inspect_mask(root / sample.target, contents[1], sample, picture, image, reading)
    except MedvisionError as fault:
        return Finding(fault=fault)
    hashes = (hashlib.sha256(content).hexdigest() for content in contents)
    line = "\0".join((sample.path, sample.target, *hashes))
    return Finding(line=line, properties=FileProperties(image, mask))


def _inspect_mask(
    path: Path,
    content: bytes,
    sample: Sample,
    picture: Picture,
    image: Mapping[str, Any],
    reading: Reading,
) -> dict[str, Any]:
    assert reading.num_classes is not None  # whoever calls has looked
    mask = decode(content, where=str(path))
    indices = class_indices(mask, num_classes=reading.num_classes, color_map=reading.color_map)
    turned = picture.orientation != mask.orientation
    size = (image["height"], image["width"])
    compare_sizes(sample, size, indices.shape, str(path), turned=turned)
    binary = reading.num_classes == 2 and reading.color_map is None
    return mask_properties(indices, mask, binary=binary, turned=turned)


def read_headers(root: Path, sample: Sample, reading: Reading) -> Finding:
    """Read the header of an image, and of its mask if it has one."""
    paths = [root / sample.path, *([root / sample.target] if reading.has_masks else [])]
    try:
        image, *masks = (image_size(path) for path in paths)
        for mask in masks:
            compare_sizes(sample, image, mask, str(paths[1]))
    except MedvisionError as fault:
        return Finding(fault=fault)
    sizes = (str(path.stat().st_size) for path in paths)
    return Finding(line="\0".join((sample.path, sample.target, *sizes)))


def compare_sizes(
    sample: Sample,
    image: tuple[int, ...],
    mask: tuple[int, ...],
    where: str,
    *,
    turned: bool = False,
) -> None:
    """Refuse a mask whose height and width are not those of its image.

    Args:
        sample: The pair.
        image: Height and width of the image.
        mask: Those of the mask.
        where: What messages call the mask.
        turned: Whether one of the two is turned by an EXIF orientation, for the message.

    Raises:
        MedvisionError: If they differ.
    """
    if image != mask:
        raise MedvisionError(
            f"the mask is {mask[1]} x {mask[0]} pixels (width x height),"
            f" its image {sample.path} is {image[1]} x {image[0]}",
            where=where,
            hint="one of them is turned by its EXIF orientation: turn the other too"
            if turned
            else "give both the same size",
        )


MAX_DECODED = 20_000
"""Of more samples only the headers are read at the start of a training."""

MAX_HEADERS = 100_000
"""Of more samples only ``NUM_SAMPLED`` headers are read: all of them would take more than ten
seconds from a warm cache, and an hour from a network disk that answers in 30 ms."""

NUM_SAMPLED = 1000
"""Headers that are read of very many files. Of a fault in one file of a hundred they miss all
with a chance of 4e-5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What the check found.

    Attributes:
        samples: Those that can be used, in the order given.
        properties: Of their files, a row for each; None where only headers were read.
        skipped: Path and reason of each sample left out.
        fingerprint: SHA-256 over the sorted paths and contents of the usable samples; over
            paths and file sizes where only headers were read, and without the sizes of those files
            whose headers were not.
        lines: What the fingerprint is made of, a line for each sample.
        notes: What a reader should know.
    """

    samples: SampleTable
    properties: ImageProperties | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    fingerprint: str = ""
    lines: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)


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

    What was decoded at an earlier start and has not changed since is not decoded again.

    Args:
        root: The folder that paths are relative to.
        samples: What to check; their targets are masks, or else names of classes.
        reading: How the files are read.
        on_error: ``fail`` raises one error for all faults; ``skip`` leaves the samples out
            and says so in the notes.
        max_decoded: For more samples only headers are read, unless all are known from earlier,
            and a note says so; None reads all whatever their number.
        max_headers: For more samples only ``NUM_SAMPLED`` headers are read, as a note says.
        advance: Told of the progress.

    Raises:
        MedvisionError: If a sample cannot be used and ``on_error`` is ``fail``, if none can, or
            if none of a class can.
    """
    table = SampleTable.of(samples)
    scan = partial(scan_files, root, on_error=on_error, advance=advance)
    found, faults = _scan(
        root, table, reading, scan, max_decoded=max_decoded, max_headers=max_headers
    )
    if not reading.has_masks:
        _refuse_lost_class(root, found.samples, faults)
    notes = skip_notes(root, len(table), faults, with_class=not reading.has_masks) + found.notes
    if found.properties is not None and found.properties.mask is not None:
        notes += _mask_notes(found.samples, found.properties.mask)
    return replace(
        found,
        skipped=[(sample.path, reason(root, fault)) for sample, fault in faults],
        fingerprint=fingerprint(found.lines),
        notes=notes,
    )


def _refuse_lost_class(root: Path, usable: SampleTable, faults: Faults) -> None:
    lost = {sample.target for sample, _ in faults} - {*usable.targets.numbered()[0]}
    if lost:
        name = min(lost)
        reasons = [reason(root, fault) for sample, fault in faults if sample.target == name]
        raise MedvisionError(
            f"no image of the class {name} can be used: {count_names(reasons)}",
            where=str(root),
            hint="mend the files, or remove the class",
        )


def _mask_notes(samples: SampleTable, masks: MaskProperties) -> list[str]:
    notes = []
    if not masks.foreground.any():
        notes.append(
            f"all {len(samples)} masks are empty: there is no foreground to learn or to find"
        )
    turned = np.flatnonzero(masks.turned)
    if len(turned):
        names = count_names(list(samples.paths.select(turned)))
        which = (
            "1 image is turned by an EXIF orientation that its mask has not"
            if len(turned) == 1
            else f"{len(turned)} images are turned by an EXIF orientation that their masks have not"
        )
        notes.append(f"{which}: {names}; look whether they lie over each other")
    return notes


def _scan(
    root: Path,
    samples: SampleTable,
    reading: Reading,
    scan: Callable[..., Scanned],
    *,
    max_decoded: int | None,
    max_headers: int,
) -> tuple[CheckResult, Faults]:
    """Take what is known from earlier, and decode the rest; of many files, read headers only."""
    cache = PropertiesCache(root, reading)
    chosen = None
    if max_decoded is not None and len(samples) > max_headers:
        chosen = drawn_rows(len(samples), NUM_SAMPLED)
        known = [cache.known(samples[row]) is not None for row in chosen]
        if sum(known) <= len(known) / 2:  # then it cannot pay to ask about all of them
            return _scan_sample(root, samples, chosen, reading, scan)
    rows = list(samples)  # keep references: what is known about each is keyed by id()
    remembered = {id(s): found for s in rows if (found := cache.known(s)) is not None}
    decode_all = max_decoded is None or len(rows) - len(remembered) <= max_decoded
    if not decode_all and chosen is not None:
        return _scan_sample(root, samples, chosen, reading, scan)

    def find(sample: Sample) -> Finding:
        if not decode_all:
            return read_headers(root, sample, reading)
        known = remembered.get(id(sample))
        if known is not None:
            return Finding(line=known.line, properties=known.properties)
        return inspect_files(root, sample, reading)

    usable, faults = scan(rows, find)
    notes = [] if decode_all else [header_note(len(rows))]
    if decode_all and len(remembered) < len(rows):
        cache.keep(
            (sample, Remembered(found.line, found.properties))
            for sample, found in usable
            if found.properties is not None
        )
    if decode_all and cache.note is not None:
        notes = [cache.note]
    properties = [found.properties for _, found in usable if found.properties is not None]
    result = CheckResult(
        samples=SampleTable.of(sample for sample, _ in usable),
        properties=ImageProperties.stack(properties) if len(properties) == len(usable) else None,
        lines=[finding.line for _, finding in usable],
        notes=notes,
    )
    return result, faults


def _scan_sample(
    root: Path,
    samples: SampleTable,
    rows: Sequence[int],
    reading: Reading,
    scan: Callable[..., Scanned],
) -> tuple[CheckResult, Faults]:
    """Read the headers of some rows of very many, and trust the names of the others."""
    usable, faults = scan(
        [samples[row] for row in rows],
        lambda sample: read_headers(root, sample, reading),
        out_of=len(samples),
    )
    kept = samples
    if faults:
        bad = {sample.path for sample, _ in faults}
        kept = samples.select(np.array([path not in bad for path in samples.paths], bool))
    lines = NameLines(kept, {sample.path: finding.line for sample, finding in usable})
    notes = [sample_note(len(samples), len(rows))]
    return CheckResult(samples=kept, lines=lines, notes=notes), faults
