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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from medvision.errors import MedvisionError

MAX_PARTS = 100
"""Largest number of nested folders in a name."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of unpacking an archive, including nested archives.

    Attributes:
        total_bytes: Largest number of bytes written.
        ratio: Largest number of bytes written per byte of the archive; images hardly compress.
        ratio_from_bytes: Bytes written from which the ratio is checked.
        entries: Largest number of files and folders.
        depth: Largest nesting depth of archives; 0 allows no nested archive.
    """

    total_bytes: int = 50 << 30
    ratio: int = 100
    ratio_from_bytes: int = 100 << 20
    entries: int = 1_000_000
    depth: int = 2


class _Member(NamedTuple):
    """Entry of a zip or tar archive."""

    name: str
    is_file: bool
    is_folder: bool
    size: int
    open: Callable[[], IO[bytes]]


CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20
"""Largest extended header of a tar member, because tarfile reads it into memory."""

_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)

_COMPRESSED: Mapping[bytes, Callable[..., IO[bytes]]] = {
    b"\x1f\x8b": gzip.open,  # type: ignore[dict-item]
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,  # zipfile and tarfile: invalid header
    NotImplementedError,  # zipfile: unknown compression
)


def unpack(archive: Path, folder: Path, *, limits: Limits = Limits()) -> int:
    """Unpack a zip or tar archive and every archive inside it.

    A nested archive ``a/b.zip`` is replaced by its content in ``a/b.zip.unpacked/``. Files are
    streamed; their permissions and times are not kept.

    Args:
        archive: Zip, tar, tar.gz, tar.bz2 or tar.xz, whatever its name.
        folder: Destination, created; must not exist.
        limits: Limits beyond which the archive is rejected as a bomb.

    Returns:
        Number of files.

    Raises:
        MedvisionError: If the archive is damaged, or holds an absolute path, ``..``, a drive, a
            link, a device, an encrypted entry, two names that differ only by case, or more than the
            limits allow. ``folder`` is then removed.
        FileExistsError: If ``folder`` exists.
    """
    extraction = _Extraction(archive, limits)
    folder.mkdir()
    try:
        extraction.unpack(archive, folder, depth=0)
        return sum(1 for path in folder.rglob("*") if path.is_file())
    except BaseException:
        shutil.rmtree(folder)
        raise


class _Extraction:
    """Unpacking of an archive and its nested archives, with checks of the written bytes."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.archive, self.limits = archive, limits
        self.archive_bytes = max(1, archive.stat().st_size)
        self.entries = self.bytes = 0

    def refuse(self, what: str, *, inside: str = "") -> MedvisionError:
        """Return the error for an invalid archive."""
        shown = inside if inside.isprintable() else ascii(inside)  # no control codes
        where = f"{self.archive}: {shown}" if inside else str(self.archive)
        hint = "nothing was unpacked; report it to the publisher of the archive"
        return MedvisionError(what, where=where, hint=hint, exit_code=3)

    def check_size(self, total_bytes: int) -> None:
        """Reject an archive that unpacks to more bytes than a limit allows."""
        limits = self.limits
        if total_bytes > limits.total_bytes:
            raise self.refuse(f"the archive unpacks to more than {limits.total_bytes} bytes")
        if total_bytes > max(limits.ratio_from_bytes, limits.ratio * self.archive_bytes):
            raise self.refuse(f"the archive unpacks to more than {limits.ratio} times its size")

    def unpack(self, archive: Path, folder: Path, *, depth: int) -> None:
        """Unpack an archive into a folder, replacing nested archives by their content."""
        try:
            with archive.open("rb") as start:
                is_zip = start.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
            self.write(self._of_zip(archive) if is_zip else _of_tar(archive), folder)
        except _DAMAGE as fault:
            reason = str(fault) or type(fault).__name__
            raise self.refuse(f"cannot read the archive: {reason}", inside=archive.name) from fault
        except OSError as fault:
            if fault.errno is not None:  # disk errors; those of gzip and bz2 have no errno
                raise
            raise self.refuse(f"cannot read the archive: {fault}", inside=archive.name) from fault
        for inner in sorted(path for path in folder.rglob("*") if _is_archive(path)):
            if depth >= self.limits.depth:
                what = f"archives are nested more than {self.limits.depth} deep"
                raise self.refuse(what, inside=inner.name)
            target = inner.with_name(f"{inner.name}.unpacked")
            if target.exists():
                raise self.refuse("the archive contains a name twice", inside=target.name)
            target.mkdir()
            self.unpack(inner, target, depth=depth + 1)
            inner.unlink()

    def _of_zip(self, archive: Path) -> Iterator[_Member]:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            self.check_size(self.bytes + sum(info.file_size for info in entries))
            for info in entries:
                if info.flag_bits & 1:
                    raise self.refuse("the archive is encrypted", inside=info.filename)
                is_plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
                yield _Member(
                    info.orig_filename,
                    is_file=is_plain and not info.is_dir(),
                    is_folder=is_plain and info.is_dir(),
                    size=info.file_size,
                    open=partial(opened.open, info),
                )

    def write(self, members: Iterable[_Member], folder: Path) -> None:
        """Stream members to disk without relying on their declared sizes."""
        seen: dict[str, tuple[str, bool]] = {}
        for member in members:
            parts = self._parts(member)
            for length in range(1, len(parts) + 1):
                is_folder = member.is_folder or length < len(parts)
                self._meet(seen, "/".join(parts[:length]), is_folder=is_folder, inside=member.name)
            target = folder.joinpath(*parts)
            if member.is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, target.open("xb") as file:
                while chunk := source.read(CHUNK_BYTES):
                    self.bytes += len(chunk)
                    self.check_size(self.bytes)
                    file.write(chunk)
                written = file.tell()
            if written != member.size:
                raise EOFError(f"{target.name} is truncated")

    def _parts(self, member: _Member) -> list[str]:
        """Count a member, and return the parts of its path below the folder."""
        self.entries += 1
        if self.entries > self.limits.entries:
            raise self.refuse(f"the archive contains more than {self.limits.entries} entries")
        if not (member.is_file or member.is_folder):
            raise self.refuse("the archive contains a link or a device", inside=member.name)
        plain = member.name.replace("\\", "/")
        parts = [part for part in plain.split("/") if part not in ("", ".")]
        usable = all(ord(letter) >= 32 for letter in plain) and len(parts) <= MAX_PARTS
        if not usable or (not parts and not member.is_folder):
            raise self.refuse("the archive contains an unusable name", inside=member.name)
        if plain.startswith("/") or re.match(r"[A-Za-z]:", plain):
            raise self.refuse("the archive contains an absolute path", inside=member.name)
        if ".." in parts:
            raise self.refuse("the archive contains a path with ..", inside=member.name)
        return parts

    def _meet(
        self, seen: dict[str, tuple[str, bool]], path: str, *, is_folder: bool, inside: str
    ) -> None:
        """Reject two names that are equal on a case-insensitive file system."""
        key = unicodedata.normalize("NFC", path).casefold()
        is_new = key not in seen
        spelling, was_folder = seen.setdefault(key, (path, is_folder))
        if spelling != path:
            raise self.refuse(
                f"the archive contains two names that differ only by case, {spelling} and {path}"
            )
        if not is_new and not (is_folder and was_folder):
            raise self.refuse("the archive contains a name twice", inside=inside)


def _is_archive(path: Path) -> bool:
    """Return True if a file has an archive extension, except macOS metadata files."""
    hidden = path.name.startswith("._")
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file() and not hidden


def _of_tar(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as start:
        magic = start.read(6)
    decompressed = next((how for mark, how in _COMPRESSED.items() if magic.startswith(mark)), open)
    with (
        decompressed(archive, "rb") as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=_BoundedHeader) as opened,
    ):
        for info in opened:
            yield _Member(
                info.name,
                is_file=info.isreg() and not info.issparse(),
                is_folder=info.isdir(),
                size=info.size,
                open=partial(opened.extractfile, info),  # type: ignore[arg-type]  # None only for non-files
            )


class _BoundedHeader(tarfile.TarInfo):
    """Member with a size limit on its extended header, which tarfile reads entirely."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _BoundedHeader:
        """Read a header block.

        Raises:
            tarfile.StreamError: If it declares an extended header that is too long.
        """
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED and member.size > MAX_HEADER_BYTES:
            raise tarfile.StreamError(f"a header of {member.size} bytes")
        return member
