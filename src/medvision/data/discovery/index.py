"""List the samples of a data set with their given splits and groups.

Precedence of given splits: the csv passed by the user, then ``ROOT/splits.csv``, then folders named
after splits. Samples without a given split have an empty one and are drawn later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from medvision.console import counted
from medvision.data.discovery.class_folders import CLASS_LAYOUT, order_classes, scan_classes
from medvision.data.discovery.folders import (
    SEGMENTATION_LAYOUT,
    Scan,
    is_image,
    list_images,
    missing_files,
    subfolders,
)
from medvision.data.discovery.mask_folders import scan_segmentation
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.samples import SampleTable, count_names, split_name
from medvision.data.splits.groups import given_groups, group_by_patient, group_by_pattern
from medvision.errors import MedvisionError
from medvision.files import is_there

Task = Literal["segmentation", "classification"]
Targets = Literal["masks", "classes", "texts"]
_ONE = {"masks": "mask", "classes": "class", "texts": "target"}
_OR_ELSE = {
    "masks": ", or masks with the stems of the images",
    "classes": ", or put the images into folders of their classes",
    "texts": ", or remove their lines",
}
LISTED_LAYOUT = "expected ROOT/splits.csv with the columns path and target"


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """Samples of a data set, by path.

    Attributes:
        samples: Samples with their given splits and groups.
        notes: Omissions and irregularities.
        class_names: Classes by index; empty for segmentation.
    """

    samples: SampleTable
    notes: list[str]
    class_names: list[str] = field(default_factory=list)


def index_segmentation(
    root: Path,
    *,
    mask_suffix: str = "",
    splits: Path | None = None,
    group_pattern: str | None = None,
) -> Index:
    """List images with their masks.

    Reads ``ROOT/images/*`` and ``ROOT/masks/*`` matched by stem, also in equal sub-folders;
    ``ROOT/{train,val,test}/{images,masks}``; or the images listed in ``ROOT/splits.csv``, omitting
    others with a note. Images not listed in ``splits`` are added.

    Args:
        root: The data folder.
        mask_suffix: Suffix of a mask's stem after the stem of its image, such as ``_mask``.
        splits: Path of an earlier run's csv, with paths relative to ``root``, whose splits are
            kept.
        group_pattern: Regular expression with one capture group, searched in each path; the
            captured text is the sample's group. It takes precedence over the groups of a csv, and
            both over the patients in DICOM files.

    Raises:
        MedvisionError: If the folder, the csv or the pattern does not match the description above.
    """
    root = existing_folder(root, hint=f"check data.root: {SEGMENTATION_LAYOUT}")
    scan = scan_segmentation(root, mask_suffix=mask_suffix)
    samples, notes = _index(root, scan, splits, group_pattern, targets="masks")
    return Index(samples=samples, notes=notes)


def index_classification(
    root: Path,
    *,
    splits: Path | None = None,
    group_pattern: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Index:
    """List images with the names of their classes.

    Reads ``ROOT/<class>/*``; ``ROOT/{train,val,test}/<class>/*``; or the images that
    ``ROOT/splits.csv`` lists with their class in the column ``target``, or, if blank, the class of
    their folder. Otherwise as `index_segmentation`.

    Args:
        root: The data folder.
        splits: As for `index_segmentation`.
        group_pattern: As for `index_segmentation`.
        class_names: All classes in index order; None sorts them alphabetically.

    Raises:
        MedvisionError: If the folder, the csv, the pattern or the classes do not match the
            description above.
    """
    root = existing_folder(root, hint=f"check data.root: {CLASS_LAYOUT}")
    samples, notes = _index(root, scan_classes(root), splits, group_pattern, targets="classes")
    names = order_classes(root, samples, class_names)
    return Index(samples=samples, class_names=names, notes=notes)


def index_listed(
    root: Path, *, splits: Path | None = None, group_pattern: str | None = None
) -> Index:
    """List the images of ``ROOT/splits.csv`` with the text of its column ``target``.

    For targets that are neither masks nor classes, such as numbers. Otherwise as
    `index_segmentation`.

    Args:
        root: The data folder.
        splits: As for `index_segmentation`; blank targets are taken from ``ROOT/splits.csv``.
        group_pattern: As for `index_segmentation`.

    Raises:
        MedvisionError: If the folder, a csv or the pattern does not match the description above.
    """
    root = existing_folder(root, hint=f"check data.root: {LISTED_LAYOUT}")
    own = root / "splits.csv"
    if not is_there(own):
        raise MedvisionError("splits.csv is missing", where=str(root), hint=LISTED_LAYOUT)
    scan = Scan(images=list_images(root)[0], samples=read_splits(own))
    samples, notes = _index(root, scan, splits, group_pattern, targets="texts")
    return Index(samples=samples, notes=notes)


def existing_folder(root: Path, *, hint: str = "check the path") -> Path:
    """Return the existing data folder with ``~`` expanded.

    Raises:
        MedvisionError: If the folder does not exist.
    """
    root = root.expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MedvisionError(f"the data folder {what}", where=str(root), hint=hint)
    return root


def task_in_csv(root: Path) -> Task | None:
    """Derive the task from the targets (files or classes) in ``ROOT/splits.csv``, None if blank."""
    table = root / "splits.csv"
    targets = [s.target for s in read_splits(table) if s.target] if is_there(table) else []
    if not targets:
        return None
    return "segmentation" if is_image(targets[0]) else "classification"


def folder_names(root: Path) -> list[set[str]]:
    """Return the lower-case names of the folders in the root and in each of its split folders."""
    places = [root, *(folder for folder in subfolders(root) if split_name(folder.name))]
    return [{folder.name.lower() for folder in subfolders(place)} for place in places]


def _index(
    root: Path, scan: Scan, splits: Path | None, group_pattern: str | None, *, targets: Targets
) -> tuple[SampleTable, list[str]]:
    """Return the samples of the csv files, or else of the folders, by path and with notes."""
    samples, notes, own = scan.samples, scan.notes, root / "splits.csv"
    if is_there(own):
        samples, notes = _listed(root, scan, own, targets), []
        left_out = sorted(set(scan.images).difference(samples.paths))
        if left_out:
            notes.append(
                f"splits.csv does not list {counted(len(left_out), 'image')} (ignored):"
                f" {count_names(left_out)}"
            )
    elif splits is None:
        scan.refuse_problems()
    if group_pattern is None:
        samples, more = group_by_patient(root, samples)
        notes = notes + more
    if splits is not None:
        table = splits.expanduser()
        rows = _listed(root, scan, table, targets)
        samples, more = keep_splits(table, rows, scan, samples, is_there(own))
        notes = notes + more
    if group_pattern is not None:
        samples, more = group_by_pattern(samples, group_pattern)
        notes = notes + more
    return samples.by_path(), notes


def _listed(root: Path, scan: Scan, table: Path, targets: Targets) -> SampleTable:
    """Return the samples of a csv; blank targets become masks of the same stem.

    For classification, blank targets become the class folder of the image.
    """
    known, with_masks, with_classes = scan.samples, targets == "masks", targets == "classes"
    if with_classes and (scan.problems or len(known.targets.numbered()[0]) < 2):
        known = SampleTable.of([])  # folders are not classes
    samples = fill_targets(read_splits(table), known, by_folder=with_classes)
    names = chain.from_iterable(zip(samples.paths, samples.targets, strict=True))
    listed = filter(None, names) if with_masks else samples.paths
    seen = {*scan.images, *(scan.samples.targets if with_masks else ())}
    missing = missing_files(root, (name for name in listed if name not in seen))
    if missing:
        raise MedvisionError(
            f"cannot find {counted(len(missing), 'listed file')} in {root}: {count_names(missing)}",
            where=str(table),
            hint="check data.root, or remove their lines",
        )
    without = list(samples.paths.select(samples.targets.equal("")))
    if without:
        raise MedvisionError(
            f"no {_ONE[targets]} for {len(without)} of {len(samples)} images:"
            f" {count_names(without)}",
            where=str(table),
            hint=f"add the column target{_OR_ELSE[targets]}",
        )
    if not with_classes:
        return samples
    files = {name for name in samples.targets.numbered()[0] if is_image(name)}
    if files:
        first = next(name for name in samples.targets if name in files)
        raise MedvisionError(
            f"expected class names in the column target, got files such as {first}",
            where=str(table),
            hint="choose a segmentation experiment, or another data.root",
        )
    return samples


def fill_targets(rows: SampleTable, known: SampleTable, *, by_folder: bool = False) -> SampleTable:
    """Fill blank targets from the known samples, or else with the folder name.

    Args:
        rows: Samples of a csv.
        known: Existing samples.
        by_folder: If True, use the folder name for unknown samples.
    """
    if not rows.targets.equal("").any():
        return rows
    targets = dict(zip(known.paths, known.targets, strict=True))
    columns = zip(rows.paths, rows.targets, strict=True)
    filled = (target or targets.get(path, "") for path, target in columns)
    if by_folder:
        pairs = zip(rows.paths, filled, strict=True)
        filled = (target or PurePosixPath(path).parent.name for path, target in pairs)
    return rows.with_column(targets=filled)


def keep_splits(
    table: Path, listed: SampleTable, scan: Scan, there: SampleTable, has_csv: bool
) -> tuple[SampleTable, list[str]]:
    """Keep the splits of an earlier run for the current samples.

    Args:
        table: Path of the csv, for messages.
        listed: Samples listed in the csv.
        scan: Content of the folders.
        there: Current samples.
        has_csv: If True, the data set has its own csv.
    """
    kept = set(listed.paths)
    if not has_csv and any(image not in kept for image in scan.images):
        scan.refuse_problems()  # new images must be valid; for listed ones the csv decides
    # A run folder contains hashed groups: group names in the data's own csv take precedence.
    samples, groups = listed, given_groups(there)
    if groups:
        columns = zip(listed.paths, listed.groups, strict=True)
        samples = listed.with_column(groups=(groups.get(p, g) for p, g in columns))
    added = there.select(np.array([path not in kept for path in there.paths], bool))
    if not len(added):
        return samples, []
    notes = [f"added {counted(len(added), 'image')} that {table} does not list"]
    if any(g and p not in groups for p, g in zip(listed.paths, listed.groups, strict=True)):
        notes.append(
            f"the groups in {table} are unknown for the added images:"
            " an added image may belong to a group of another split; set data.group_pattern"
        )
    return SampleTable.joined([samples, added]), notes
