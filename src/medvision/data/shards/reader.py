"""Read images from shards by offset, without reading whole files."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvision.data.samples import Sample
from medvision.data.shards.cache import ShardCache
from medvision.data.shards.manifest import AGAIN, Part, damaged
from medvision.data.shards.table import ShardTable
from medvision.errors import MedvisionError
from medvision.files import file_errors, regular_descriptor

MAX_OPEN = 64
"""Largest number of shards a process keeps open."""

MOST_SHARD_BYTES = 10**12
"""Largest size of a shard; it is read in parts."""

IMAGE, MASK = 0, 1
"""Index of a file within a row."""


@dataclass(frozen=True, kw_only=True)
class LocalFolder:
    """Files of a set in a local folder."""

    folder: Path

    def open(self, part: Part) -> int:
        """Return a descriptor of a file, open for reading.

        Raises:
            MedvisionError: If it cannot be opened.
        """
        path = self.folder / part.name
        with file_errors("cannot read the file", path, hint=AGAIN, exit_code=2):
            return regular_descriptor(path, most=MOST_SHARD_BYTES)


Opener = LocalFolder | ShardCache


class _Descriptor:
    """Open file, closed when no longer referenced."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class ShardFiles:
    """Files in the shards of one set; can be sent to other processes.

    Args:
        place: Folder or address, for messages.
        opener: Opener of the shards.
        shards: Names and sizes of the shards.
        table: Location of each image, checked against the sizes.
    """

    def __init__(
        self, *, place: str, opener: Opener, shards: Sequence[Part], table: ShardTable
    ) -> None:
        self.place, self.opener, self.shards, self.table = place, opener, shards, table
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        kept = {"place": self.place, "opener": self.opener}
        return {**kept, "shards": self.shards, "table": self.table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def where(self, path: str) -> str:
        """Return the name of an image or mask in messages."""
        return f"{self.place}: {path}"

    def image(self, path: str) -> bytes:
        """Return the content of an image file.

        Raises:
            MedvisionError: If no image has this name, or its shard cannot be read.
        """
        return self._read(self._row(path), IMAGE)

    def mask(self, sample: Sample) -> bytes:
        """Return the content of the mask file of a sample.

        Raises:
            MedvisionError: If the image has no such mask, or its shard cannot be read.
        """
        row = self._row(sample.path)
        if self.table.target[row] != sample.target:
            raise MedvisionError(
                f"{sample.target} is not the mask of {sample.path} in the shards",
                where=self.place,
                hint="create shards of the folder that contains it",
            )
        return self._read(row, MASK)

    def _row(self, path: str) -> int:
        row = self.table.row_of(path)
        if row is None:
            raise MedvisionError(
                f"{path} is not in the shards",
                where=self.place,
                hint="create shards of the folder that contains it",
            )
        return row

    def _read(self, row: int, which: int) -> bytes:
        number = int(self.table.shard[row])
        start, size = int(self.table.start[row, which]), int(self.table.size[row, which])
        shard = self._shard(number)
        data = b""
        while len(data) < size:
            got = os.pread(shard.number, size - len(data), start + len(data))
            if not got:
                raise damaged(f"{self.shards[number].name} is truncated", self.place)
            data = data + got if data else got
        return data

    def _shard(self, number: int) -> _Descriptor:
        """Return the shard, opening it if needed; the caller's reference keeps it open."""
        with self._lock:
            known = self._open.get(number)
            if known is None:
                self._close_the_removed()
                part = self.shards[number]
                known = _Descriptor(self.opener.open(part))
                found = os.fstat(known.number).st_size
                if found != part.num_bytes:
                    raise damaged(
                        f"expected {part.num_bytes} bytes in {part.name}, found {found}",
                        self.place,
                    )
                self._open[number] = known
                if len(self._open) > MAX_OPEN:
                    self._open.popitem(last=False)
            self._open.move_to_end(number)
            return known

    def _close_the_removed(self) -> None:
        """Close shards removed by the cache, to release their disk space."""
        for number, shard in list(self._open.items()):
            if not os.fstat(shard.number).st_nlink:
                del self._open[number]


def read_part(opener: Opener, part: Part, place: str) -> bytes:
    """Read a whole file of a set, such as the table.

    Raises:
        MedvisionError: If it cannot be read, or differs from shards.json.
    """
    with os.fdopen(opener.open(part), "rb") as stream:
        data = stream.read(part.num_bytes + 1)
    if len(data) != part.num_bytes or hashlib.sha256(data).hexdigest() != part.sha256:
        raise damaged(f"the SHA-256 of {part.name} differs from shards.json", place)
    return data
