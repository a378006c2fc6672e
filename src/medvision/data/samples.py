"""Samples (image, target, split and group), and tables of millions of them.

A list of a million strings holds a million objects of 60 to 100 bytes. Forked loader processes
share memory pages with the training process until a page is written, and reading a Python object
writes its reference count. A column is therefore stored as one string and two arrays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import PurePosixPath
from typing import overload

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 16
"""Number of rows processed at once when a column is built or iterated."""

_MAX_REPEATED = 1 << 12  # distinct texts, up to which each is stored once


class StringColumn(Sequence[str]):
    """Strings stored as slices of one long string; a few distinct values are stored once.

    Args:
        text: Concatenation of the stored strings.
        ends: (K + 1,) 0, followed by the end offset of each of the K stored strings.
        codes: (N,) index of the stored string of each row; None: row k is string k.
    """

    __slots__ = ("_codes", "_ends", "_text")

    def __init__(
        self, text: str, ends: NDArray[np.integer], codes: NDArray[np.integer] | None
    ) -> None:
        self._text, self._ends, self._codes = text, ends, codes

    @classmethod
    def of(cls, texts: Iterable[str]) -> StringColumn:
        """Create a column from texts, which are iterated once."""
        if isinstance(texts, StringColumn):
            return texts
        source, writer = iter(texts), _ColumnWriter()
        while chunk := list(islice(source, CHUNK)):
            writer.extend(chunk)
        return writer.finish()

    @classmethod
    def joined(cls, parts: Sequence[StringColumn]) -> StringColumn:
        """Concatenate several columns; parts of one column share its text."""
        stores = {(id(part._text), id(part._ends)) for part in parts}
        if len(stores) != 1:
            return cls.of(chain.from_iterable(parts))
        codes = np.concatenate([part._which() for part in parts])
        return cls(parts[0]._text, parts[0]._ends, codes)

    @classmethod
    def coded(cls, names: Sequence[str], codes: NDArray[np.integer]) -> StringColumn:
        """Create the column whose row k is ``names[codes[k]]``.

        Args:
            names: Distinct strings.
            codes: (N,) indices in [0, len(names)).
        """
        ends = np.cumsum([0, *map(len, names)])
        return cls("".join(names), ends, codes.astype(np.min_scalar_type(len(names))))

    @classmethod
    def blank(cls, num_rows: int) -> StringColumn:
        """Create a column of empty texts."""
        return cls.coded([""], np.zeros(num_rows, np.uint8))

    def __len__(self) -> int:
        return len(self._ends) - 1 if self._codes is None else len(self._codes)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> StringColumn: ...
    def __getitem__(self, row: int | slice) -> str | StringColumn:
        if isinstance(row, slice):
            return self.select(np.arange(len(self))[row])
        place = range(len(self))[row]
        code = place if self._codes is None else self._codes[place]
        return self._text[int(self._ends[code]) : int(self._ends[code + 1])]

    def __iter__(self) -> Iterator[str]:
        return self._stored() if self._codes is None else self._coded(self._codes)

    def select(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> StringColumn:
        """Select rows by index or boolean mask (N,); the stored text is shared."""
        codes = self._which()[rows].astype(np.min_scalar_type(len(self._ends)))
        return StringColumn(self._text, self._ends, codes)

    def numbered(self) -> tuple[list[str], NDArray[np.intp]]:
        """Return the sorted distinct texts, and the index into them of each row, (N,)."""
        stored, codes = list(self._stored()), self._which()
        used = np.flatnonzero(np.bincount(codes, minlength=len(stored)))
        names = sorted({stored[place] for place in used.tolist()})
        number = {name: place for place, name in enumerate(names)}
        rank = np.zeros(len(stored), np.intp)
        rank[used] = [number[stored[place]] for place in used.tolist()]
        return names, rank[codes]

    def equal(self, text: str) -> NDArray[np.bool_]:
        """Compare each row with a text, (N,)."""
        found = np.fromiter((own == text for own in self._stored()), bool, len(self._ends) - 1)
        return found if self._codes is None else found[self._codes]

    def ascends(self) -> bool:
        """Return True if the texts are strictly ascending."""
        return all(one < other for one, other in pairwise(self))

    def sorted_rows(self) -> NDArray[np.intp]:
        """Return the row indices in stable order of their texts."""
        texts = list(self)
        return np.array(sorted(range(len(texts)), key=texts.__getitem__), np.intp)

    def _stored(self) -> Iterator[str]:
        text = self._text
        for start in range(0, len(self._ends) - 1, CHUNK):
            ends = self._ends[start : start + CHUNK + 1].tolist()
            for one, other in pairwise(ends):
                yield text[one:other]

    def _coded(self, codes: NDArray[np.integer]) -> Iterator[str]:
        text, ends = self._text, self._ends
        few = list(self._stored()) if len(ends) <= _MAX_REPEATED + 1 else None
        for start in range(0, len(codes), CHUNK):
            chunk = codes[start : start + CHUNK]
            if few is not None:
                yield from map(few.__getitem__, chunk.tolist())
                continue
            starts, stops = ends[chunk].tolist(), ends[chunk.astype(np.int64) + 1].tolist()
            for one, other in zip(starts, stops, strict=True):
                yield text[one:other]

    def _which(self) -> NDArray[np.integer]:
        """Return the index of the stored string of each row, (N,)."""
        return np.arange(len(self)) if self._codes is None else self._codes


class _ColumnWriter:
    """Builder of a column from chunks of texts, which are not retained."""

    def __init__(self) -> None:
        self._parts, self._num_stored = [""], 0
        self._lengths, self._codes = [np.zeros(1, np.uint32)], [np.zeros(0, np.uint8)]
        self._number: dict[str, int] | None = {}  # None: too many distinct texts

    def extend(self, chunk: Sequence[str]) -> None:
        """Append rows."""
        new = chunk
        if self._number is not None:
            new = [text for text in dict.fromkeys(chunk) if text not in self._number]
            if self._num_stored + len(new) > _MAX_REPEATED:
                self._number, new = None, chunk
        if self._number is None:
            codes = np.arange(self._num_stored, self._num_stored + len(chunk))
        else:
            self._number |= {text: self._num_stored + place for place, text in enumerate(new)}
            codes = np.fromiter(map(self._number.__getitem__, chunk), np.int64, len(chunk))
        self._num_stored += len(new)
        self._codes.append(codes.astype(np.min_scalar_type(self._num_stored)))
        self._parts.append("".join(new))
        self._lengths.append(np.fromiter(map(len, new), np.uint32, len(new)))

    def finish(self) -> StringColumn:
        """Return the column of all appended rows."""
        ends = np.cumsum(np.concatenate(self._lengths), dtype=np.int64)
        repeats = self._num_stored < sum(map(len, self._codes))
        return StringColumn(
            "".join(self._parts),
            ends.astype(np.min_scalar_type(int(ends[-1]))),
            np.concatenate(self._codes) if repeats else None,
        )


SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    **{f"{name}{end}": name for name in ("train", "val", "test") for end in ("set", "dataset")},
    "trainingset": "train",
    "validationset": "val",
    "testingset": "test",
}
"""Split of each folder name or csv entry; case, spaces, hyphens and underscores are ignored."""

JOIN = "|"
"""Joins the masks of one image in a target; file names hold it on no Windows disk."""

ROI = "roi:"
"""Begins the part of a target that is a field-of-view mask."""

Pixels = tuple[NDArray[np.uint8], NDArray[np.uint8] | None]
"""Image (H, W, C) in [0, 255] of a sample, and class indices (H, W) if it has a mask."""

_ODD = re.compile(r"/\.?/")  # parts that are removed from a path


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image of a data set.

    Attributes:
        path: Path of the image relative to the root, with forward slashes.
        target: Path of the mask relative to the root, or the class name. Several masks of an image
            are joined by ``|``, and a field-of-view mask follows as ``|roi:PATH``.
        group: Name of the group that must stay together (patient, video); empty for a single image.
        split: ``train``, ``val`` or ``test``; empty if not assigned yet.
    """

    path: str
    target: str
    group: str = ""
    split: str = ""

    @property
    def group_key(self) -> str:
        """Group, or the image path without extension if the group is empty."""
        return self.group or without_suffix(self.path)


def without_suffix(path: str) -> str:
    """Return a path without its file extension, normalised as by `PurePosixPath`."""
    folder, slash, name = path.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    plain = stem and suffix and stem[0] != "." and path[0] not in "./" and _ODD.search(path) is None
    return f"{folder}{slash}{stem}" if plain else str(PurePosixPath(path).with_suffix(""))


def masks_in(target: str) -> tuple[list[str], str | None]:
    """Return the paths of the masks in a target, and that of the field-of-view mask or None."""
    if JOIN not in target:
        return [target], None
    parts = target.split(JOIN)
    masks = [part for part in parts if not part.startswith(ROI)]
    views = [part.removeprefix(ROI) for part in parts if part.startswith(ROI)]
    return masks, views[0] if views else None


def files_in(target: str) -> list[str]:
    """Return the paths of all files in a target: masks, then the field-of-view mask."""
    masks, view = masks_in(target)
    return masks if view is None else [*masks, view]


_WITHOUT_JOINTS = str.maketrans("", "", " \t_-")


def split_name(name: str) -> str | None:
    """Return the split named by a folder or csv entry, or None."""
    return SPLIT_NAMES.get(name.lower().translate(_WITHOUT_JOINTS))


def count_names(names: list[str], *, shown: int = 5) -> str:
    """Return the first names and the number of remaining ones, as text."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


_COLUMNS = ("paths", "targets", "groups", "splits")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SampleTable(Sequence[Sample]):
    """Sequence of samples in a tenth of a list's memory, without reference-counted objects.

    Indexing creates a `Sample`; to iterate over all rows, the columns are faster. A table is equal
    to any sequence of the same samples.

    Attributes:
        paths: ``Sample.path`` of each.
        targets: ``Sample.target`` of each.
        groups: ``Sample.group`` of each.
        splits: ``Sample.split`` of each.
    """

    paths: StringColumn
    targets: StringColumn
    groups: StringColumn
    splits: StringColumn

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> SampleTable:
        """Create a table of samples; a table is returned as is."""
        if isinstance(samples, SampleTable):
            return samples
        return cls.of_rows((s.path, s.target, s.group, s.split) for s in samples)

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[str, str, str, str]]) -> SampleTable:
        """Create a table from (path, target, group, split) rows, which are iterated once."""
        source, writers = iter(rows), [_ColumnWriter() for _ in _COLUMNS]
        while chunk := list(islice(source, CHUNK)):
            for writer, column in zip(writers, zip(*chunk, strict=True), strict=True):
                writer.extend(column)
        columns = (writer.finish() for writer in writers)
        return cls(**dict(zip(_COLUMNS, columns, strict=True)))

    @classmethod
    def of_split_files(
        cls, paths: Iterable[str], targets: Iterable[str], split: str
    ) -> SampleTable:
        """Create a table of images of one split, or without split, with empty groups."""
        names = StringColumn.of(paths)
        return cls(
            paths=names,
            targets=StringColumn.of(targets),
            groups=StringColumn.blank(len(names)),
            splits=StringColumn.coded([split], np.zeros(len(names), np.uint8)),
        )

    @classmethod
    def joined(cls, tables: Iterable[Sequence[Sample]]) -> SampleTable:
        """Concatenate several tables."""
        parts = [cls.of(table) for table in tables]
        return cls(
            **{n: StringColumn.joined([getattr(part, n) for part in parts]) for n in _COLUMNS}
        )

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, row: int) -> Sample: ...
    @overload
    def __getitem__(self, row: slice) -> SampleTable: ...
    def __getitem__(self, row: int | slice) -> Sample | SampleTable:
        if isinstance(row, slice):
            return self.select(np.arange(len(self))[row])
        return Sample(
            path=self.paths[row],
            target=self.targets[row],
            group=self.groups[row],
            split=self.splits[row],
        )

    def __iter__(self) -> Iterator[Sample]:
        for path, target, group, split in self.rows():
            yield Sample(path=path, target=target, group=group, split=split)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # like a list

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Iterate over (path, target, group, split), which is faster than creating a `Sample`."""
        return zip(self.paths, self.targets, self.groups, self.splits, strict=True)

    def select(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> SampleTable:
        """Select rows by index or boolean mask (N,)."""
        return SampleTable(**{name: getattr(self, name).select(rows) for name in _COLUMNS})

    def of_split(self, split: str) -> SampleTable:
        """Select the samples of one split, in their order."""
        return self.select(self.splits.equal(split))

    def by_path(self) -> SampleTable:
        """Return the samples sorted by path."""
        return self if self.paths.ascends() else self.select(self.paths.sorted_rows())

    def with_column(self, **columns: Iterable[str]) -> SampleTable:
        """Return the samples with some columns replaced."""
        return replace(self, **{name: StringColumn.of(texts) for name, texts in columns.items()})

    def group_keys(self) -> Iterator[str]:
        """Iterate over ``Sample.group_key``."""
        for group, path in zip(self.groups, self.paths, strict=True):
            yield group or without_suffix(path)
