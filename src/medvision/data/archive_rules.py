"""What an archive may hold: safe names, plain files, and no more than a limit of them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medvision.types import MedvisionError

MAX_PARTS = 100
"""Folders inside folders that a name may ask for."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much an archive may become, with everything that is nested in it.

    Attributes:
        total_bytes: Bytes written.
        ratio: Bytes written for each byte of the archive; images hardly shrink.
        ratio_from_bytes: The ratio is not looked at before so much is written.
        entries: Files and folders.
        depth: Archives inside archives; 0 refuses the first one.
    """

    total_bytes: int = 50 << 30
    ratio: int = 100
    ratio_from_bytes: int = 100 << 20
    entries: int = 1_000_000
    depth: int = 2


LIMITS = Limits()


class Budget:
    """Counts what is written, across nested archives."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.archive, self.limits = archive, limits
        self.archive_bytes = max(1, archive.stat().st_size)
        self.entries = self.bytes = 0

    def refuse(self, what: str, *, inside: str = "") -> MedvisionError:
        """The error for an archive that is not what it should be."""
        shown = inside if inside.isprintable() else ascii(inside)  # no codes for the terminal
        where = f"{self.archive}: {shown}" if inside else str(self.archive)
        hint = "nothing was unpacked; tell those who publish the archive"
        return MedvisionError(what, where=where, hint=hint, exit_code=3)

    def count_entry(self) -> None:
        """Take one more entry.

        Raises:
            MedvisionError: If that is one too many.
        """
        self.entries += 1
        if self.entries > self.limits.entries:
            raise self.refuse(f"the archive holds more than {self.limits.entries} entries")

    def count_bytes(self, count: int) -> None:
        """Take bytes that are about to be written.

        Raises:
            MedvisionError: If they are too many.
        """
        self.bytes += count
        self.judge(self.bytes)

    def judge(self, total_bytes: int) -> None:
        """Refuse an archive that becomes so large.

        Raises:
            MedvisionError: If that is beyond a limit.
        """
        limits = self.limits
        if total_bytes > limits.total_bytes:
            raise self.refuse(f"the archive unpacks to more than {limits.total_bytes} bytes")
        if total_bytes > max(limits.ratio_from_bytes, limits.ratio * self.archive_bytes):
            raise self.refuse(f"the archive unpacks to more than {limits.ratio} times its size")


class Names:
    """The names of one archive: each safe, no two the same on a disk that ignores case."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.seen: dict[str, tuple[str, bool]] = {}

    def take(self, name: str, *, is_folder: bool) -> PurePosixPath:
        """Return the relative path that an entry asks for.

        Raises:
            MedvisionError: If it leads outside or meets another one.
        """
        plain = name.replace("\\", "/")
        parts = [part for part in plain.split("/") if part not in ("", ".")]
        usable = all(ord(letter) >= 32 for letter in plain) and len(parts) <= MAX_PARTS
        if not usable or (not parts and not is_folder):
            raise self.budget.refuse("the archive holds an unusable name", inside=name)
        if plain.startswith("/") or re.match(r"[A-Za-z]:", plain):
            raise self.budget.refuse("the archive holds an absolute path", inside=name)
        if ".." in parts:
            raise self.budget.refuse("the archive holds a path with ..", inside=name)
        for length in range(1, len(parts) + 1):
            whole = length == len(parts)
            self._meet("/".join(parts[:length]), is_folder=is_folder or not whole, inside=name)
        return PurePosixPath(*parts)

    def _meet(self, path: str, *, is_folder: bool, inside: str) -> None:
        key = unicodedata.normalize("NFC", path).casefold()
        if key not in self.seen:
            self.seen[key] = (path, is_folder)
            return
        spelling, was_folder = self.seen[key]
        if spelling != path:
            raise self.budget.refuse(
                f"the archive holds two names that differ by case, {spelling} and {path}"
            )
        if not (is_folder and was_folder):
            raise self.budget.refuse("the archive holds a name twice", inside=inside)
