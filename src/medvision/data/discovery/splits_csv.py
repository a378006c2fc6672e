"""Table of samples on disk: columns ``split,path,target,group``, UTF-8, comma-separated."""

from __future__ import annotations

import csv
import difflib
import io
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from medvision.data.discovery.folders import refuse_controls
from medvision.data.samples import SPLIT_NAMES, Sample, SampleTable, split_name
from medvision.errors import MedvisionError
from medvision.files import file_errors, open_table, runs_in_spreadsheets, write_atomically

COLUMNS = ("split", "path", "target", "group")

_SPLITS = frozenset({"", *SPLIT_NAMES.values()})


def read_splits(path: Path) -> SampleTable:
    """Return the samples of a csv file, in its order.

    Only the column ``path`` is required; missing columns are empty, unknown ones are ignored. Split
    names may be those of ``SPLIT_NAMES``.

    Raises:
        MedvisionError: With the file and the line, if the file cannot be read, lacks the column,
            lists an image twice, or contains a path outside the root.
    """
    lines = array("q")  # line number of each row
    samples = SampleTable.of_rows(_read(path, lines))
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


def _read(path: Path, lines: array[int]) -> Iterator[tuple[str, str, str, str]]:
    """Yield path, target, group and split of each row, and record its line number."""
    for line, (split, image, target, group) in _rows(path):
        lines.append(line)
        try:
            if not image:
                raise MedvisionError("the column path is blank", hint="fill it in")
            if runs_in_spreadsheets(image):
                raise MedvisionError(
                    f"{image} would be a formula in a spreadsheet", hint="rename the folder"
                )
            yield _relative(image), _relative(target), group, _split(split)
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


def _rows(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the line number and the stripped cells in the order of ``COLUMNS``."""
    line = 1
    try:
        with open_table(path, encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            _check_columns(columns, path)
            places = [columns.index(name) if name in columns else -1 for name in COLUMNS]
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


def _check_columns(columns: list[str], path: Path) -> None:
    where = f"{path}, line 1"
    if "path" not in columns:
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
        if column not in COLUMNS and nearest and nearest[0] not in columns:
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
