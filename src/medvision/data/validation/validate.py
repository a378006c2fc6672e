"""Read and check every file of a data set once, before training starts."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal, overload

import numpy as np

from medvision.data.readers.decode import decode, image_size, read_bytes
from medvision.data.readers.masks import class_indices
from medvision.data.samples import Sample, SampleTable, count_names
from medvision.data.validation.properties import (
    FileProperties,
    ImageProperties,
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
    """One sample: its line of the fingerprint and what its files tell, or its fault."""

    line: str = ""
    facts: FileProperties | None = None
    fault: MedvisionError | None = None


def examine(
    root: Path,
    samples: Sequence[Sample],
    look: Callable[[Sample], Finding],
    on_error: OnError,
    *,
    advance: Callable[[int, int], None] | None = None,
    out_of: int | None = None,
) -> tuple[list[tuple[Sample, Finding]], list[tuple[Sample, MedvisionError]]]:
    """Return the usable samples with what was found, and the others with their faults.

    Args:
        root: The folder that paths are relative to.
        samples: What to look at.
        look: Looks at one.
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
    findings = _in_threads(look, samples, advance)
    faults = [(s, f.fault) for s, f in zip(samples, findings, strict=True) if f.fault]
    told = next((f for _, f in faults if (f.where or "").startswith("data.")), None)
    if told:  # about a config key, not about the files
        raise told
    if faults and (on_error == "fail" or len(faults) == len(samples)):
        raise _one_error(root, faults, len(samples), out_of)
    return [(s, f) for s, f in zip(samples, findings, strict=True) if not f.fault], faults


def _in_threads(
    look: Callable[[Sample], Finding],
    samples: Sequence[Sample],
    advance: Callable[[int, int], None] | None,
) -> list[Finding]:
    """Decoding releases the lock of the interpreter, so threads share the work."""
    workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    findings: list[Finding] = []
    at_once = 1 if len(samples) < _IN_PARTS else _PART
    parts = [samples[start : start + at_once] for start in range(0, len(samples), at_once)]
    try:
        for found in pool.map(lambda part: [look(sample) for sample in part], parts):
            for finding in found:
                findings.append(finding)
                if advance is not None:
                    advance(len(findings), len(samples))
        return findings
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest


def _one_error(
    root: Path, faults: list[tuple[Sample, MedvisionError]], total: int, out_of: int | None
) -> MedvisionError:
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
    faults: list[tuple[Sample, MedvisionError]],
    place: Callable[[Sample], str],
) -> list[str]:
    """Say how many samples of which place are left out, and why."""
    if not faults:
        return []
    by_place = Counter(place(sample) for sample, _ in faults)
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
        image = image_properties(whole, value_range=value_range)
        picture = decode(mask_bytes, where=str(mask_path))
        indices = class_indices(picture, num_classes=num_classes, color_map=color_map)
        turned = whole.orientation != picture.orientation
        size = (image["height"], image["width"])
        compare_sizes(sample, size, indices.shape, mask_path, turned=turned)
        binary = num_classes == 2 and color_map is None
        mask = mask_properties(indices, picture, binary=binary, turned=turned)
    except MedvisionError as fault:
        return Finding(fault=fault)
    content = (hashlib.sha256(data).hexdigest() for data in (image_bytes, mask_bytes))
    line = "\0".join((sample.path, sample.target, *content))
    return Finding(line=line, facts=FileProperties(image, mask))


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
        facts = FileProperties(
            image_properties(decode(data, where=str(path)), value_range=value_range)
        )
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


MAX_DECODED = 20_000
"""Of more samples only the headers are read at the start of a training."""

MAX_HEADERS = 100_000
"""Of more samples only ``NUM_SAMPLED`` headers are read: all of them would take more than ten
seconds from a warm cache, and an hour from a network disk that answers in 30 ms."""

NUM_SAMPLED = 1000
"""Headers that are read of very many files. Of a fault in one file of a hundred they miss all
with a chance of 4e-5."""

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
            paths and file sizes where only headers were read, and without the sizes of those files
            whose headers were not.
        lines: What the fingerprint is made of, a line for each sample.
        notes: What a reader should know.
    """

    samples: SampleTable
    facts: ImageProperties | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    fingerprint: str = ""
    lines: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)


def check_segmentation(
    root: Path,
    samples: Sequence[Sample],
    *,
    num_classes: int,
    color_map: Sequence[Sequence[int]] | None = None,
    value_range: tuple[float, float] | None = None,
    on_error: OnError = "fail",
    max_decoded: int | None = MAX_DECODED,
    max_headers: int = MAX_HEADERS,
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
        max_headers: For more samples only ``NUM_SAMPLED`` headers are read, as a note says.
        advance: Told of the progress.

    Raises:
        MedvisionError: If a sample cannot be used and ``on_error`` is ``fail``, or if none can.
    """
    colours = None if color_map is None else [tuple(colour) for colour in color_map]
    cache = PropertiesCache(root, masks=num_classes, color_map=colours, value_range=value_range)
    look = partial(
        look_at_pair,
        root,
        num_classes=num_classes,
        color_map=color_map,
        value_range=value_range,
    )
    glance = partial(glance_at_pair, root)
    limits = (max_decoded, max_headers)
    found = _examine(root, samples, cache, look, glance, on_error, limits, advance)
    skips = skip_notes(root, len(samples), found.faults, lambda s: s.split or "not yet split")
    result = found.result(root, skips)
    if result.facts is not None and result.facts.mask is not None:
        empty = int((result.facts.mask.foreground == 0).sum())
        if empty == len(result.samples):
            result.notes.append(
                f"all {empty} masks are empty: there is no foreground to learn or to find"
            )
        turned = np.flatnonzero(result.facts.mask.turned).tolist()
        if turned:
            names = count_names([result.samples[row].path for row in turned])
            which = (
                "1 image is turned by an EXIF orientation that its mask has not"
                if len(turned) == 1
                else f"{len(turned)} images are turned by an EXIF orientation that their masks"
                " have not"
            )
            result.notes.append(f"{which}: {names}; look whether they lie over each other")
    return result


def check_images(
    root: Path,
    samples: Sequence[Sample],
    *,
    value_range: tuple[float, float] | None = None,
    on_error: OnError = "fail",
    max_decoded: int | None = MAX_DECODED,
    max_headers: int = MAX_HEADERS,
    advance: Advance | None = None,
) -> CheckResult:
    """Decode every image of a classification set.

    Args:
        root: The folder that paths are relative to.
        samples: What to check; their targets are names of classes.
        value_range: As for `read_image`.
        on_error: As for `check_segmentation`.
        max_decoded: As for `check_segmentation`.
        max_headers: As for `check_segmentation`.
        advance: As for `check_segmentation`.

    Raises:
        MedvisionError: If an image cannot be used and ``on_error`` is ``fail``, or if a class
            has none that can.
    """
    cache = PropertiesCache(root, value_range=value_range)
    look = partial(look_at_image, root, value_range=value_range)
    glance, limits = partial(glance_at_image, root), (max_decoded, max_headers)
    found = _examine(root, samples, cache, look, glance, on_error, limits, advance)
    lost = {sample.target for sample, _ in found.faults} - {*found.usable.targets.numbered()[0]}
    if lost:
        name = min(lost)
        reasons = [reason(root, fault) for sample, fault in found.faults if sample.target == name]
        raise MedvisionError(
            f"no image of the class {name} can be used: {count_names(reasons)}",
            where=str(root),
            hint="mend the files, or remove the class",
        )
    skips = skip_notes(
        root, len(samples), found.faults, lambda s: f"{s.split or 'not yet split'} {s.target}"
    )
    return found.result(root, skips)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What `CheckResult` holds, with the faults that are still to be told."""

    usable: SampleTable
    facts: ImageProperties | None
    lines: Sequence[str]
    faults: list[tuple[Sample, MedvisionError]]
    notes: list[str]

    def result(self, root: Path, notes: list[str]) -> CheckResult:
        return CheckResult(
            samples=self.usable,
            facts=self.facts,
            skipped=[(sample.path, reason(root, fault)) for sample, fault in self.faults],
            fingerprint=fingerprint(self.lines),
            lines=self.lines,
            notes=notes + self.notes,
        )


def _examine(
    root: Path,
    samples: Sequence[Sample],
    cache: PropertiesCache,
    look: Callable[[Sample], Finding],
    glance: Callable[[Sample], Finding],
    on_error: OnError,
    limits: tuple[int | None, int],
    advance: Advance | None,
) -> _Found:
    """Take what is known from earlier, look at the rest, or only glance at it where it is much."""
    max_decoded, max_headers = limits
    table = SampleTable.of(samples)
    chosen = None
    if max_decoded is not None and len(table) > max_headers:
        chosen = drawn_rows(len(table), NUM_SAMPLED)
        known = [cache.known(table[row]) is not None for row in chosen]
        if sum(known) <= len(known) / 2:  # then it cannot pay to ask about all of them
            return _sampled(root, table, chosen, glance, on_error, advance)
    rows = list(table)  # objects that last: what is known about each goes by its identity
    remembered = {id(s): Finding(line=r.line, facts=r.facts) for s in rows if (r := cache.known(s))}
    decode_all = max_decoded is None or len(rows) - len(remembered) <= max_decoded
    if not decode_all and chosen is not None:
        return _sampled(root, table, chosen, glance, on_error, advance)

    def find(sample: Sample) -> Finding:
        return (decode_all and remembered.get(id(sample))) or (look if decode_all else glance)(
            sample
        )

    usable, faults = examine(root, rows, find, on_error, advance=advance)
    notes = [] if decode_all else [header_note(len(rows))]
    if decode_all and len(remembered) < len(rows):
        cache.keep(
            (sample, Remembered(found.line, found.facts))
            for sample, found in usable
            if found.facts is not None
        )
    if decode_all and cache.note is not None:
        notes = [cache.note]
    facts = [finding.facts for _, finding in usable if finding.facts is not None]
    return _Found(
        usable=SampleTable.of(sample for sample, _ in usable),
        facts=ImageProperties.stack(facts) if len(facts) == len(usable) else None,
        lines=[finding.line for _, finding in usable],
        faults=faults,
        notes=notes,
    )


def _sampled(
    root: Path,
    samples: SampleTable,
    rows: Sequence[int],
    glance: Callable[[Sample], Finding],
    on_error: OnError,
    advance: Advance | None,
) -> _Found:
    """Glance at some rows of very many, and believe the names of the others."""
    looked_at = [samples[row] for row in rows]
    usable, faults = examine(
        root, looked_at, glance, on_error, advance=advance, out_of=len(samples)
    )
    kept = samples
    if faults:
        bad = {sample.path for sample, _ in faults}
        kept = samples.select(np.array([path not in bad for path in samples.paths], bool))
    return _Found(
        usable=kept,
        facts=None,
        lines=NameLines(kept, {sample.path: finding.line for sample, finding in usable}),
        faults=faults,
        notes=[sample_note(len(samples), len(rows))],
    )
