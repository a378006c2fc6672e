"""Read every file once before training, so that no fault waits for the tenth epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from medvision.data.examine import (
    Finding,
    NameLines,
    OnError,
    drawn_rows,
    examine,
    fingerprint,
    header_note,
    reason,
    sample_note,
    skip_notes,
)
from medvision.data.facts import Facts
from medvision.data.facts_cache import FactsCache, Remembered
from medvision.data.look import glance_at_image, glance_at_pair, look_at_image, look_at_pair
from medvision.data.sample import Sample, count_names
from medvision.data.sample_table import SampleTable
from medvision.types import MedvisionError

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
    facts: Facts | None = None
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
    cache = FactsCache(root, masks=num_classes, color_map=colours, value_range=value_range)
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
    cache = FactsCache(root, value_range=value_range)
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
    facts: Facts | None
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
    cache: FactsCache,
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
        facts=Facts.stack(facts) if len(facts) == len(usable) else None,
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
