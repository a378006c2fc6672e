"""Size-limited local cache of remote shards, shared by all processes of a machine.

Files are named after the SHA-256 of their content: they are complete and verified, for any data set
and address. The least recently used file is removed first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medvision.data.shards.location import fetch
from medvision.data.shards.manifest import Part
from medvision.files import locked

_LOCK, _ARRIVING = ".lock", ".part"


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Files of an address, fetched on demand.

    Attributes:
        address: Address of the files.
        folder: Cache folder; may be shared with other data sets.
        max_bytes: Largest total size of the files in it.
    """

    address: str
    folder: Path
    max_bytes: int

    def open(self, part: Part) -> int:
        """Return a descriptor of a file, open for reading even if the file is removed later.

        Raises:
            MedvisionError: If it cannot be fetched.
        """
        while True:
            path = self.path(part)
            try:
                return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except FileNotFoundError:  # removed by another process in between
                continue

    def path(self, part: Part) -> Path:
        """Return the path of a file, fetching it if missing; mark it as used.

        Raises:
            MedvisionError: If it cannot be fetched.
        """
        path = self.folder / part.sha256
        if not _touch(path):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self.folder / f"{part.sha256}{_LOCK}"):  # other processes wait here
                if not _touch(path):
                    self._fetch(part, path)
        return path

    def _fetch(self, part: Part, path: Path) -> None:
        arriving = path.with_name(f"{path.name}{_ARRIVING}")
        arriving.unlink(missing_ok=True)  # left by a killed process
        with locked(self.folder / f"space{_LOCK}"):
            self._make_space(part.num_bytes)
            with arriving.open("wb") as stream:
                stream.truncate(part.num_bytes)  # reserves the space
        fetch(self.address, part, arriving)
        arriving.replace(path)

    def _make_space(self, num_bytes: int) -> None:
        """Remove the least recently used files until there is enough space."""
        found, kept = [], 0
        for path in self.folder.iterdir():
            if path.suffix == _LOCK:
                continue
            try:
                state = path.stat()
            except FileNotFoundError:  # completed, or failed
                continue
            kept += state.st_size
            if path.suffix != _ARRIVING or not self._is_arriving(path):
                found.append((state.st_mtime_ns, state.st_size, path))
        for _, size, path in sorted(found):
            if kept + num_bytes <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            kept -= size

    def _is_arriving(self, path: Path) -> bool:
        """Return True if a process is fetching it; otherwise it was left by a killed process."""
        with locked(path.with_suffix(_LOCK), wait=False) as is_free:
            return not is_free


def _touch(path: Path) -> bool:
    """Mark a file as used; return True if it exists."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
