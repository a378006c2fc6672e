"""The samples of a data set as a table: four columns of text, and a `Sample` for each row asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import overload

import numpy as np
from numpy.typing import NDArray

from medvision.data.sample import Sample, without_suffix
from medvision.data.texts import CHUNK, Texts, TextWriter

_COLUMNS = ("paths", "targets", "groups", "splits")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SampleTable(Sequence[Sample]):
    """A list of samples that takes a tenth of the memory, none of it objects that are counted.

    A row is a `Sample` made when it is asked for; whoever goes over all of them does better with
    the columns. Equal to any sequence of the same samples.

    Attributes:
        paths: ``Sample.path`` of each.
        targets: ``Sample.target`` of each.
        groups: ``Sample.group`` of each.
        splits: ``Sample.split`` of each.
    """

    paths: Texts
    targets: Texts
    groups: Texts
    splits: Texts

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> SampleTable:
        """The table of these samples: itself where it is one."""
        if isinstance(samples, SampleTable):
            return samples
        return cls.of_rows((s.path, s.target, s.group, s.split) for s in samples)

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[str, str, str, str]]) -> SampleTable:
        """The table of these paths, targets, groups and splits, which are gone through once."""
        source, writers = iter(rows), [TextWriter() for _ in _COLUMNS]
        while chunk := list(islice(source, CHUNK)):
            for writer, column in zip(writers, zip(*chunk, strict=True), strict=True):
                writer.extend(column)
        columns = (writer.finish() for writer in writers)
        return cls(**dict(zip(_COLUMNS, columns, strict=True)))

    @classmethod
    def joined(cls, tables: Iterable[Sequence[Sample]]) -> SampleTable:
        """The rows of several tables, one below the other."""
        parts = [cls.of(table) for table in tables]
        return cls(**{n: Texts.joined([getattr(part, n) for part in parts]) for n in _COLUMNS})

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
        """Path, target, group and split of each, which cost less than a `Sample`."""
        return zip(self.paths, self.targets, self.groups, self.splits, strict=True)

    def select(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> SampleTable:
        """The rows of these numbers, or where a mask (N,) is true."""
        return SampleTable(
            paths=self.paths.select(rows),
            targets=self.targets.select(rows),
            groups=self.groups.select(rows),
            splits=self.splits.select(rows),
        )

    def of_split(self, split: str) -> SampleTable:
        """The samples of one split, in their order."""
        return self.select(self.splits.equal(split))

    def by_path(self) -> SampleTable:
        """The samples in the order of their paths."""
        return self if self.paths.ascends() else self.select(self.paths.sorted_rows())

    def with_column(self, **columns: Iterable[str]) -> SampleTable:
        """The same samples with other paths, targets, groups or splits."""
        return replace(self, **{name: Texts.of(texts) for name, texts in columns.items()})

    def group_keys(self) -> Iterator[str]:
        """``Sample.group_key`` of each."""
        for group, path in zip(self.groups, self.paths, strict=True):
            yield group or without_suffix(path)
