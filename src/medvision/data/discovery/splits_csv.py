"""Table of samples on disk: columns ``split,path,target,group``, UTF-8, comma-separated."""

from __future__ import annotations

import csv
import difflib
import io
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, TextIO

from medvision.data.discovery.folders import refuse_controls
from medvision.data.samples import (
    JOIN,
    ROI,
    SPLIT_NAMES,
    Sample,
    SampleTable,
    count_names,
    split_name,
)
from medvision.errors import MedvisionError
from medvision.files import file_errors, open_table, runs_in_spreadsheets, write_atomically

COLUMNS = ("split", "path", "target", "group")

_OF_CLASSES = [
    "label",
    "labels",
    "class",
    "class_name",
    "category",
    "diagnosis",
    "dx",
    "finding",
    "finding_labels",
]
_OF_MASKS = [
    "mask",
    "mask_path",
    "mask_file",
    "mask_name",
    "mask_id",
    "segmentation",
    "gt",
    "ground_truth",
]
_USUAL = {
    "split": ["set", "subset", "partition"],
    "path": [
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "image",
        "image_path",
        "image_file",
        "image_name",
        "image_id",
        "imageid",
        "image_index",
        "id_code",
        "img",
        "img_path",
        "isic_id",
        "name",
        "id",
    ],
    "group": [
        "patient",
        "patient_id",
        "patientid",
        "subject",
        "subject_id",
        "case",
        "case_id",
        "lesion_id",
    ],
}
"""Usual names of each column, in the order of preference after its own name."""

Prefer = Literal["masks", "classes"]

_SPLITS = frozenset({"", *SPLIT_NAMES.values()})


def read_splits(path: Path, *, prefer: Prefer | None = None, one_hot: bool = False) -> SampleTable:
    """Return the samples of a csv or tsv file, in its order.

    Only the column ``path`` is required; missing columns are empty, unknown ones are ignored. Split
    names may be those of ``SPLIT_NAMES``. Columns are also found under usual other names, such as
    ``image_id``, ``mask``, ``label`` and ``patient_id``.

    Args:
        path: The file.
        prefer: Kind of the targets, if there are columns of both; None refuses them.
        one_hot: Without a column of targets, read the classes from columns of 0 and 1.

    Raises:
        MedvisionError: With the file and the line, if the file cannot be read, lacks the column,
            lists an image twice, or contains a path outside the root.
    """
    lines = array("q")  # line number of each row
    classes = _one_hot(path)[0] if one_hot and prefer != "masks" else {}
    samples = SampleTable.of_rows(_read(path, lines, prefer, classes))
    if not len(samples):
        raise MedvisionError("the file lists no images", where=str(path), hint="add lines to it")
    seen: dict[str, int] = {}
    for name, line in () if samples.paths.ascends() else zip(samples.paths, lines, strict=True):
        if seen.setdefault(name, line) != line:
            raise MedvisionError(
                f"{name} is listed twice, first in line {seen[name]}",
                where=f"{path}, line {line}",
                hint="keep one of the lines",
            )
    return samples


def read_columns(tables: Sequence[Path], columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return further columns of tables, such as the age of the patient: by name and image path.

    Args:
        tables: Tables of samples; where several have a column and list an image, the first counts.
        columns: Names of the columns; case is ignored.

    Raises:
        MedvisionError: If a file cannot be read, or all lack a column.
    """
    read = [_further_columns(table) for table in tables]
    found: dict[str, dict[str, str]] = {}
    for name in columns:
        wanted = name.strip().lower()
        having = [of[wanted] for of in read if wanted in of]
        if not having:
            others = dict.fromkeys(column for of in read for column in of)
            raise MedvisionError(
                f"no column {name}",
                where=f"{', '.join(map(str, tables))}, line 1",
                hint=f"{'its' if len(tables) == 1 else 'their'} further columns are"
                f" {', '.join(others)}"
                if others
                else "add the column, or leave data.subgroups out",
            )
        found[name] = {image: cell for of in reversed(having) for image, cell in of.items()}
    return found


def _further_columns(path: Path) -> dict[str, dict[str, str]]:
    """Return all columns of a table but ``COLUMNS``, by name and image path."""
    with file_errors("cannot read the file", path, hint="check data.root", exit_code=2):
        head, rows = _cells(path)
    image = _places(head, path, "masks")[COLUMNS.index("path")]
    if image < 0:
        return {}
    names = [_relative(row[image]) for row in rows]
    return {
        column: {name: row[place] for name, row in zip(names, rows, strict=True) if name}
        for place, column in enumerate(head)
        if column not in COLUMNS
    }


RECOGNISED = {
    "images": ("path", *_USUAL["path"]),
    "classes": ("target", *_OF_CLASSES),
    "masks": ("target", *_OF_MASKS),
    "groups": ("group", *_USUAL["group"]),
    "splits": ("split", *_USUAL["split"]),
}
"""Names of the columns of a table as `_usual_name` gives them, in the order of preference."""


def names_images(path: Path, *, with_targets: bool = False) -> bool:
    """Return True if the first line of a table names images, and targets if these are asked for."""
    try:
        columns = {_usual_name(name) for name in _head(path)}
    except (OSError, UnicodeDecodeError):
        return False
    targets = {*RECOGNISED["classes"], *RECOGNISED["masks"]}
    return not columns.isdisjoint(RECOGNISED["images"]) and (
        not with_targets or not columns.isdisjoint(targets) or _one_hot(path) != ({}, 0)
    )


def why_unread(path: Path) -> tuple[str, str] | None:
    """Return why a table does not name images and their targets and what to do; None if it does."""
    try:
        columns = _head(path)
    except OSError as fault:
        return f"{path.name} cannot be read: {fault.strerror or fault}", "check its permissions"
    except UnicodeDecodeError:
        return f"{path.name} is not UTF-8", "save it as CSV in UTF-8"
    kinds: tuple[str, ...]
    if not names_images(path):
        lacking, kinds = "names the files", ("images",)
    elif not names_images(path, with_targets=True):
        lacking, kinds = "holds the class or the mask", ("classes", "masks")
    elif (line := _one_hot(path)[1]) > 0:
        return (
            f"line {line} of {path.name} does not mark exactly one class with 1",
            "keep the images of one class each, or add a column class",
        )
    else:
        return None
    known = "; ".join(
        f"a column of {kind} is called {', '.join(RECOGNISED[kind][:6])}, ..." for kind in kinds
    )
    found = count_names(columns, shown=8)
    return f"none of the columns of {path.name} {lacking} of the images: {found}", known


def read_groups(path: Path) -> tuple[str, dict[str, str]]:
    """Return the name of the column of groups and the group of each image as the table spells it.

    Returns:
        A blank name and no groups, if the table has no such column or cannot be read.
    """
    if not names_images(path) or not any(
        _usual_name(name) in RECOGNISED["groups"] for name in _head(path)
    ):
        return "", {}
    try:
        head, rows = _cells(path)
    except (OSError, UnicodeDecodeError, csv.Error):
        return "", {}
    places = dict(zip(COLUMNS, _places(head, path, "masks"), strict=True))
    image, group = places["path"], places["group"]
    if image < 0 or group < 0:
        return "", {}
    return head[group], {row[image]: row[group] for row in rows if row[image] and row[group]}


def _reader(path: Path, stream: TextIO, *, strict: bool = False) -> Any:
    """Return a reader of an open table, whose first line tells the character between cells."""
    first = stream.readline()
    return csv.reader(chain([first], stream), strict=strict, delimiter=_delimiter(path, first))


def _cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the columns of a table in lower case, and the stripped cells of its complete rows."""
    with open_table(path, encoding="utf-8-sig") as stream:
        reader = _reader(path, stream)
        head = [name.strip().lower() for name in next(reader, [])]
        return head, [
            [cell.strip() for cell in cells] for cells in reader if len(cells) == len(head)
        ]


def _one_hot(path: Path) -> tuple[dict[int, str], int]:
    """Find the columns of 0 and 1 that stand for one class each.

    All columns but those of images, groups and splits have to be of this kind.

    Returns:
        Name of the class by place of its column; empty if there are no such columns, or if a row
        does not have exactly one 1. The line number of the first such row; 0 if there is none.
    """
    line = 0
    try:
        with open_table(path, encoding="utf-8-sig") as stream:
            reader = _reader(path, stream)
            head = [name.strip() for name in next(reader, [])]
            if not {"target", *_OF_CLASSES, *_OF_MASKS}.isdisjoint(map(_usual_name, head)):
                return {}, 0
            known = {"", *COLUMNS, *chain.from_iterable(_USUAL.values())}  # blank: row numbers
            classes = {k: name for k, name in enumerate(head) if _usual_name(name) not in known}
            are_splits = all(split_name(re.sub("(?i)^is_", "", name)) for name in classes.values())
            if len(classes) < 2 or are_splits:
                return {}, 0
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                marks = [cells[place].strip() for place in classes if place < len(cells)]
                if len(marks) < len(classes) or not _MARKS.issuperset(marks):
                    return {}, 0
                if sum(mark[0] == "1" for mark in marks) != 1:
                    line = line or reader.line_num
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}, 0
    return ({}, line) if line else (classes, 0)


_MARKS = frozenset({"0", "1", "0.0", "1.0"})


def _head(path: Path) -> list[str]:
    """Return the columns of a table as its first line writes them."""
    with open_table(path, encoding="utf-8-sig") as stream:
        first = stream.readline(10_000)
    return [name.strip().strip('"') for name in first.split(_delimiter(path, first))]


def _usual_name(column: str) -> str:
    """Return the name of a column in lower case, with underscores for spaces and hyphens."""
    return re.sub("[ -]", "_", column.strip().lower())


def _delimiter(path: Path, first: str) -> str:
    """Return the character between cells: that which the first line holds most often."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(",;\t", key=first.count)


def _places(columns: list[str], path: Path, prefer: Prefer | None) -> list[int]:
    """Return the place of each of ``COLUMNS``, under its own or a usual name; -1 without one."""
    usual, columns = dict(_USUAL), [_usual_name(name) for name in columns]
    masks, classes = ([n for n in names if n in columns] for names in (_OF_MASKS, _OF_CLASSES))
    if masks and classes and prefer is None and "target" not in columns:
        raise MedvisionError(
            f"the columns {masks[0]} and {classes[0]} could both be the target",
            where=f"{path}, line 1",
            hint="set data.task=segmentation or data.task=classification",
        )
    usual["target"] = masks if prefer == "masks" else classes if prefer else masks + classes
    if prefer == "masks" and not masks:
        usual["target"] = classes
    if prefer == "classes" and not classes:
        usual["target"] = masks
    found = []
    for column in COLUMNS:
        names = [name for name in (column, *usual[column]) if name in columns]
        found.append(columns.index(names[0]) if names else -1)
    return found


def _read(
    path: Path, lines: array[int], prefer: Prefer | None, one_hot: Mapping[int, str]
) -> Iterator[tuple[str, str, str, str]]:
    """Yield path, target, group and split of each row, and record its line number."""
    for line, (split, image, target, group) in _rows(path, prefer, one_hot):
        lines.append(line)
        try:
            if not image:
                raise MedvisionError("the column path is blank", hint="fill it in")
            if runs_in_spreadsheets(image):
                raise MedvisionError(
                    f"{image} would be a formula in a spreadsheet", hint="rename the folder"
                )
            yield _relative(image), _relative_target(target), group, _split(split)
        except MedvisionError as fault:
            where = f"{path}, line {line}"
            raise MedvisionError(fault.what, where=where, hint=fault.hint) from fault


def write_splits(path: Path, samples: Iterable[Sample]) -> None:
    """Write the samples in their order, atomically.

    Raises:
        MedvisionError: If the file cannot be written.
    """
    table = SampleTable.of(samples)
    content = io.BytesIO()
    with io.TextIOWrapper(content, encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        columns = (table.splits, table.paths, table.targets, table.groups)
        writer.writerows(zip(*columns, strict=True))
        text.flush()
        data = content.getvalue()
    with file_errors("cannot write the file", path):
        write_atomically(path, data)


def _rows(
    path: Path, prefer: Prefer | None, one_hot: Mapping[int, str]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the line number and the stripped cells in the order of ``COLUMNS``.

    The target is the class whose column of ``one_hot`` has a 1, if there is no column of targets.
    """
    line = 1
    try:
        with open_table(path, encoding="utf-8-sig") as stream:
            reader = _reader(path, stream, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            places = _places(columns, path, prefer)
            _check_columns(columns, path, places)
            for cells in reader:
                line = reader.line_num
                if len(cells) != len(columns):
                    if not any(cell.strip() for cell in cells):
                        continue
                    raise MedvisionError(
                        f"expected {len(columns)} cells as in the first line, got {len(cells)}",
                        where=f"{path}, line {line}",
                        hint="quote names that contain a comma",
                    )
                found = tuple(["" if k < 0 else cells[k].strip() for k in places])
                if one_hot and any(found):
                    marked = (name for k, name in one_hot.items() if cells[k].strip()[:1] == "1")
                    found = (*found[:2], next(marked, ""), *found[3:])
                if any(found) or any(cell.strip() for cell in cells):
                    yield line, found
    except OSError as fault:
        raise MedvisionError(
            f"cannot read the file: {fault.strerror or fault}",
            where=str(path),
            hint="check data.splits and data.root",
        ) from fault
    except UnicodeDecodeError as fault:
        raise MedvisionError(
            "the file is not UTF-8", where=str(path), hint="save it as CSV in UTF-8"
        ) from fault
    except csv.Error as fault:
        raise MedvisionError(
            f"not a csv file: {fault}", where=f"{path}, line {line + 1}", hint="fix the line"
        ) from fault


def _check_columns(columns: list[str], path: Path, places: list[int]) -> None:
    where = f"{path}, line 1"
    if places[COLUMNS.index("path")] < 0:
        raise MedvisionError(
            f"expected a column path, got {', '.join(columns) or 'no column'}",
            where=where,
            hint="the first line lists the columns split,path,target,group, separated by commas",
        )
    for column in columns:
        if columns.count(column) > 1:
            raise MedvisionError(
                f"the column {column} occurs twice", where=where, hint="keep one of them"
            )
        nearest = difflib.get_close_matches(column, COLUMNS, n=1, cutoff=0.75)
        known = column in COLUMNS or columns.index(column) in places
        if not known and nearest and places[COLUMNS.index(nearest[0])] < 0:
            raise MedvisionError(
                f"unknown column {column}", where=where, hint=f"did you mean {nearest[0]}?"
            )


def _relative(text: str) -> str:
    """Return a path below the root with forward slashes; class names are unchanged."""
    refuse_controls(text)
    if _PLAIN.fullmatch(text):
        return text
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts:
        raise MedvisionError(
            f"{text} is outside the data folder",
            hint="give paths relative to data.root, without ..",
        )
    return str(path) if text else ""


def _relative_target(text: str) -> str:
    """Return a target; where it joins several files, each of them is below the root."""
    if JOIN not in text:
        return _relative(text)
    parts = []
    for part in text.split(JOIN):
        mark = ROI if part.startswith(ROI) else ""
        parts.append(mark + _relative(part.removeprefix(ROI)))
    return JOIN.join(parts)


# Parts that do not start with a dot, separated by single slashes: nearly all paths.
_PLAIN = re.compile(r"(?:[^./\\:][^/\\:]*(?:/[^./\\:][^/\\:]*)*)?", re.DOTALL)


def _split(text: str) -> str:
    if text in _SPLITS:
        return text
    split = split_name(text)
    if split is None and text:
        nearest = difflib.get_close_matches(text.lower(), SPLIT_NAMES, n=1, cutoff=0.5)
        guess = f"did you mean {SPLIT_NAMES[nearest[0]]}? " if nearest else ""
        raise MedvisionError(
            f"unknown split {text}", hint=f"{guess}use train, val, test or leave it blank"
        )
    return split or ""
