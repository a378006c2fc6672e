"""Data sets to audit, read from a folder: task, samples and file properties."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.data.discovery.class_folders import scan_classes
from medvision.data.discovery.folders import Scan
from medvision.data.discovery.index import (
    Index,
    choose_task,
    described,
    existing_folder,
    index_classification,
    index_listed,
    index_segmentation,
)
from medvision.data.discovery.keys import FolderKeys, anchored
from medvision.data.discovery.mask_folders import scan_segmentation
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.duplicates.search import NearDuplicates, near_duplicates_of
from medvision.data.reading import Reading
from medvision.data.samples import Sample, SampleTable, StringColumn
from medvision.data.sources import FolderSource
from medvision.data.splits.sequences import group_by_sequence
from medvision.data.validation.properties import ImageProperties, MaskProperties
from medvision.data.validation.validate import Advance, check_files
from medvision.errors import MedvisionError
from medvision.files import is_there


@dataclass(frozen=True, kw_only=True)
class ListedSet:
    """Images of one folder, or of two folders to compare, listed by name.

    Attributes:
        name: Name shown on screen and in the report.
        task: Task of the images, or ``numbers`` if a table assigns numbers to each image.
        roots: One folder, or two: the first is then train and the second test.
        samples: N usable samples; the split is empty if none was given.
        origin: Index into ``roots`` of each sample, integers (N,).
        class_names: Names by class index; empty if images have no class.
    """

    name: str
    task: str
    roots: tuple[Path, ...]
    samples: SampleTable
    origin: NDArray[np.int8]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def splits(self) -> NDArray[np.str_]:
        """Split of each sample, ``""`` if none was given, (N,)."""
        names, number = self.samples.splits.numbered()
        return np.array(names, np.str_)[number]

    @property
    def has_classes(self) -> bool:
        """True if each image has a class."""
        return bool(self.class_names)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each sample, (N,); -1 without classes."""
        if not self.has_classes:
            return np.full(len(self), -1, np.int64)
        index = {name: number for number, name in enumerate(self.class_names)}
        names, number = self.samples.targets.numbered()
        return np.array([index[name] for name in names], np.int64)[number]

    def file(self, row: int) -> Path:
        """Path of the image of a row."""
        return self.roots[int(self.origin[row])] / self.samples.paths[row]

    def shown(self, row: int) -> str:
        """Image path of a row relative to its root, after the root's name if there are two."""
        path = self.samples.paths[row]
        if not self.compares_two:
            return path
        return f"{self.set_name(int(self.origin[row]))}/{path}"

    @property
    def compares_two(self) -> bool:
        """True if two sets are compared."""
        return len(self.roots) > 1

    def set_name(self, which: int) -> str:
        """Name of one of the compared sets: of its folder, or its path if the names are equal."""
        root, distinct = self.roots[which], len({r.name for r in self.roots}) > 1
        return (root.name if distinct else root.as_posix()) or root.resolve().name

    def names(self, rows: Iterable[int] | NDArray[np.intp]) -> list[str]:
        """Results of `shown` for several rows."""
        return [self.shown(int(row)) for row in rows]


@dataclass(frozen=True, kw_only=True)
class AuditedSet(ListedSet):
    """Listed data set with the properties of its files.

    Attributes:
        properties: File properties, N rows in the order of the samples.
        near_duplicates: Images that show the same picture, by the same row numbers.
        faults: Path and reason of each file that cannot be used.
        notes: Remarks on how the folder was read.
        num_classes: Number of mask classes, including the background.
        reading: Reading options of the files.
        indices: Listing of each folder, with the description of its layout.
        grouping: Where the groups come from, as in `Index`.
    """

    properties: ImageProperties
    near_duplicates: NearDuplicates
    faults: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    num_classes: int = 2
    reading: Reading = field(default_factory=Reading)
    indices: tuple[Index, ...] = ()
    grouping: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {
            "samples": len(self.samples),
            "origin": len(self.origin),
            "properties": len(self.properties),
            "near-duplicates": len(self.near_duplicates.groups),
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected columns of equal length, got {lengths}")
        if self.has_masks and self.has_classes:
            raise ValueError(f"expected either masks or classes, for {self.task}")

    def image(self, row: int) -> NDArray[np.uint8]:
        """Image of a row (H, W, 3) at its original size."""
        return self._source(row).read(self.samples[row])[0]

    def mask(self, row: int, name: str | None = None) -> NDArray[np.uint8]:
        """Class indices of a row (H, W) at their original size; segmentation only.

        Args:
            row: The row.
            name: Another mask of the image; None for its target.
        """
        sample = self.samples[row]
        target = sample.target if name is None else name
        mask = self._source(row).read(Sample(path=sample.path, target=target))[1]
        assert mask is not None, "asked for only where there are masks"
        return mask

    def each(self) -> list[AuditedSet]:
        """Return each of the compared sets on its own, without splits; a single set is unchanged.

        Files that cannot be used are in the set whose name they begin with, else in the first.
        """
        if not self.compares_two:
            return [self]
        found, near = [], self.near_duplicates
        of_second = [path.startswith(f"{self.roots[1].name}/") for path, _ in self.faults]
        for which in range(len(self.roots)):
            rows = np.flatnonzero(self.origin == which)
            inside = np.isin(near.first, rows) & np.isin(near.second, rows)
            samples = self.samples.select(rows)
            found.append(
                replace(
                    self,
                    samples=samples.with_column(splits=StringColumn.blank(len(rows))),
                    origin=self.origin[rows],
                    properties=self.properties.take(rows),
                    near_duplicates=replace(
                        near,
                        groups=np.unique(near.groups[rows], return_inverse=True)[1],
                        first=np.searchsorted(rows, near.first[inside]),
                        second=np.searchsorted(rows, near.second[inside]),
                        similarity=near.similarity[inside],
                        relation=near.relation[inside],
                    ),
                    faults=tuple(
                        fault
                        for fault, second in zip(self.faults, of_second, strict=True)
                        if second == bool(which)
                    ),
                )
            )
        return found

    def _source(self, row: int) -> FolderSource:
        return FolderSource(self.roots[int(self.origin[row])], channels=3, reading=self.reading)

    @property
    def has_masks(self) -> bool:
        """True if each image has a mask."""
        return self.properties.mask is not None

    @property
    def targets_in_words(self) -> str:
        """Description of the targets: a class, a mask, or a target that the audit cannot read."""
        return "classes" if self.has_classes else "masks" if self.has_masks else "targets"

    @property
    def masks(self) -> MaskProperties:
        """Properties of the masks; only for data sets with masks."""
        assert self.properties.mask is not None
        return self.properties.mask


Task = Literal["classification", "segmentation", "numbers"]


@dataclass(kw_only=True)
class Folder:
    """Listing of one folder, before its files are read.

    Attributes:
        root: The folder.
        task: Task derived from its layout.
        samples: Listed samples.
        faults: Path and reason of each image that cannot be used.
        notes: Remarks on how it was read.
        index: Listing with the description of its layout.
    """

    root: Path
    task: Task
    samples: SampleTable
    faults: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    index: Index = field(default_factory=lambda: Index(samples=SampleTable.of([]), notes=[]))


def scan(
    root: Path,
    *,
    against: Path | None = None,
    group_pattern: str | None = None,
    splits: Path | None = None,
    keys: FolderKeys | None = None,
    reading: Reading | None = None,
    num_classes: int = 2,
    group_by: str | None = None,
    advance: Advance | None = None,
) -> AuditedSet:
    """Find the images of a folder, read each file once, and search for near-duplicates.

    Unusable files and images that cannot be assigned are recorded as faults.

    Args:
        root: Folder of images and masks, or of class folders, in the layout for training.
        against: Another folder of the same kind, treated as test, with ``root`` as train.
        group_pattern: As for `index_segmentation`.
        splits: As for `index_segmentation`.
        keys: As for `index_segmentation`.
        reading: Reading options of the files, without the number of classes; None for the defaults.
        num_classes: Number of mask classes, including the background.
        group_by: ``sequence`` groups the images of each folder by `group_by_sequence`.
        advance: Called with the number of files read and the total number.

    Raises:
        MedvisionError: If a folder has neither layout, the two layouts differ, or no file can be
            used.
    """
    roots = [existing_folder(root)] if against is None else _two_roots(root, against)
    places = [anchored(place, keys or FolderKeys()) for place in roots]
    roots = [base or place for (base, _), place in zip(places, roots, strict=True)]
    folders = [
        list_folder(place, group_pattern=group_pattern, splits=splits, keys=own)
        for place, (_, own) in zip(roots, places, strict=True)
    ]
    if against is not None:
        if folders[0].task != folders[1].task:
            raise MedvisionError(
                f"expected a {folders[0].task} set, got a {folders[1].task} set",
                where=str(against),
                hint="give two folders of the same task",
            )
        for folder, split in zip(folders, ("train", "test"), strict=True):
            given = StringColumn.coded([split], np.zeros(len(folder.samples), np.uint8))
            folder.samples = folder.samples.with_column(splits=given)
    has_masks = folders[0].task == "segmentation"
    reading = replace(reading or Reading(), num_classes=num_classes if has_masks else None)
    done, total = 0, sum(len(folder.samples) for folder in folders)
    checks, faults, notes = [], [], []
    for folder in folders:
        report = None if advance is None else partial(_report, advance, done, total)
        check = check_files(
            folder.root, folder.samples, reading, on_error="skip", max_decoded=None, advance=report
        )
        place = "" if against is None else f"{folder.root.name}/"
        skipped = [(path, text.removeprefix(f"{path}: ")) for path, text in check.skipped]
        faults += [(place + path, reason) for path, reason in [*folder.faults, *skipped]]
        notes += folder.notes if check.skipped else [*folder.notes, *check.notes]
        if group_by == "sequence" and (facts := check.properties) is not None:
            grouped, more = group_by_sequence(
                check.samples,
                facts.thumbnail,
                facts.pixel_hash,
                where=str(folder.root),
                name=f"{place}sequence",
            )
            check, notes = replace(check, samples=grouped), notes + more
        checks.append(check)
        done += len(folder.samples)
    samples = SampleTable.joined(check.samples for check in checks)
    names = samples.targets.numbered()[0] if folders[0].task == "classification" else []
    grouping = [source for folder in folders for source in folder.index.grouping]
    if group_by == "sequence":
        grouping.append("data.group_by=sequence")
    properties = ImageProperties.joined([c.properties for c in checks if c.properties is not None])
    return AuditedSet(
        name=" against ".join(folder.root.resolve().name for folder in folders),
        task=folders[0].task,
        roots=tuple(roots),
        samples=samples,
        origin=np.repeat(np.arange(len(folders)), [len(c.samples) for c in checks]).astype(np.int8),
        class_names=tuple(sorted(names, key=lambda name: (name.casefold(), name))),
        properties=properties,
        near_duplicates=near_duplicates_of(properties),  # cached for a training on the same files
        faults=tuple(faults),
        notes=tuple(notes),
        num_classes=num_classes,
        reading=reading,
        indices=tuple(folder.index for folder in folders),
        grouping=tuple(dict.fromkeys(grouping)),
    )


def list_folder(
    root: Path,
    *,
    group_pattern: str | None = None,
    splits: Path | None = None,
    keys: FolderKeys | None = None,
) -> Folder:
    """List the samples of one folder of any task.

    Args:
        root: The folder.
        group_pattern: As for `index_segmentation`.
        splits: As for `index_segmentation`.
        keys: As for `index_segmentation`.

    Raises:
        MedvisionError: If its layout is unknown or in doubt, or a csv, a key or the pattern does
            not match.
    """
    keys = keys or FolderKeys()
    choice = choose_task(root, keys)
    has_masks = choice.task == "segmentation"
    in_numbers = keys.task is None and is_there(root / "splits.csv") and _are_numbers(root)
    faults: list[tuple[str, str]] = []
    given: dict[str, Any] = {"group_pattern": group_pattern, "splits": splits}
    try:
        if in_numbers:
            found = index_listed(root, **given)
        elif has_masks:
            found = index_segmentation(root, keys=keys, **given)
        else:
            found = index_classification(root, keys=keys, **given)
    except MedvisionError as error:
        if group_pattern is not None or splits is not None or is_there(root / "splits.csv"):
            raise
        usable = scan_segmentation(root, keys) if has_masks else scan_classes(root, keys)
        if usable.in_doubt or not usable.samples or not (has_masks or _are_classes(usable)):
            raise
        faults = _faults(root, usable, error)
        found = described(Index(samples=usable.samples, notes=usable.notes), usable)
    return Folder(
        root=root,
        task="numbers" if in_numbers else choice.task,
        samples=found.samples,
        faults=faults,
        notes=[*choice.notes, *found.notes],
        index=replace(found, other=choice.other or found.other),
    )


_NUMBERS = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?([\s;,]+[-+]?[\d.]+(e[-+]?\d+)?)*", re.IGNORECASE)


def _are_numbers(root: Path) -> bool:
    """Return True if the targets of a csv are measurements; integers alone may be classes."""
    names, _ = read_splits(root / "splits.csv").targets.numbered()
    names = [name for name in names if name]
    return (
        bool(names) and all(map(_NUMBERS.fullmatch, names)) and not all(map(str.isdecimal, names))
    )


def _are_classes(found: Scan) -> bool:
    return len(found.samples.targets.numbered()[0]) > 1


def _faults(root: Path, usable: Scan, error: MedvisionError) -> list[tuple[str, str]]:
    """Return the images without a mask of their own, or else the problem with the folders."""
    placed = set(usable.samples.paths)
    lost = [(image, "it has no mask of its own") for image in usable.images if image not in placed]
    places = [(Path(p.where or root), p.what) for p in usable.problems or [error]]
    return lost or [
        (
            p.relative_to(root).as_posix() if p != root and p.is_relative_to(root) else root.name,
            what,
        )
        for p, what in places
    ]


def _two_roots(root: Path, against: Path) -> list[Path]:
    roots = [existing_folder(root), existing_folder(against)]
    one, other = (path.resolve() for path in roots)
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise MedvisionError(
            "the two folders share files", where=str(against), hint="give separate folders"
        )
    return roots


def _report(advance: Advance, before: int, total: int, done: int, _: int) -> None:
    """Report the progress over the files of all folders."""
    advance(before + done, total)
