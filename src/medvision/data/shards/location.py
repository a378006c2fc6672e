"""Location of shards: a local folder, or an address supported by fsspec (s3://, https://)."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from medvision.data.shards.manifest import MANIFEST, MAX_MANIFEST_BYTES, Part
from medvision.errors import MedvisionError, install_command
from medvision.files import is_there

Result = TypeVar("Result")

CHUNK_BYTES = 1 << 23
"""Number of bytes per request."""
ATTEMPTS = 4
WAIT_S = 1.0
"""Pause before the second attempt; doubled before each further one."""
SILENCE_S = 60.0
"""Longest wait for data from a web server."""


def place_of(root: str | Path) -> Path | str:
    """Return ``data.root`` as a folder or an address."""
    text = str(root)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return text.rstrip("/") if "://" in text else Path(text).expanduser()


def holds_shards(root: Path) -> bool:
    """Return True if a local folder contains shards."""
    return is_there(root / MANIFEST)


def check_address(address: str) -> None:
    """Reject an unsupported address without network access.

    Raises:
        MedvisionError: If fsspec or its package for this protocol is not installed, or the protocol
            is unknown.
    """
    if importlib.util.find_spec("fsspec") is None:
        raise _not_installed(address, "fsspec is")
    protocol = address.split("://")[0]
    try:
        _fsspec().get_filesystem_class(protocol)
    except ImportError as fault:
        raise _not_installed(
            address, f"the package that fsspec needs for {protocol}:// is"
        ) from fault
    except ValueError as fault:
        raise MedvisionError(
            f"unknown protocol {protocol}",
            where=f"data.root={address}",
            hint="give a folder, or an address such as s3://bucket/set or https://host/set",
        ) from fault


def read_small(address: str, name: str = MANIFEST, *, limit: int = MAX_MANIFEST_BYTES) -> bytes:
    """Read a small file at an address, up to ``limit`` bytes.

    Raises:
        MedvisionError: If it cannot be fetched.
    """

    def take() -> bytes:
        with _open(address, name) as stream:
            return bytes(stream.read(limit + 1))

    return _tried(take, address, name)


def fetch(address: str, part: Part, path: Path) -> None:
    """Copy a file of a data set to ``path``, which is removed on failure.

    Raises:
        MedvisionError: If it cannot be fetched, or differs from shards.json.
    """

    def take() -> None:
        digest, missing = hashlib.sha256(), part.num_bytes
        mode = "r+b" if path.exists() else "wb"  # may be preallocated to reserve space
        with _open(address, part.name) as source, path.open(mode) as target:
            while missing and (chunk := source.read(min(CHUNK_BYTES, missing))):
                digest.update(chunk)
                target.write(chunk)
                missing -= len(chunk)
        if missing:
            raise EOFError(f"received {part.num_bytes - missing} of {part.num_bytes} bytes")
        if digest.hexdigest() != part.sha256:
            raise EOFError("its SHA-256 differs from shards.json")

    try:
        _tried(take, address, part.name)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _fsspec() -> Any:
    """Import fsspec, an optional and slow import."""
    import fsspec  # type: ignore[import-untyped]  # no types

    return fsspec


def _open(address: str, name: str) -> IO[bytes]:
    options: dict[str, Any] = {}
    reading: dict[str, Any] = {"block_size": CHUNK_BYTES, "cache_type": "readahead"}
    if address.startswith(("http://", "https://")):
        import aiohttp

        # aiohttp would limit a whole shard to five minutes and ignore proxies
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
        reading = {"block_size": 0}  # one request: not every server supports ranges
    system, folder = _fsspec().core.url_to_fs(address, **options)
    opened: IO[bytes] = system.open(f"{folder.rstrip('/')}/{name}", "rb", **reading)
    return opened


def _tried(take: Callable[[], Result], address: str, name: str) -> Result:
    """Retry an operation that may fail in transfer."""
    check_address(address)
    where = f"{address}/{name}"
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(WAIT_S * 2 ** (attempt - 1))
        try:
            return take()
        except Exception as fault:  # each protocol has its own errors
            if _is_absent(fault):
                raise MedvisionError(
                    "no such file",
                    where=where,
                    hint="give the address of the folder with shards.json",
                ) from fault
            last = fault.__cause__ if isinstance(fault, FileNotFoundError) else fault
    disk = isinstance(last, OSError) and last.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free some space, or set MEDVISION_CACHE_DIR to another disk"
    raise MedvisionError(
        f"cannot fetch {name}: {' '.join(str(last).split()) or type(last).__name__}",
        where=where,
        hint=hint if disk else "check the network, the address and the permissions",
        exit_code=3,
    ) from last


def _is_absent(fault: BaseException) -> bool:
    """Return True if a file is missing; fsspec raises the same error for any web server fault."""
    cause = fault.__cause__
    if not isinstance(fault, FileNotFoundError) or cause is None:
        return isinstance(fault, FileNotFoundError)
    return _is_absent(cause) or getattr(cause, "status", None) in (404, 410)


def _not_installed(address: str, what: str) -> MedvisionError:
    return MedvisionError(
        f"{what} not installed",
        where=f"data.root={address}",
        hint=f"run: {install_command('streaming')}",
    )
