"""Audit the data of a run, before training or after a test, and compare other data with them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medvision.audit.check import NOT_JUDGED, audit
from medvision.audit.classes import class_findings
from medvision.audit.dataset import AuditedSet, ListedSet
from medvision.audit.duplicates import find_duplicates
from medvision.audit.groups import group_findings, name_hint_findings
from medvision.audit.memory import memory_baseline
from medvision.console import counted
from medvision.data import ImageData
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.duplicates.known_images import Copy, KnownImages
from medvision.errors import MedvisionError
from medvision.evaluation.parts import DuplicatesInTraining
from medvision.files import read_regular
from medvision.types import STAGES

Mode = Literal["warn", "strict", "skip"]

MAX_NAMES = 100_000
"""Above this number of images, only some names are searched for patient numbers: a million
names take half a minute and two gigabytes."""

NAME_RUNS = 20
"""Number of sections of the list, sorted by path, that are searched above ``MAX_NAMES``."""


@dataclass(frozen=True, kw_only=True)
class DataAudit:
    """Audit of the data of a training run.

    Attributes:
        summary: Section ``audit`` of summary.json.
        warnings: Warnings for the run.
        near_duplicates: Test images with a near-duplicate in training; None if there are none or
            the files were not read.
    """

    summary: dict[str, Any]
    warnings: list[str]
    near_duplicates: DuplicatesInTraining | None


def audit_training(data: ImageData, *, mode: Mode) -> DataAudit | None:
    """Audit the prepared data of a training run.

    Args:
        data: Prepared data.
        mode: ``warn`` trains whatever is found, ``strict`` refuses to train if a test score would
            be invalid, ``skip`` checks nothing.

    Returns:
        None for phantoms, which need no audit.

    Raises:
        MedvisionError: If ``mode`` is ``strict`` and a test score would be invalid, or there are
            too many files to check now.
    """
    if data.root is None:
        return None
    if mode == "skip":
        note = "the data were not audited: audit=skip"
        return DataAudit(summary={"mode": "skip"}, warnings=[note], near_duplicates=None)
    found = _in_part(data) if data.properties is None else _whole(data)
    if mode == "strict":
        _refuse(data, found)
    return DataAudit(
        summary={"mode": mode, **found.summary},
        warnings=found.warnings,
        near_duplicates=found.near_duplicates,
    )


def notes_with(notes: Sequence[str], audited: DataAudit | None) -> list[str]:
    """Notes on the data, those of the audit first; they replace the split's on the same problem."""
    if audited is None:
        return list(notes)
    first = audited.warnings
    repeated = [
        *(["LEAK"] if any(warning.startswith("LEAK") for warning in first) else []),
        *(
            rf"{s} \(.*\) contains no "
            for s in STAGES
            if any(w.startswith(f"{s} has no image of ") for w in first)
        ),
    ]
    return [*first, *(n for n in notes if not any(re.match(p, n) for p in repeated))]


def duplicates_in_training(data: ImageData) -> DuplicatesInTraining | None:
    """Test images with a near-duplicate in training; None if there are none or it is unknown."""
    if data.properties is None or data.near_duplicates is None:
        return None
    return _crossing(_audited(data))


def _whole(data: ImageData) -> DataAudit:
    started = time.perf_counter()
    seen = _audited(data)
    found = audit(seen, started=started)
    reported = [f for f in found.findings if f.severity in _REPORTED or f.kind == NOT_JUDGED]
    return DataAudit(
        summary={"complete": True, **found.summary()},
        warnings=[f"LEAK: {leak}" for leak in found.leaks] + [f.with_advice for f in reported],
        near_duplicates=_crossing(seen),
    )


def _in_part(data: ImageData) -> DataAudit:
    """Audit of names and counts only, for files that were not read."""
    started = time.perf_counter()
    seen = ListedSet(**_listed(data))
    named = _runs_of_names(seen)
    found = [*group_findings(seen), *class_findings(seen), *name_hint_findings(named)]
    leaks = [finding.with_advice for finding in found if finding.severity == "leak"]
    reported = [finding.with_advice for finding in found if finding.severity in _REPORTED]
    part = (
        "too many files to read before the start: the audit checked only names and counts; run"
        f" medvision audit {data.root} once, and later runs use its results"
    )
    if len(named) < len(seen):
        part += f"; patient numbers were searched in {len(named)} of {len(seen)} names"
    return DataAudit(
        summary={
            "complete": False,
            "names_searched": len(named),
            "leaks": leaks,
            "findings": [finding.without_files() for finding in found],
            "elapsed_s": round(time.perf_counter() - started, 3),
        },
        warnings=[*(f"LEAK: {leak}" for leak in leaks), *reported, part],
        near_duplicates=None,
    )


def _runs_of_names(seen: ListedSet) -> ListedSet:
    """Sections of a very long list of names: those of one patient are adjacent."""
    if len(seen) <= MAX_NAMES:
        return seen
    starts = np.linspace(0, len(seen) - MAX_NAMES // NAME_RUNS, NAME_RUNS).astype(np.int64)
    rows = np.unique(starts[:, None] + np.arange(MAX_NAMES // NAME_RUNS))
    samples = seen.samples.by_path().select(rows)
    return replace(seen, samples=samples, origin=seen.origin[rows])


def _refuse(data: ImageData, found: DataAudit) -> None:
    if not found.summary["complete"]:
        raise MedvisionError(
            "too many files to read before the start, which audit=strict requires",
            where=str(data.root),
            hint=f"run medvision audit {data.root} once, then start again",
        )
    invalid = [f["text"] for f in found.summary["findings"] if f["severity"] in _INVALIDATING]
    if invalid:
        more = f" (and {counted(len(invalid) - 1, 'more finding')})" if len(invalid) > 1 else ""
        raise MedvisionError(
            f"{invalid[0]}{more}",
            where=f"audit=strict, {data.root}",
            hint="see medvision audit for the files; data.protocol=grouped keeps near-duplicates"
            " and patients together, audit=warn trains anyway",
        )


_INVALIDATING = ("leak", "conflict")
_REPORTED = ("conflict", "fault", "warning")
"""Severities of the findings that are printed after the leaks; notes are only in the report."""


def _listed(data: ImageData) -> dict[str, Any]:
    names = () if data.class_counts() is None else tuple(data.class_names)
    groups = (data.given_groups.get(path, "") for path in data.samples.paths)
    return {
        "name": data.name,
        "task": data.task,
        "roots": (data.given_root(),),
        "samples": data.samples.with_column(groups=groups),
        "origin": np.zeros(len(data.samples), np.int8),
        "class_names": names,
    }


def _audited(data: ImageData) -> AuditedSet:
    assert data.properties is not None  # checked by the caller
    assert data.near_duplicates is not None
    return AuditedSet(
        **_listed(data),
        properties=data.properties,
        near_duplicates=data.near_duplicates,
        num_classes=len(data.class_names) if data.has_masks else 2,
        reading=data.reading,
        grouping=data.index_read.grouping,
    )


def _crossing(seen: AuditedSet) -> DuplicatesInTraining | None:
    crossing = find_duplicates(seen).crossing[("test", "train")]
    recalled = memory_baseline(seen)
    if not crossing:
        return None
    return DuplicatesInTraining(
        duplicate_of={seen.samples[p.first].path: seen.samples[p.second].path for p in crossing},
        recalled={}
        if recalled is None
        else {
            seen.samples[row].path: float(score)
            for row, score in zip(recalled.rows, recalled.score, strict=True)
        },
        metric=None if recalled is None else recalled.metric,
    )


KNOWN_IMAGES = "known_images.safetensors"
"""File of a run folder with hashes of its training and validation images."""

_KEPT_IN_WORDS = {"train": "training images", "val": "validation images"}
KEPT = tuple(_KEPT_IN_WORDS)
"""Splits whose images must not be in an external data set."""


def known_images_of(data: ImageData) -> KnownImages | None:
    """Describe the training and validation images, in the order of their paths.

    None if their files were not read.
    """
    if data.properties is None:
        return None
    paths, splits = list(data.samples.paths), list(data.samples.splits)
    rows = sorted((r for r, s in enumerate(splits) if s in KEPT), key=paths.__getitem__)
    is_val = np.array([splits[row] == "val" for row in rows], np.bool_)
    return KnownImages.of(data.properties.take(rows), is_val)


@dataclass(frozen=True, kw_only=True)
class ExternalCheck:
    """Search of another data set for the training and validation images of a run.

    Attributes:
        summary: Section ``external_check`` of summary.json.
        near_duplicates: Images of the other set that are among them; None if there are none or the
            search was not possible.
        copies: A row for each of them and split: ``path``, ``known_path``, ``split``,
            ``identical``.
    """

    summary: dict[str, Any]
    near_duplicates: DuplicatesInTraining | None = None
    copies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Warnings for the evaluation."""
        text = self.summary["text"]
        return [f"LEAK: {text}"] if self.copies else [] if self.summary["checked"] else [text]


def check_external(run: Path, data: ImageData) -> ExternalCheck:
    """Search the test images of another data set for the training and validation images of a run.

    Args:
        run: Run folder.
        data: The other data set, gathered.
    """
    try:
        known, names = _known_images(run)
        if data.properties is None:
            raise ValueError(f"the files are too many to read now: audit {data.root} first")
    except ValueError as reason:
        text = f"not checked for training and validation images of the run: {reason}"
        return ExternalCheck(summary={"checked": False, "text": text})
    paths = list(data.samples.paths)
    row_of = {path: row for row, path in enumerate(paths)}
    rows = [row_of[path] for path in data.tables["test"].paths]
    found = known.find(data.properties.take(rows))
    copies: list[dict[str, Any]] = [
        {
            "path": paths[rows[copy.row]],
            "known_path": names[copy.known],
            "split": KEPT[int(known.is_val[copy.known])],
            "identical": copy.is_identical,
        }
        for copy in found
    ]
    counts = {"train": len(known) - int(known.is_val.sum()), "val": int(known.is_val.sum())}
    return ExternalCheck(
        summary={
            "checked": True,
            "text": _copies_in_words(found, known, counts, len(rows)),
            "num_images": len(rows),
            "num_known": counts,
            "exact_duplicates": _by_split([copy for copy in found if copy.is_identical], known),
            "near_duplicates": _by_split(found, known),
        },
        near_duplicates=DuplicatesInTraining(
            duplicate_of={row["path"]: row["known_path"] for row in reversed(copies)},
            recalled={},
            metric=None,
        )
        if copies
        else None,
        copies=copies,
    )


def _known_images(run: Path) -> tuple[KnownImages, list[str]]:
    """Read the hashes of a run, and the paths that belong to them.

    Raises:
        ValueError: If that is not possible; the text is the reason.
    """
    try:
        known = KnownImages.from_bytes(read_regular(run / KNOWN_IMAGES))
    except FileNotFoundError:
        raise ValueError(
            f"the run has no {KNOWN_IMAGES}, because it is older, its images are generated, or they"
            " were too many to read before training"
        ) from None
    except OSError as fault:
        raise ValueError(f"{KNOWN_IMAGES} cannot be read: {fault.strerror}") from fault
    except ValueError as fault:
        raise ValueError(f"{KNOWN_IMAGES} cannot be used: {fault}") from fault
    names = sorted(s.path for s in read_splits(run / "splits.csv") if s.split in KEPT)
    if len(names) != len(known):
        raise ValueError(f"splits.csv and {KNOWN_IMAGES} have different numbers of images")
    return known, names


def _by_split(copies: Sequence[Copy], known: KnownImages) -> dict[str, int]:
    inside = {split: [c for c in copies if KEPT[known.is_val[c.known]] == split] for split in KEPT}
    return {
        "images": len({copy.row for copy in copies}),
        **{f"images_in_{split}": len(found) for split, found in inside.items()},
    }


def _copies_in_words(
    copies: Sequence[Copy], known: KnownImages, counts: dict[str, int], total: int
) -> str:
    near = _by_split(copies, known)
    exact = _by_split([copy for copy in copies if copy.is_identical], known)
    sets = f"{counts['train']} training and {counts['val']} validation images of the run"
    if not copies:
        return f"none of the {counted(total, 'image')} is a copy of one of the {sets}"
    parts = [
        f"{near[f'images_in_{split}']} of {words}"
        for split, words in _KEPT_IN_WORDS.items()
        if near[f"images_in_{split}"]
    ]
    identical = f", {exact['images']} with identical pixels" if exact["images"] else ""
    verb = "is a near-duplicate" if near["images"] == 1 else "are near-duplicates"
    return (
        f"{near['images']} of {counted(total, 'image')} {verb} of one of the {sets}"
        f" ({', '.join(parts)}{identical})"
    )
