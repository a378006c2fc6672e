"""The table of samples on disk: ``split,path,target,group``, in UTF-8 with commas."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from medvision.data.sample import SPLIT_NAMES, Sample, split_name
from medvision.files import write_atomically
from medvision.types import MedvisionError

COLUMNS = ("split", "path", "target", "group")


def read_splits(path: Path) -> list[Sample]:
    """Return the samples a csv file lists, in its order.

    Only the column ``path`` must be there; missing ones read as empty, unknown ones are left
    out. Names of splits may be written as in ``SPLIT_NAMES``.

    Raises:
        MedvisionError: Naming the file and the line, if the file cannot be read, lacks the
            column, lists an image twice, or holds a path that leaves the root.
    """
    first_line: dict[str, int] = {}
    rows = []
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        image = _relative(row.get("path", ""), where)
        if not image:
            raise MedvisionError("the column path is blank", where=where, hint="fill it in")
        if image in first_line:
            raise MedvisionError(
                f"{image} is listed twice, first in line {first_line[image]}",
                where=where,
                hint="keep one of the lines",
            )
        first_line[image] = line
        rows.append(
            Sample(
                path=image,
                target=_relative(row.get("target", ""), where),
                group=row.get("group", ""),
                split=_split(row.get("split", ""), where),
            )
        )
    if not rows:
        raise MedvisionError("the file lists no image", where=str(path), hint="add lines to it")
    return rows


def write_splits(path: Path, samples: Iterable[Sample]) -> None:
    """Write the samples in their order; a reader never sees half a file.

    Raises:
        MedvisionError: If the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((s.split, s.path, s.target, s.group) for s in samples)
    try:
        write_atomically(path, text.getvalue())
    except OSError as fault:
        raise MedvisionError(
            f"cannot write the file: {fault.strerror or fault}",
            where=str(path),
            hint="check space and permissions",
            exit_code=3,
        ) from fault


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each line's number and its stripped cells by column."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            _check_columns(columns, path)
            for cells in reader:
                line = reader.line_num
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(columns):
                    raise MedvisionError(
                        f"{len(cells)} cells, the first line has {len(columns)}",
                        where=f"{path}, line {line}",
                        hint="quote names that hold a comma",
                    )
                yield line, dict(zip(columns, (cell.strip() for cell in cells), strict=True))
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
            f"not a csv file: {fault}", where=f"{path}, line {line + 1}", hint="mend the line"
        ) from fault


def _check_columns(columns: list[str], path: Path) -> None:
    where = f"{path}, line 1"
    if "path" not in columns:
        raise MedvisionError(
            f"no column path among {', '.join(columns) or 'none'}",
            where=where,
            hint="the first line names the columns split,path,target,group with commas between",
        )
    for column in columns:
        if columns.count(column) > 1:
            raise MedvisionError(
                f"the column {column} is there twice", where=where, hint="keep one of them"
            )
        nearest = difflib.get_close_matches(column, COLUMNS, n=1, cutoff=0.75)
        if column not in COLUMNS and nearest and nearest[0] not in columns:
            raise MedvisionError(
                f"unknown column {column}", where=where, hint=f"did you mean {nearest[0]}?"
            )


def _relative(text: str, where: str) -> str:
    """Return a path below the root with forward slashes; class names pass unchanged."""
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts:
        raise MedvisionError(
            f"{text} leaves the data folder",
            where=where,
            hint="give paths relative to data.root, without ..",
        )
    return str(path) if text else ""


def _split(text: str, where: str) -> str:
    split = split_name(text)
    if split is None and text:
        nearest = difflib.get_close_matches(text.lower(), SPLIT_NAMES, n=1, cutoff=0.5)
        guess = f"did you mean {SPLIT_NAMES[nearest[0]]}? " if nearest else ""
        raise MedvisionError(
            f"unknown split {text}", where=where, hint=f"{guess}use train, val, test or a blank"
        )
    return split or ""
