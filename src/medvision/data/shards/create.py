"""Make shards of a folder: its layout told, its files checked as a training checks them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from medvision.data.discovery.folders import IMAGE_SUFFIXES, subfolders
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.readers.dicom import SUFFIXES
from medvision.data.reading import Reading
from medvision.data.samples import SampleTable, split_name
from medvision.data.shards.location import holds_shards
from medvision.data.shards.manifest import Manifest
from medvision.data.shards.writer import Advance, CheckedFolder, Task, store
from medvision.data.sources import FolderSource
from medvision.data.validation.validate import check_files
from medvision.errors import MedvisionError


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What was made.

    Attributes:
        out: The folder of the shards.
        manifest: What its shards.json says.
        skipped: Path and reason of each sample left out.
    """

    out: Path
    manifest: Manifest
    skipped: list[tuple[str, str]]

    @property
    def num_bytes(self) -> int:
        """Of all shards."""
        return sum(part.num_bytes for part in self.manifest.shards)


def make_shards(
    root: Path,
    out: Path,
    *,
    task: Task | None = None,
    shard_bytes: int,
    group_pattern: str | None = None,
    mask_suffix: str = "",
    num_classes: int = 2,
    color_map: Sequence[tuple[int, ...]] | None = None,
    value_range: tuple[float, float] | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    advance: Advance | None = None,
) -> Made:
    """Write the usable samples of a folder as shards, with their given splits.

    Samples that may be trained on lie in an order drawn once, so that a few shards are a fair part
    of the set; those of a given val or test split lie in shards of their own, in order.

    Args:
        root: Images and masks, or class folders, laid out as for training.
        out: Folder for the shards, new or empty, outside of ``root``.
        task: What the folder is for; None: what its layout says.
        shard_bytes: Largest size of a shard.
        group_pattern: As for `index_segmentation`.
        mask_suffix: As for `index_segmentation`.
        num_classes: As for `read_mask`.
        color_map: As for `read_mask`.
        value_range: As for `read_image`.
        on_error: As for `check_files`.
        advance: Told of the progress.

    Raises:
        MedvisionError: If the folder cannot be used as a training could not, or ``out`` cannot be
            written. Nothing is left of it then.
    """
    root, out = _two_folders(root, out)
    task = task or task_of(root)
    has_masks = task == "segmentation"
    reading = Reading(
        num_classes=num_classes if has_masks else None,
        color_map=color_map if has_masks else None,  # type: ignore[arg-type]  # it makes tuples
        value_range=value_range,
    )
    index = FolderSource(root, mask_suffix=mask_suffix, channels=3, reading=reading).index(
        group_pattern=group_pattern
    )
    checked = check_files(
        root,
        index.samples,
        reading,
        on_error=on_error,
        advance=None if advance is None else partial(advance, "read"),
    )
    _refuse_dicom(root, checked.samples)
    making = CheckedFolder(
        root=root,
        task=task,
        names=index.class_names,
        reading=reading,
        checked=checked,
        advance=advance,
    )
    notes = [*index.notes, *checked.notes]
    manifest = store(out, making, shard_bytes=shard_bytes, notes=notes)
    return Made(out=out, manifest=manifest, skipped=checked.skipped)


def _refuse_dicom(root: Path, samples: SampleTable) -> None:
    """Files are stored as they are, and these say whose they are.

    Raises:
        MedvisionError: If there are any.
    """
    named = [path for path in samples.paths if PurePosixPath(path).suffix.lower() in SUFFIXES]
    if named:
        raise MedvisionError(
            f"{len(named)} files are DICOM, such as {named[0]}: shards would carry the names of"
            " patients",
            where=str(root),
            hint="convert them to PNG first",
        )


def task_of(root: Path) -> Task:
    """What the layout of a folder is for: masks beside images, or else classes.

    Raises:
        MedvisionError: If the folder cannot be listed.
    """
    table = root / "splits.csv"
    targets = [s.target for s in read_splits(table) if s.target] if table.is_file() else []
    if targets:
        is_file = PurePosixPath(targets[0]).suffix.lower() in IMAGE_SUFFIXES
        return "segmentation" if is_file else "classification"
    inside = subfolders(root)
    places = [root, *(folder for folder in inside if split_name(folder.name))]
    for place in places:
        names = {folder.name.lower() for folder in subfolders(place)}
        if {"images", "masks"} <= names or names == {"images"}:
            return "segmentation"
    return "classification"


def _two_folders(root: Path, out: Path) -> tuple[Path, Path]:
    if "://" in str(out) or re.match(r"\w+:/", str(out)):
        raise MedvisionError(
            "shards are written to a folder of this machine",
            where=str(out),
            hint="name a folder, then copy it where it shall lie",
        )
    root, out = root.expanduser(), out.expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MedvisionError(f"the data folder {what}", where=str(root), hint="check the path")
    if holds_shards(root):
        raise MedvisionError(
            "the folder holds shards already", where=str(root), hint="train on it as it is"
        )
    if out.resolve().is_relative_to(root.resolve()):
        raise MedvisionError(
            "the shards would lie inside the data set", where=str(out), hint="name another folder"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MedvisionError("exists and is not empty", where=str(out), hint="name a new folder")
    return root, out
