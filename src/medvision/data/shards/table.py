"""Location of each image in a set of shards, as columns that load without unpickling.

On disk a text column is one array of UTF-8 bytes and the end offset of each text, so that a million
rows load at disk speed.
"""

from __future__ import annotations

import re
import zipfile
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice, pairwise
from operator import eq, lt
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from medvision.data.samples import SampleTable, StringColumn

SPLITS = ("", "train", "val", "test")
"""Split of each code; blank if none was given."""

_TEXTS = ("path", "target", "group", "content")

_UNSAFE = re.compile(r"^[/\\]|(?:^|[/\\])\.\.(?:[/\\]|$)|^[A-Za-z]:[/\\]|\n\n|\0", re.MULTILINE)
"""Names outside a folder: an absolute path, a drive or ``..``; also a blank name."""

_ODD = ("..", "\\", ":", "\n/", "\n\n", "\0")
"""Fast pre-check: every unsafe name contains one of these, and hardly any other name does."""

DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    MemoryError,  # an array declared larger than its file
    NotImplementedError,
    zipfile.BadZipFile,
)
"""Exceptions raised when reading damaged columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTable:
    """Table with a row for each image, by path.

    Attributes:
        path: ``Sample.path``.
        target: ``Sample.target``.
        group: ``Sample.group``.
        content: Part of each image's fingerprint line after path and target.
        split: uint8 (N,), index into ``SPLITS``.
        shard: int32 (N,), number of the shard.
        start: int64 (N, F), offset in the shard of the image and, where F is 2, of the mask.
        size: int64 (N, F), their sizes in bytes.
    """

    path: StringColumn
    target: StringColumn
    group: StringColumn
    content: StringColumn
    split: NDArray[np.uint8]
    shard: NDArray[np.int32]
    start: NDArray[np.int64]
    size: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.path)

    def row_of(self, path: str) -> int | None:
        """Return the row of an image, or None."""
        row = bisect_left(self.path, path)
        return row if row < len(self) and self.path[row] == path else None

    def rows_of(self, paths: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of several images, -1 if missing."""
        if len(paths) == len(self) and all(map(eq, paths, self.path)):
            return np.arange(len(self))
        known = {path: row for row, path in enumerate(self.path)}
        return np.fromiter((known.get(path, -1) for path in paths), np.int64, len(paths))

    def samples(self) -> SampleTable:
        """Return all samples with their given splits."""
        return SampleTable(
            paths=self.path,
            targets=self.target,
            groups=self.group,
            splits=StringColumn.coded(SPLITS, self.split),
        )

    def to_columns(self) -> dict[str, NDArray[Any]]:
        """Return plain arrays, which load without unpickling."""
        columns = {name: getattr(self, name) for name in ("split", "shard", "start", "size")}
        for name in _TEXTS:
            parts = [text.encode() for text in getattr(self, name)]
            columns[name] = np.frombuffer(b"".join(parts), np.uint8)
            columns[f"{name}_ends"] = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return columns

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[Any]]) -> Self:
        """Create a table from the result of `to_columns`.

        Raises:
            ValueError: If a column has another type, or text is not UTF-8.
            KeyError: If a column is missing.
        """
        texts = {
            name: _texts(_typed(columns, name, np.uint8), _typed(columns, f"{name}_ends", np.int64))
            for name in _TEXTS
        }
        return cls(
            **texts,
            split=_typed(columns, "split", np.uint8),
            shard=_typed(columns, "shard", np.int32),
            start=_typed(columns, "start", np.int64),
            size=_typed(columns, "size", np.int64),
        )

    def check(self, shard_bytes: Sequence[int], *, with_masks: bool) -> None:
        """Validate the table against shards of these sizes.

        Args:
            shard_bytes: Size of each shard.
            with_masks: If True, targets are mask files.

        Raises:
            ValueError: If columns are inconsistent, names are not sorted or lead outside the
                folder, or an image is outside its shard.
        """
        lengths = {len(getattr(self, field.name)) for field in fields(self)}
        shape = (len(self), 2 if with_masks else 1)
        if len(lengths) != 1 or self.start.shape != shape or self.size.shape != shape:
            raise ValueError("columns of different lengths")
        if not len(self):
            raise ValueError("no images")
        _check_names(list(self.path), in_order=True)
        if with_masks:
            _check_names(list(self.target), in_order=False)
        if int(self.split.max()) >= len(SPLITS):
            raise ValueError("an unknown split")
        if int(self.shard.min()) < 0 or int(self.shard.max()) >= len(shard_bytes):
            raise ValueError("an image in a missing shard")
        last_start = np.array(shard_bytes, np.int64)[self.shard][:, None] - self.size
        if (self.size <= 0).any() or (self.start < 0).any() or (self.start > last_start).any():
            raise ValueError("an image outside its shard")


def _check_names(names: list[str], *, in_order: bool) -> None:
    text = "\n".join(["", *names, ""])
    if any(mark in text for mark in _ODD) and _UNSAFE.search(text):
        raise ValueError("a name outside the folder, or a blank one")
    if in_order and not all(map(lt, names, islice(names, 1, None))):
        raise ValueError("names that are repeated or not sorted")


def _texts(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> StringColumn:
    """Create a column from UTF-8 bytes and end offsets."""
    starts = np.concatenate([np.zeros(1, np.int64), ends])
    if ends.ndim != 1 or data.ndim != 1 or (np.diff(starts) < 0).any() or starts[-1] != len(data):
        raise ValueError("texts with invalid end offsets")
    text = data.tobytes().decode()
    if len(text) < len(data):  # convert byte offsets to character offsets
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum((data & 0xC0) != 0x80)])
        starts = before[starts]
    return StringColumn.of(text[a:b] for a, b in pairwise(starts.tolist()))


def _typed(columns: Mapping[str, NDArray[Any]], name: str, kind: Any) -> NDArray[Any]:
    column = columns[name]
    if column.dtype != kind:
        raise ValueError(f"the column {name} has type {column.dtype}")
    return column


def write_columns(stream: IO[bytes], columns: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as an npz file, uncompressed."""
    np.savez(stream, allow_pickle=False, **columns)


def read_columns(stream: IO[bytes]) -> dict[str, NDArray[Any]]:
    """Read arrays written by `write_columns`.

    Raises:
        Exception: One of ``DAMAGE``, if they cannot be read.
    """
    with zipfile.ZipFile(stream) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("compressed columns")  # may expand to any size
        if sum(part.file_size for part in parts) > stream.seek(0, 2):
            raise ValueError("columns larger than their file")  # several may share their bytes
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
