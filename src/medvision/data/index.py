"""List the samples of a segmentation set, with the splits and groups that were given.

A given split wins: the csv that the user names, then ``ROOT/splits.csv``, then folders named
after splits. Samples without one have an empty split and are drawn later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from medvision.data.checks import CheckResult, check_segmentation
from medvision.data.folders import SEGMENTATION_LAYOUT, Scan, scan_segmentation
from medvision.data.group_salt import hash_groups
from medvision.data.sample import Sample, count_names
from medvision.data.splits_csv import read_splits, write_splits
from medvision.types import MedvisionError

__all__ = [  # the tables of samples are used through this module
    "CheckResult",
    "Index",
    "Sample",
    "check_segmentation",
    "hash_groups",
    "index_segmentation",
    "read_splits",
    "write_splits",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """The samples of a data set, by path, and notes on what was left out or is odd."""

    samples: list[Sample]
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
    root = root.expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MedvisionError(
            f"the data folder {what}",
            where=str(root),
            hint=f"check data.root: {SEGMENTATION_LAYOUT}",
        )
    scan = scan_segmentation(root, mask_suffix=mask_suffix)
    notes: list[str] = []
    own = root / "splits.csv"
    if own.is_file():
        samples = _listed(own, root, scan)
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
        samples, kept_notes = _kept(splits.expanduser(), root, scan, samples, own.is_file())
        notes = notes + kept_notes
    if group_pattern is not None:
        samples, pattern_notes = _grouped(samples, group_pattern)
        notes = notes + pattern_notes
    return Index(samples=sorted(samples, key=lambda sample: sample.path), notes=notes)


def _sound(scan: Scan) -> list[Sample]:
    if scan.problems:
        raise scan.problems[0]
    return scan.samples


def _listed(table: Path, root: Path, scan: Scan) -> list[Sample]:
    """Return the samples of a csv, masks matched by stem where it names none."""
    masks = {sample.path: sample.target for sample in scan.samples}
    rows = read_splits(table)
    samples = [row if row.target else replace(row, target=masks.get(row.path, "")) for row in rows]
    missing = [
        name for s in samples for name in (s.path, s.target) if name and not (root / name).is_file()
    ]
    if missing:
        raise MedvisionError(
            f"{len(missing)} listed files do not exist below {root}: {count_names(missing)}",
            where=str(table),
            hint="check data.root, or remove their lines",
        )
    without_mask = [sample.path for sample in samples if not sample.target]
    if without_mask:
        raise MedvisionError(
            f"{len(without_mask)} of {len(samples)} images have no mask:"
            f" {count_names(without_mask)}",
            where=str(table),
            hint="add the column target, or masks with the stems of the images",
        )
    return samples


def _kept(
    table: Path, root: Path, scan: Scan, known: list[Sample], has_csv: bool
) -> tuple[list[Sample], list[str]]:
    """Lay the splits of an earlier run over the samples that are there now."""
    kept = {sample.path: sample for sample in _listed(table, root, scan)}
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
