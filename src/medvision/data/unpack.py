"""Unpack archives that nobody vouches for: nothing is written outside, nothing without limits."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from medvision.data.archive_rules import LIMITS, Budget, Limits, Names

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
