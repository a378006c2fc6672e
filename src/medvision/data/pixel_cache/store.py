"""Pixels by key on the disk, for any number of processes that read and add to them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.data.pixel_cache.files import (
    INDEX,
    KEY_BYTES,
    PIXELS,
    TAIL_BYTES,
    PixelFiles,
    PixelPlaces,
    remove,
    remove_unused,
)
from medvision.files import locked

try:
    import fcntl
except ImportError:  # Windows
    CAN_KEEP = False
else:
    CAN_KEEP = hasattr(fcntl, "flock") and hasattr(os, "preadv")
"""Whether this system has what it takes; where it has not, do not make a store."""

MIN_FREE_BYTES = 10**9
"""Left free on the disk, for checkpoints: pixels can be had again, these cannot."""

WAIT_S = 10.0
"""For other processes, each of which needs a millisecond, unless it has been stopped."""


class PixelStore:
    """Pixels by key, within a bound of bytes that all stores of a folder share.

    Every process opens the files for itself: locks and descriptors of the process that it was
    forked from are not its own.

    Args:
        folder: Of all stores; made where it is not there, for its owner only.
        name: Of this one.
        num_bytes: Of the pixels of a record.
        max_bytes: Of all stores of the folder together.
        num_needed: Records that are of use at a time.
    """

    def __init__(
        self, *, folder: Path, name: str, num_bytes: int, max_bytes: int, num_needed: int
    ) -> None:
        self.folder, self.name, self.num_bytes = folder, name, num_bytes
        self.max_bytes, self.num_needed = max_bytes, num_needed
        self._files: PixelFiles | None = None
        self._may_begin_anew = True

    def __getstate__(self) -> dict[str, Any]:
        names = ("folder", "name", "num_bytes", "max_bytes", "num_needed")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def bytes_each(self) -> int:
        """What a record takes on the disk."""
        return self.num_bytes + TAIL_BYTES + KEY_BYTES

    def read(self, key: bytes) -> NDArray[np.uint8] | None:
        """Pixels (num_bytes,), or None where they are not, or no longer what they were.

        Raises:
            OSError: If the files cannot be opened or read.
        """
        files = self._opened()
        place = files.find(key)
        if place is None:
            return None
        pixels = files.read(place, key)
        if pixels is None:
            files.places = PixelPlaces()  # the index may have been mended too
        return pixels

    def keep(self, key: bytes, pixels: NDArray[np.uint8]) -> bool:
        """Add pixels (num_bytes,), and say whether there was room; old stores make some.

        Raises:
            OSError: If they cannot be written.
        """
        self._opened()
        with self.alone():
            files = self._current()
            if files is None or not files.are_at_their_path():  # renamed: NFS removes so
                files = self._open()
            files.mend()
            place = files.find(key)
            if place is None:
                if not self._make_room():
                    if not self._begin_anew(files):
                        return False
                    files = self._open()
                    if not self._make_room():
                        return False
                files.append(key, pixels)
            elif files.read(place, key) is None:
                files.write(place, key, pixels)
        return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all other processes from changing anything in the folder.

        Raises:
            OSError: If the folder cannot be written, or others hold it for ``WAIT_S``.
        """
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        until = time.monotonic() + WAIT_S
        while True:
            with locked(self.folder / "lock", wait=False) as is_ours:
                if is_ours:
                    yield
                    return
            if time.monotonic() > until:
                raise TimeoutError(f"another process has held {self.folder} for {WAIT_S:g} s")
            time.sleep(0.001)

    def free_bytes(self) -> int:
        """Bytes of the disk that may be filled.

        Raises:
            OSError: If there is no such folder.
        """
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize - MIN_FREE_BYTES

    def num_bytes_used(self) -> int:
        """Bytes of all stores of the folder."""
        return sum(num_bytes for _, num_bytes in self._stores().values())

    def _opened(self) -> PixelFiles:
        files = self._current()
        if files is None:
            with self.alone():
                files = self._open()
        return files

    def _current(self) -> PixelFiles | None:
        """The files, if this process has opened them and nobody has removed them."""
        files = self._files
        if files is not None and files.process == os.getpid() and files.are_there():
            return files
        self._files = None
        return None

    def _open(self) -> PixelFiles:
        self._files = PixelFiles(self.folder / self.name, self.num_bytes)
        return self._files

    def _make_room(self) -> bool:
        """Remove stores that nobody uses, the one used longest ago first, for one more record."""
        stores = self._stores()
        more = self.bytes_each
        missing = sum(num_bytes for _, num_bytes in stores.values()) + more - self.max_bytes
        missing = max(missing, more - self.free_bytes())
        others = sorted((used, num_bytes, n) for n, (used, num_bytes) in stores.items())
        for _, num_bytes, name in others:
            if missing <= 0:
                break
            if name != self.name and remove_unused(self.folder / name):
                missing -= num_bytes
        return missing <= 0

    def _begin_anew(self, files: PixelFiles) -> bool:
        """Remove a full store that must hold records of no use; once, for others may share it."""
        if not self._may_begin_anew or files.places.count < self.num_needed:
            return False
        self._may_begin_anew = False
        remove(self.folder / self.name)
        return True

    def _stores(self) -> dict[str, tuple[int, int]]:
        """When each was last used, and its bytes, by name."""
        found: dict[str, tuple[int, int]] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                name, suffix = os.path.splitext(entry.name)  # noqa: PTH122  quicker, at every write
                if suffix in (PIXELS, INDEX):
                    state = entry.stat()
                    used, num_bytes = found.get(name, (0, 0))
                    used = max(used, state.st_mtime_ns)
                    found[name] = (used, num_bytes + state.st_size)
        return found
