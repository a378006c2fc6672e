"""List the samples of a data set, with the splits and groups that were given.

A given split wins: the csv that the user names, then ``ROOT/splits.csv``, then folders named
after splits. Samples without one have an empty split and are drawn later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from medvision.data.checks import CheckResult, check_images, check_segmentation
from medvision.data.class_folders import CLASS_LAYOUT, order_classes, scan_classes
from medvision.data.folders import IMAGE_SUFFIXES, SEGMENTATION_LAYOUT, Scan, scan_segmentation
from medvision.data.group_salt import hash_groups
from medvision.data.sample import Sample, count_names
from medvision.data.splits_csv import read_splits, write_splits
from medvision.types import MedvisionError

__all__ = [  # the tables of samples are used through this module
    "CheckResult",
    "ClassIndex",
    "Index",
    "Sample",
    "check_images",
    "check_segmentation",
    "hash_groups",
    "index_classification",
    "index_segmentation",
    "read_splits",
    "write_splits",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """The samples of a data set, by path, and notes on what was left out or is odd."""

    samples: list[Sample]
    notes: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassIndex:
    """The samples of a classification set, by path, its classes by index, and notes."""

    samples: list[Sample]
    class_names: list[str]
    notes: list[str]


def index_segmentation(
    root: Path,
    *,
    mask_suffix: str = "",
    splits: Path | None = None,
    group_pattern: str | None = None,
) -> Index:
    """List images with their masks.

    Reads ``ROOT/images/*`` and ``ROOT/masks/*`` matched by stem, also in equal sub-folders;
    ``ROOT/{train,val,test}/{images,masks}``; or the images that ``ROOT/splits.csv`` lists, the
    others being left out with a note. Images that ``splits`` does not list are added.

    Args:
        root: The data folder.
        mask_suffix: What the stem of a mask has beyond that of its image, such as ``_mask``.
        splits: A csv of an earlier run, its paths relative to ``root``, whose splits are kept.
        group_pattern: Regular expression with one capture group, searched in each path; what
            it captures is the sample's group. It wins over the groups of a csv.

    Raises:
        MedvisionError: If the folder, the csv or the pattern does not fit the above.
    """
    root = _existing(root, SEGMENTATION_LAYOUT)
    scan = scan_segmentation(root, mask_suffix=mask_suffix)
    listed = partial(_listed_with_masks, root, scan)
    samples, notes = _index(root, scan, listed, splits, group_pattern)
    return Index(samples=samples, notes=notes)


def index_classification(
    root: Path,
    *,
    splits: Path | None = None,
    group_pattern: str | None = None,
    class_names: Sequence[str] | None = None,
) -> ClassIndex:
    """List images with the names of their classes.

    Reads ``ROOT/<class>/*``; ``ROOT/{train,val,test}/<class>/*``; or the images that
    ``ROOT/splits.csv`` lists with their class in the column ``target``, and where that is blank
    in the class folder they lie in. The rest is as for `index_segmentation`.

    Args:
        root: The data folder.
        splits: As for `index_segmentation`.
        group_pattern: As for `index_segmentation`.
        class_names: Every class, in the order of the class indices; None takes the alphabet's.

    Raises:
        MedvisionError: If the folder, the csv, the pattern or the classes do not fit the above.
    """
    root = _existing(root, CLASS_LAYOUT)
    scan = scan_classes(root)
    listed = partial(_listed_with_classes, root, scan)
    samples, notes = _index(root, scan, listed, splits, group_pattern)
    names = order_classes(root, samples, class_names)
    return ClassIndex(samples=samples, class_names=names, notes=notes)


def _existing(root: Path, layout: str) -> Path:
    root = root.expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MedvisionError(
            f"the data folder {what}", where=str(root), hint=f"check data.root: {layout}"
        )
    return root


def _index(
    root: Path,
    scan: Scan,
    listed: Callable[[Path], list[Sample]],
    splits: Path | None,
    group_pattern: str | None,
) -> tuple[list[Sample], list[str]]:
    """Return what the csv files list, or else the folders hold; by path, with notes."""
    notes: list[str] = []
    own = root / "splits.csv"
    if own.is_file():
        samples = listed(own)
        left_out = sorted(set(scan.images) - {sample.path for sample in samples})
        if left_out:
            notes.append(
                f"splits.csv does not list {len(left_out)} images, which are left out:"
                f" {count_names(left_out)}"
            )
    elif splits is None:
        samples, notes = _sound(scan), scan.notes
    else:
        samples, notes = scan.samples, scan.notes
    if splits is not None:
        table = splits.expanduser()
        samples, kept_notes = _kept(table, listed(table), scan, samples, own.is_file())
        notes = notes + kept_notes
    if group_pattern is not None:
        samples, pattern_notes = _grouped(samples, group_pattern)
        notes = notes + pattern_notes
    return sorted(samples, key=lambda sample: sample.path), notes


def _sound(scan: Scan) -> list[Sample]:
    if scan.problems:
        raise scan.problems[0]
    return scan.samples


def _listed_with_masks(root: Path, scan: Scan, table: Path) -> list[Sample]:
    """Return the samples of a csv, masks matched by stem where it names none."""
    masks = {sample.path: sample.target for sample in scan.samples}
    rows = read_splits(table)
    samples = [row if row.target else replace(row, target=masks.get(row.path, "")) for row in rows]
    _must_exist(root, table, [name for s in samples for name in (s.path, s.target) if name])
    without_mask = [sample.path for sample in samples if not sample.target]
    if without_mask:
        raise MedvisionError(
            f"{len(without_mask)} of {len(samples)} images have no mask:"
            f" {count_names(without_mask)}",
            where=str(table),
            hint="add the column target, or masks with the stems of the images",
        )
    return samples


def _listed_with_classes(root: Path, scan: Scan, table: Path) -> list[Sample]:
    """Return the samples of a csv, named after their folder where it names no class."""
    classes = {sample.path: sample.target for sample in scan.samples}
    if scan.problems or len(set(classes.values())) < 2:  # the folders are not those of classes
        classes = {}
    samples = [
        replace(s, target=s.target or classes.get(s.path) or PurePosixPath(s.path).parent.name)
        for s in read_splits(table)
    ]
    _must_exist(root, table, [sample.path for sample in samples])
    unnamed = [sample.path for sample in samples if not sample.target]
    if unnamed:
        raise MedvisionError(
            f"{len(unnamed)} of {len(samples)} images have no class: {count_names(unnamed)}",
            where=str(table),
            hint="add the column target, or put the images into folders of their classes",
        )
    masks = [s.target for s in samples if PurePosixPath(s.target).suffix in IMAGE_SUFFIXES]
    if masks:
        raise MedvisionError(
            f"expected names of classes in the column target, got files such as {masks[0]}",
            where=str(table),
            hint="choose an experiment of segmentation, or another data.root",
        )
    return samples


def _must_exist(root: Path, table: Path, names: list[str]) -> None:
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise MedvisionError(
            f"{len(missing)} listed files do not exist below {root}: {count_names(missing)}",
            where=str(table),
            hint="check data.root, or remove their lines",
        )


def _kept(
    table: Path, rows: list[Sample], scan: Scan, known: list[Sample], has_csv: bool
) -> tuple[list[Sample], list[str]]:
    """Lay the splits of an earlier run over the samples that are there now."""
    kept = {sample.path: sample for sample in rows}
    if not has_csv and set(scan.images) - kept.keys():
        _sound(scan)  # images that join must fit; for the listed ones the csv has the word
    # A run folder holds hashed groups: where the data's own csv names them, its names count.
    groups = {sample.path: sample.group for sample in known if sample.group}
    samples = [replace(s, group=groups.get(s.path, s.group)) for s in kept.values()]
    added = [sample for sample in known if sample.path not in kept]
    if not added:
        return samples, []
    notes = [f"{len(added)} images are not in {table} and were added to the data set"]
    if any(s.group and s.path not in groups for s in samples):
        notes.append(
            f"the groups in {table} are unknown for the added images:"
            " an added image may belong to a group of another split; set data.group_pattern"
        )
    return samples + added, notes


def _grouped(samples: list[Sample], pattern: str) -> tuple[list[Sample], list[str]]:
    try:
        expression = re.compile(pattern)
    except re.error as fault:
        raise MedvisionError(
            f"{pattern} is not a regular expression: {fault}",
            where="data.group_pattern",
            hint="mend it, and quote it for the shell",
        ) from fault
    if expression.groups != 1:
        raise MedvisionError(
            f"{pattern} has {expression.groups} capture groups, expected one",
            where="data.group_pattern",
            hint=r"put the part that names the group in brackets, as in '(person\d+)_'",
        )
    matches = [expression.search(sample.path) for sample in samples]
    found = [match.group(1) or "" if match else "" for match in matches]
    if not any(found):
        raise MedvisionError(
            f"{pattern} matches no image, the first being {samples[0].path}",
            where="data.group_pattern",
            hint="it is searched in the path below data.root",
        )
    unmatched = found.count("")
    notes = []
    if unmatched:
        notes.append(
            f"data.group_pattern does not match {unmatched} of {len(samples)} images,"
            " which are groups of their own unless a csv names theirs"
        )
    return [
        replace(sample, group=group or sample.group)
        for sample, group in zip(samples, found, strict=True)
    ], notes
