"""From a folder to what the audit looks at: which kind of set it is, and what its files tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from medvision.audit.dataset import AuditedSet, join_properties
from medvision.data.discovery.class_folders import CLASS_LAYOUT, scan_classes
from medvision.data.discovery.folders import (
    IMAGE_SUFFIXES,
    SEGMENTATION_LAYOUT,
    Scan,
    subfolders,
)
from medvision.data.discovery.index import index_classification, index_segmentation
from medvision.data.discovery.mask_folders import scan_segmentation
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.duplicates.search import THRESHOLD, near_duplicates_of
from medvision.data.reading import Reading
from medvision.data.samples import Sample, count_names, split_name
from medvision.data.validation.validate import CheckResult, check_files
from medvision.errors import MedvisionError

Task = Literal["classification", "segmentation"]
Advance = Callable[[int, int], None]


@dataclass(kw_only=True)
class Folder:
    """One folder before its files are read.

    Attributes:
        root: The folder.
        task: What its layout is that of.
        samples: What it lists.
        faults: Path and reason of what cannot be used.
        notes: How it was read.
    """

    root: Path
    task: Task
    samples: Sequence[Sample]
    faults: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def scan(
    root: Path,
    *,
    against: Path | None = None,
    group_pattern: str | None = None,
    mask_suffix: str = "",
    num_classes: int = 2,
    advance: Advance | None = None,
) -> AuditedSet:
    """Find the images of a folder, read each file once, and look for twins.

    Files that cannot be used, and images that nobody can place, become faults.

    Args:
        root: Images and masks, or class folders, laid out as for training.
        against: Another folder of the same kind: it then counts as test and ``root`` as train.
        group_pattern: As for `index_segmentation`.
        mask_suffix: As for `index_segmentation`.
        num_classes: Of the masks, the background included.
        advance: Called with the number of files read, and of all.

    Raises:
        MedvisionError: If a folder is of neither kind, the two are of different kinds, or no
            file can be used.
    """
    roots = [_existing(root)] if against is None else _two_roots(root, against)
    folders = [list_folder(r, group_pattern=group_pattern, mask_suffix=mask_suffix) for r in roots]
    if against is not None:
        if folders[0].task != folders[1].task:
            raise MedvisionError(
                f"a {folders[1].task} set cannot be held against a {folders[0].task} set",
                where=str(against),
                hint="give two folders of one kind",
            )
        for folder, split in zip(folders, ("train", "test"), strict=True):
            folder.samples = [replace(sample, split=split) for sample in folder.samples]
    done, total = 0, sum(len(folder.samples) for folder in folders)
    checks = []
    for folder in folders:
        told = None if advance is None else partial(_told, advance, done, total)
        checks.append(_read(folder, num_classes, told))
        done += len(folder.samples)
    return _audited(folders, checks, num_classes)


def list_folder(root: Path, *, group_pattern: str | None, mask_suffix: str) -> Folder:
    """List the samples of one folder, whichever kind it is of.

    Raises:
        MedvisionError: If it is of neither kind, or its csv or the pattern does not fit.
    """
    task, notes = _task(root)
    faults: list[tuple[str, str]] = []
    try:
        if task == "segmentation":
            masks = index_segmentation(root, mask_suffix=mask_suffix, group_pattern=group_pattern)
            samples, more = masks.samples, masks.notes
        else:
            classes = index_classification(root, group_pattern=group_pattern)
            samples, more = classes.samples, classes.notes
    except MedvisionError as error:
        if group_pattern is not None or (root / "splits.csv").is_file():
            raise
        usable = _scan(root, task, mask_suffix)
        if not usable.samples or (task == "classification" and not _are_classes(usable)):
            raise
        faults = _faults(root, usable, error)
        samples, more = usable.samples, usable.notes
    return Folder(root=root, task=task, samples=samples, faults=faults, notes=[*notes, *more])


def _task(root: Path) -> tuple[Task, list[str]]:
    """Whether the folder holds masks or classes, and a note where it might be either."""
    csv = root / "splits.csv"
    targets = [s.target for s in read_splits(csv) if s.target] if csv.is_file() else []
    if targets:
        is_file = PurePosixPath(targets[0]).suffix.lower() in IMAGE_SUFFIXES
        return "segmentation" if is_file else "classification", []
    inside = subfolders(root)
    places = [root, *(folder for folder in inside if split_name(folder.name))]
    names = {place: {folder.name.lower() for folder in subfolders(place)} for place in places}
    classes = _scan(root, "classification", "")
    if any({"images", "masks"} <= found for found in names.values()):
        others = sorted({s.target for s in classes.samples if s.target.lower() not in _PAIR})
        note = f"read as images with masks; {count_names(others)} beside them is left out"
        return "segmentation", [note] if others else []
    if _are_classes(classes):
        return "classification", []
    what = "neither images with masks nor two folders of classes"
    if any("images" in found for found in names.values()):
        what = "a folder of images, but none of masks beside it"
    guess = f"did you mean {inside[0]}? " if len(inside) == 1 else ""
    raise MedvisionError(
        what, where=str(root), hint=f"{guess}{SEGMENTATION_LAYOUT}; or {CLASS_LAYOUT}"
    )


_PAIR = ("images", "masks")


def _scan(root: Path, task: Task, mask_suffix: str) -> Scan:
    if task == "segmentation":
        return scan_segmentation(root, mask_suffix=mask_suffix)
    return scan_classes(root)


def _are_classes(found: Scan) -> bool:
    return len({sample.target for sample in found.samples}) > 1


def _faults(root: Path, usable: Scan, error: MedvisionError) -> list[tuple[str, str]]:
    """Each image that has no mask of its own; or else what is wrong with the folders."""
    placed = {sample.path for sample in usable.samples}
    lost = [(image, "no mask goes with it alone") for image in usable.images if image not in placed]
    return lost or [(_below(root, p.where), p.what) for p in usable.problems or [error]]


def _existing(root: Path) -> Path:
    root = root.expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MedvisionError(f"the data folder {what}", where=str(root), hint="check the path")
    return root


def _two_roots(root: Path, against: Path) -> list[Path]:
    roots = [_existing(root), _existing(against)]
    one, other = (path.resolve() for path in roots)
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise MedvisionError(
            "the two folders share files", where=str(against), hint="give folders that lie apart"
        )
    return roots


def _read(folder: Folder, num_classes: int, advance: Advance | None) -> CheckResult:
    """Decode what was not decoded before."""
    reading = Reading(num_classes=num_classes if folder.task == "segmentation" else None)
    return check_files(
        folder.root, folder.samples, reading, on_error="skip", max_decoded=None, advance=advance
    )


def _audited(folders: list[Folder], checks: list[CheckResult], num_classes: int) -> AuditedSet:
    samples = [sample for check in checks for sample in check.samples]
    names = {sample.target for sample in samples if folders[0].task == "classification"}
    properties = join_properties([c.properties for c in checks if c.properties is not None])
    faults, notes = [], []
    for folder, check in zip(folders, checks, strict=True):
        place = "" if len(folders) == 1 else f"{folder.root.name}/"
        skipped = [(path, text.removeprefix(f"{path}: ")) for path, text in check.skipped]
        faults += [(place + path, reason) for path, reason in [*folder.faults, *skipped]]
        notes += folder.notes if check.skipped else [*folder.notes, *check.notes]
    return AuditedSet(
        name=" against ".join(folder.root.resolve().name for folder in folders),
        task=folders[0].task,
        roots=tuple(folder.root for folder in folders),
        samples=tuple(samples),
        origin=np.repeat(np.arange(len(folders)), [len(c.samples) for c in checks]).astype(np.int8),
        class_names=tuple(sorted(names, key=lambda name: (name.casefold(), name))),
        properties=properties,
        near_duplicates=near_duplicates_of(properties),  # a training on the same files recalls them
        faults=tuple(faults),
        notes=tuple(notes),
        threshold=THRESHOLD,
        num_classes=num_classes,
    )


def _below(root: Path, where: str | None) -> str:
    """The file or folder below the root, or the name of the root itself."""
    place = Path(where or root)
    inside = place.is_relative_to(root) and place != root
    return place.relative_to(root).as_posix() if inside else root.name


def _told(advance: Advance, before: int, total: int, done: int, _: int) -> None:
    """Pass on how many files of all folders are done."""
    advance(before + done, total)
