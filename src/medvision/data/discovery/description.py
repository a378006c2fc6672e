"""Describe how a folder is read: layout, pairs, classes, sizes, groups, splits and commands."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvision.command_line import medvision_command, training
from medvision.console import counted
from medvision.data.discovery.index import (
    Index,
    choose_task,
    existing_folder,
    index_classification,
    index_segmentation,
)
from medvision.data.discovery.keys import DataKeys, anchored
from medvision.data.readers.annotations import container, read_content
from medvision.data.readers.decode import Picture, decode, samples
from medvision.data.readers.dicom import DicomPixels
from medvision.data.readers.targets import decode_target
from medvision.data.reading import Reading
from medvision.data.samples import JOIN, ROI, SampleTable, count_names, files_in, masks_in
from medvision.data.splits.sequences import group_by_sequence
from medvision.data.validation.validate import check_files
from medvision.errors import MedvisionError
from medvision.types import STAGES

_OPENED = 24
"""Files of each kind that are opened; the audit opens all."""

_EXAMPLES = 3
_WIDTH = 9


def reading_lines(index: Index) -> list[str]:
    """Describe how a folder was read in one or two lines; none for a table without a layout."""
    if not index.layout:
        return []
    words = f"read as {index.layout}"
    if index.pairing:
        words += f"; {index.pairing}"
    lines = [words]
    if index.other:
        lines.append(f"it can also be read as {index.other}")
    return lines


Agreement = Callable[[Sequence[NDArray[np.uint8]]], tuple[float, float]]
"""Return mean Dice and IoU between several masks (H, W) of one image."""


def inspect_folder(
    root: Path,
    keys: DataKeys,
    *,
    typed: Sequence[str] = (),
    agreement: Agreement | None = None,
) -> Iterator[str]:
    """Yield lines that say what a folder is read as, and how to audit it and to train on it.

    Args:
        root: The folder.
        keys: Keys of the command.
        typed: The same keys as typed, for the commands.
        agreement: Compares the masks of several annotators; None leaves their line out.

    Raises:
        MedvisionError: If no layout is recognised, or several are possible; with the key that
            decides.
    """
    base, own = anchored(existing_folder(root), keys.folder)
    place = base or root
    choice = choose_task(place, own)
    has_masks = choice.task == "segmentation"
    listing = index_segmentation if has_masks else index_classification
    index = listing(place, keys=own, splits=keys.splits, group_pattern=keys.group_pattern)
    found, notes = index.samples, [*choice.notes, *index.notes]
    if keys.group_by == "sequence":
        found, more = _in_sequences(place, found, keys.reading, has_masks=has_masks)
        notes += more
    yield str(root)
    yield _row("task", f"{choice.task}, {counted(len(found), 'image')}")
    layout = index.layout
    if (place / "splits.csv").is_file():
        layout = f"listed in splits.csv{f', {layout}' if layout else ''}"
    yield _row("layout", layout)
    if has_masks:
        yield _row("pairs", index.pairing or "from splits.csv")
    else:
        counts = Counter(found.targets)
        words = [f"{name} {counts[name]}" for name in index.class_names]
        yield _row("classes", ", ".join(words))
    yield from _file_rows(place, found, keys.reading if has_masks else None)
    if index.annotators and agreement is not None:
        yield _agreement_row(place, index, keys.reading, agreement)
    for number in range(min(_EXAMPLES, len(found))):
        sample = found[number * (len(found) - 1) // max(1, _EXAMPLES - 1)]
        yield _row("example" if not number else "", f"{sample.path} -> {sample.target}")
    yield from _split_rows(found)
    other = choice.other or index.other
    if other:
        yield _row("or else", other)
    for number, note in enumerate(notes):
        yield _row("note" if not number else "", note)
    more = list(typed)
    if keys.splits is not None and not any("splits=" in text for text in typed):
        more.append(f"data.splits={keys.splits}")
    yield _row("audit", shlex.join([*medvision_command().split(), "audit", str(root), *more]))
    if (keys.reading.num_classes or 2) > 2 and not keys.given.get("class_names"):
        names = ["background", *(f"class{k}" for k in range(1, keys.reading.num_classes or 2))]
        more.append(f"data.class_names=[{','.join(names)}]")  # a training needs them
    yield _row("train", training(f"experiment={choice.task}", f"data.root={root}", *more))


def _in_sequences(
    root: Path, found: SampleTable, reading: Reading, *, has_masks: bool
) -> tuple[SampleTable, list[str]]:
    """Read the files, and group the usable ones by sequence."""
    reading = replace(reading, num_classes=reading.num_classes if has_masks else None)
    check = check_files(root, found, reading, on_error="skip", max_decoded=None)
    assert check.properties is not None, "there is no largest number of files"
    facts = check.properties
    return group_by_sequence(check.samples, facts.thumbnail, facts.pixel_hash, where=str(root))


def _row(name: str, text: str) -> str:
    return f"  {name:<{_WIDTH}} {text}"


def _agreement_row(root: Path, index: Index, reading: Reading, agreement: Agreement) -> str:
    """Compare the masks of the annotators of some images."""
    several = [sample for sample in index.samples if sample.path in index.annotators]
    chosen, scores, faults = [several[row] for row in _spread(len(several))], [], []
    for sample in chosen:
        view = masks_in(sample.target)[1]
        end = "" if view is None else f"{JOIN}{ROI}{view}"
        try:
            masks = []
            for name in index.annotators[sample.path].values():
                contents = [read_content(root, file) for file in files_in(name + end)]
                masks.append(decode_target(contents, name + end, reading, where=str)[0])
            scores.append(agreement(masks))
        except MedvisionError as fault:
            faults.append(f"{fault.what} ({fault.where})")
    names = count_names(sorted({name for each in index.annotators.values() for name in each}))
    if not scores:
        return _row("agreement", f"{names}: {faults[0]}")
    dice, iou = np.mean(scores, axis=0)
    of = counted(len(scores), "image")
    unread = f"; {len(faults)} more cannot be compared: {faults[0]}" if faults else ""
    return _row("agreement", f"{names}: mean Dice {dice:.3f}, IoU {iou:.3f} over {of}{unread}")


def _spread(count: int) -> list[int]:
    """Return the rows that are opened, evenly spread."""
    rows = np.linspace(0, max(0, count - 1), min(count, _OPENED)).round().astype(int)
    return np.unique(rows).tolist()


def _split_rows(found: SampleTable) -> Iterator[str]:
    groups = Counter(filter(None, found.groups))
    if groups:
        of = counted(sum(groups.values()), "image")
        places: dict[str, set[str]] = {}
        for group, split in zip(found.groups, found.splits, strict=True):
            if group and split:
                places.setdefault(group, set()).add(split)
        torn = sum(len(of_group) > 1 for of_group in places.values())
        kept = (
            f"{torn} of them {'is' if torn == 1 else 'are'} in more than one of the given splits"
            if torn
            else "each stays in one split"
        )
        yield _row("groups", f"{counted(len(groups), 'group')} of {of}; {kept}")
    else:
        yield _row("groups", "none; data.group_pattern names the patient in a path")
    splits = Counter(found.splits)
    if set(splits) == {""}:
        yield _row("splits", "none given: train, val and test are drawn")
        return
    words = [f"{stage} {splits[stage]}" for stage in STAGES if splits[stage]]
    words += [f"drawn {splits['']}"] if splits[""] else []
    yield _row("splits", ", ".join(words))


def _file_rows(root: Path, found: SampleTable, reading: Reading | None) -> Iterator[str]:
    """Yield what some files are, and why they cannot be read; ``reading`` is that of masks."""
    opened = [found[row] for row in _spread(len(found))]
    kinds = {"images": [sample.path for sample in opened]}
    if reading is not None:
        first = (files_in(sample.target)[0] for sample in opened)
        kinds["masks"] = [name for name in first if not container(name).endswith(".json")]
    for kind, names in kinds.items():
        pictures, faults = _decoded(root, names, reading if kind == "masks" else None)
        if pictures:
            yield _row(kind, _properties(pictures, with_values=kind == "masks"))
        for number, fault in enumerate(faults[:_EXAMPLES]):
            yield _row("unread" if not number else "", fault)


def _decoded(
    root: Path, names: Iterable[str], reading: Reading | None
) -> tuple[list[Picture], list[str]]:
    """Decode files, and masks to classes; return what can be shown, and why others are refused."""
    pictures, faults = [], []
    for name in names:
        try:
            content = read_content(root, name)
            pictures.append(decode(content, where=name))
            if reading is not None:
                decode_target([content], name, reading, where=str)
        except MedvisionError as fault:
            faults.append(f"{name}: {fault.what}" + (f"; {fault.hint}" if reading else ""))
    return pictures, faults


def _properties(pictures: Sequence[Picture], *, with_values: bool) -> str:
    """Describe format, size, depth and colour, and the values of masks."""
    sizes, depths, values = Counter[str](), Counter[str](), set[int]()
    for picture in pictures:
        array = samples(picture)
        sizes[f"{array.shape[1]} x {array.shape[0]}"] += 1
        grey = array.ndim == 2 or bool((array == array[..., :1]).all())
        colour = "" if with_values else " grey" if grey else " colour"
        depths[f"{picture.file_format}, {picture.bits} bit{colour}"] += 1
        if with_values and not isinstance(picture.image, DicomPixels) and array.size:
            values.update(int(value) for value in np.unique(array)[:32])
    words = f"{count_names(list(depths), shown=3)}; {count_names(list(sizes), shown=3)} pixels"
    if with_values:
        levels = sorted(values)
        shown = ", ".join(map(str, levels)) if len(levels) <= 8 else f"{len(levels)} levels"
        words += f"; values {shown}"
    return f"{words} ({len(pictures)} opened)"
