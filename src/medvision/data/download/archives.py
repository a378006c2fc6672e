"""Unpack untrusted archives: safe names, plain files, bounded sizes, nothing outside the folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from medvision.errors import MedvisionError

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


CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20
"""Longest extended header of a tar member: tarfile reads it into memory."""

_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,  # what zipfile and tarfile make of nonsense in a header
    NotImplementedError,  # a compression that zipfile does not know
)


def unpack(archive: Path, folder: Path, *, limits: Limits = LIMITS) -> int:
    """Unpack a zip or tar archive and every archive inside it.

    What an archive ``a/b.zip`` inside holds goes to ``a/b.zip.unpacked/`` in its place. Files
    are streamed; their permissions and times are left behind.

    Args:
        archive: Zip, tar, tar.gz, tar.bz2 or tar.xz, whatever its name.
        folder: Made for it; must not exist.
        limits: What is refused as a bomb.

    Returns:
        Number of files.

    Raises:
        MedvisionError: If the archive is damaged, or holds an absolute path, ``..``, a drive, a
            link, a device, an encrypted entry, two names that differ by case only, or more than
            the limits allow. ``folder`` is removed then.
        FileExistsError: If ``folder`` exists.
    """
    budget = Budget(archive, limits)
    folder.mkdir()
    try:
        _unpack(archive, folder, budget, depth=0)
        return sum(1 for path in folder.rglob("*") if path.is_file())
    except BaseException:
        shutil.rmtree(folder)
        raise


def _unpack(archive: Path, folder: Path, budget: Budget, *, depth: int) -> None:
    try:
        with archive.open("rb") as start:
            is_zip = start.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
        if is_zip:
            _unzip(archive, folder, budget)
        else:
            _untar(archive, folder, budget)
    except _DAMAGE as fault:
        reason = str(fault) or type(fault).__name__
        raise budget.refuse(f"cannot read the archive: {reason}", inside=archive.name) from fault
    except OSError as fault:
        if fault.errno is not None:  # the disk's; those of gzip and bz2 have no number
            raise
        raise budget.refuse(f"cannot read the archive: {fault}", inside=archive.name) from fault
    for inner in sorted(path for path in folder.rglob("*") if _is_archive(path)):
        if depth >= budget.limits.depth:
            raise budget.refuse(
                f"archives lie more than {budget.limits.depth} deep in each other",
                inside=inner.name,
            )
        target = inner.with_name(f"{inner.name}.unpacked")
        if target.exists():
            raise budget.refuse("the archive holds a name twice", inside=target.name)
        target.mkdir()
        _unpack(inner, target, budget, depth=depth + 1)
        inner.unlink()


def _is_archive(path: Path) -> bool:
    """Whether a file is named as an archive; what macOS leaves beside each file is none."""
    hidden = path.name.startswith("._")
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file() and not hidden


def _unzip(archive: Path, folder: Path, budget: Budget) -> None:
    names = Names(budget)
    with zipfile.ZipFile(archive) as opened:
        members: list[tuple[zipfile.ZipInfo, Path]] = []
        declared = budget.bytes
        for info in opened.infolist():  # all of them before the first is written
            budget.count_entry()
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise budget.refuse("the archive holds a link or a device", inside=info.filename)
            if info.flag_bits & 1:
                raise budget.refuse("the archive is encrypted", inside=info.filename)
            declared += info.file_size
            budget.judge(declared)
            path = names.take(info.orig_filename, is_folder=info.is_dir())
            members.append((info, folder / path))
        for info, target in members:
            if info.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                with opened.open(info) as source:
                    _write(source, target, info.file_size, budget)


def _untar(archive: Path, folder: Path, budget: Budget) -> None:
    names = Names(budget)
    with (
        _decompressed(archive) as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=_BoundedHeader) as opened,
    ):
        for member in opened:  # a stream is read once, so each is checked as it comes
            budget.count_entry()
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise budget.refuse("the archive holds a link or a device", inside=member.name)
            target = folder / names.take(member.name, is_folder=member.isdir())
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            source = opened.extractfile(member)
            if source is None:
                raise tarfile.ReadError(f"{member.name} has no content")
            with source:
                _write(source, target, member.size, budget)


class _BoundedHeader(tarfile.TarInfo):
    """A member whose extended header, which tarfile reads whole, has a sane size."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _BoundedHeader:
        """Read a header block.

        Raises:
            tarfile.StreamError: If it announces an extended header that is too long.
        """
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED and member.size > MAX_HEADER_BYTES:
            raise tarfile.StreamError(f"a header of {member.size} bytes")
        return member


def _decompressed(archive: Path) -> IO[bytes]:
    with archive.open("rb") as start:
        magic = start.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(archive, "rb")  # type: ignore[return-value]
    if magic.startswith(b"BZh"):
        return bz2.open(archive, "rb")
    if magic == b"\xfd7zXZ\x00":
        return lzma.open(archive, "rb")
    return archive.open("rb")


def _write(source: IO[bytes], target: Path, size: int, budget: Budget) -> None:
    """Stream one file to disk; what it says of its own size is not believed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as file:
        for chunk in _chunks(source):
            budget.count_bytes(len(chunk))
            file.write(chunk)
            written += len(chunk)
    if written != size:
        raise EOFError(f"{target.name} is cut short")


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk
