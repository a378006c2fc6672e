"""Keep shards of an address on the local disk, within a bound, for all processes of a machine.

Files are named after the SHA-256 of their content: what lies there is whole and checked, whichever
set and address it came from. The one used longest ago goes first.
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
    """The files of one address, fetched when they are asked for.

    Attributes:
        address: Where they come from.
        folder: Where they are kept; other sets may share it.
        max_bytes: Of all files in it together.
    """

    address: str
    folder: Path
    max_bytes: int

    def open(self, part: Part) -> int:
        """Descriptor of a file, open for reading, whatever becomes of its name.

        Raises:
            MedvisionError: If it cannot be fetched.
        """
        while True:
            path = self.path(part)
            try:
                return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except FileNotFoundError:  # another process made space in between
                continue

    def path(self, part: Part) -> Path:
        """A file, fetched first where it is not there; marked as used now.

        Raises:
            MedvisionError: If it cannot be fetched.
        """
        path = self.folder / part.sha256
        if not _touch(path):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self.folder / f"{part.sha256}{_LOCK}"):  # the others wait for this one
                if not _touch(path):
                    self._fetch(part, path)
        return path

    def _fetch(self, part: Part, path: Path) -> None:
        arriving = path.with_name(f"{path.name}{_ARRIVING}")
        arriving.unlink(missing_ok=True)  # of a process that was killed
        with locked(self.folder / f"space{_LOCK}"):
            self._make_space(part.num_bytes)
            with arriving.open("wb") as stream:
                stream.truncate(part.num_bytes)  # counts from now on
        fetch(self.address, part, arriving)
        arriving.replace(path)

    def _make_space(self, num_bytes: int) -> None:
        """Remove what was used longest ago until there is room."""
        found, kept = [], 0
        for path in self.folder.iterdir():
            if path.suffix == _LOCK:
                continue
            try:
                state = path.stat()
            except FileNotFoundError:  # it has arrived, or failed
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
        """Whether a process is at it; one that was killed has left it otherwise."""
        with locked(path.with_suffix(_LOCK), wait=False) as is_free:
            return not is_free


def _touch(path: Path) -> bool:
    """Mark a file as used, and say whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
