"""Write shards as plain tar files, as the WebDataset library reads them.

The header of each member is one block of the POSIX ustar format, so that the offset of its content
is known as it is written; the same samples give the same bytes on every machine. The library's own
writer tells no offsets, and the standard library's would have to be asked for its inner state.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from medvision.data.shard_manifest import Part

END_BYTES = 2 * tarfile.BLOCKSIZE
"""Zeros that end a tar file."""


class ShardWriter:
    """Tar files ``shard-000000.tar`` and so on in one folder.

    Args:
        folder: Where to; it is there and holds none.
        shard_bytes: A shard is closed before it would grow past this, unless one sample does.

    Attributes:
        parts: The shards that are closed.
    """

    def __init__(self, folder: Path, *, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.parts: list[Part] = []
        self._stream: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self._stream is not None:
            self._stream.close()

    def add(self, members: Sequence[tuple[str, bytes]]) -> tuple[int, list[int]]:
        """Write the files of a sample side by side.

        Args:
            members: Name and content of each.

        Returns:
            Number of the shard, and the offset of each content in it.
        """
        size = sum(tarfile.BLOCKSIZE + _padded(len(content)) for _, content in members)
        if self._written and self._written + size + END_BYTES > self.shard_bytes:
            self.close()
        starts = []
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(content), 0o444
            self._write(header.tobuf(tarfile.USTAR_FORMAT))
            starts.append(self._written)
            self._write(content)
            self._write(bytes(_padded(len(content)) - len(content)))
        return len(self.parts), starts

    def close(self) -> None:
        """End the shard that is open; the next sample starts another."""
        if self._stream is None:
            return
        self._write(bytes(END_BYTES))
        self._stream.close()
        self._stream = None
        name, sha256 = _name(len(self.parts)), self._digest.hexdigest()
        self.parts.append(Part(name=name, num_bytes=self._written, sha256=sha256))
        self._digest, self._written = hashlib.sha256(), 0

    def _write(self, data: bytes) -> None:
        if self._stream is None:
            self._stream = (self.folder / _name(len(self.parts))).open("xb")
        self._stream.write(data)
        self._digest.update(data)
        self._written += len(data)


def _name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
