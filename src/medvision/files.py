"""Write files whole or not at all, lock them, and read plain ones that come from anywhere."""

import csv
import errno
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from medvision.errors import MedvisionError

MOST_BYTES = 16_000_000
"""A larger file of names and values is none of ours."""


@contextmanager
def file_errors(
    what: str, where: object, *, hint: str = "check space and permissions", exit_code: int = 3
) -> Iterator[None]:
    """Report an `OSError` in the block as a `MedvisionError` with the reason of the system.

    Args:
        what: What could not be done, such as ``cannot write the results``.
        where: File or folder it is about.
        hint: What to do about it.
        exit_code: 2 for wrong input, 3 for a failure while running.
    """
    try:
        yield
    except OSError as error:
        raise MedvisionError(
            f"{what}: {error.strerror or error}",
            where=str(where),
            hint=hint,
            exit_code=exit_code,
        ) from error


def own_folder(kind: Literal["cache", "state"]) -> Path:
    """Folder for what outlives runs, outside of data sets and run folders.

    ``MEDVISION_CACHE_DIR``, ``XDG_CACHE_HOME/medvision`` or ``~/.cache/medvision``, and for
    ``state`` the same with ``STATE`` and ``~/.local/state/medvision``.

    Raises:
        RuntimeError: If there is no home folder, and no variable names another one.
    """
    own, base = f"MEDVISION_{kind.upper()}_DIR", os.environ.get(f"XDG_{kind.upper()}_HOME", "")
    if os.environ.get(own):
        return Path(os.environ[own])
    if Path(base).is_absolute():  # the XDG rules say to ignore a relative one
        return Path(base) / "medvision"
    return Path.home() / {"cache": ".cache", "state": ".local/state"}[kind] / "medvision"


@contextmanager
def atomic_path(path: Path, *, keep_suffix: bool = False) -> Iterator[Path]:
    """Replace a file once it is complete; after an error the old one stays.

    Args:
        path: Where the file ends up, replacing what is there.
        keep_suffix: Let the temporary name end like the final one.

    Yields:
        A temporary path in the same folder, to be written before the block ends.
    """
    suffix = path.suffix if keep_suffix else ""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the disk that failed may fail again
            temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by this content; text is written as UTF-8 with its line ends as they are."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_stored(path: Path) -> None:
    """Look into a checkpoint before it is loaded: PyTorch compresses none of its parts.

    A few megabytes of compressed zeros, or parts that share their bytes, would fill the memory.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If its parts are larger than the file, or it is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except OSError:
        raise
    except Exception as fault:  # of damaged files zipfile raises half a dozen types
        raise ValueError(str(fault)) from fault
    compressed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if compressed or sum(part.file_size for part in parts) > path.stat().st_size:
        raise ValueError("its parts are larger than the file")


def read_plain(path: Path) -> dict[str, Any]:
    """Read names with values from a ``.json`` or ``.yaml`` file, which may come from anywhere.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, something else, larger than ``MOST_BYTES``, nested too deep,
            or YAML that repeats parts by aliases, which a few lines can make endless.
    """
    with path.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES // 1_000_000} MB")
    text = data.decode()
    try:
        content = json.loads(text) if path.suffix == ".json" else _plain_yaml(text)
    except RecursionError as fault:
        raise ValueError("nested too deep") from fault
    if not isinstance(content, dict):
        raise ValueError("it holds no names with values")
    return content


def _plain_yaml(text: str) -> Any:
    import yaml  # not needed by what only writes

    try:
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("it repeats parts by aliases")
        return yaml.safe_load(text)
    except yaml.YAMLError as fault:
        raise ValueError(str(fault)) from fault


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values, indented; NaN is not JSON and is refused."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as csv; None, NaN and what a row does not have are blank cells."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def link_or_copy(source: Path, path: Path) -> None:
    """Make ``path`` hold what ``source`` holds now, without a second copy where that works."""
    with atomic_path(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temporary)
    temporary.unlink(missing_ok=True)  # the rename did nothing where both are one file


_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
"""Errors of file systems without locks."""


def take_lock(path: Path, *, wait: bool) -> Callable[[], None] | None:
    """Lock a file that is made for it, against other processes.

    The lock ends with the process, however that ends, and processes forked from it do not hold it.
    Where the file system has no locks, it is granted to everyone.

    Args:
        path: The file; its folder exists.
        wait: Wait until the lock is free.

    Returns:
        The function that releases the lock and removes the file; None if another process has it.
    """
    from filelock import FileLock, Timeout  # takes a while to import

    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    except OSError as fault:
        if fault.errno not in _NO_LOCKS:
            fault.filename = str(path)  # filelock has made it absolute
            raise

    def release() -> None:
        if lock.is_locked:  # not in a forked process; whoever waits for this file makes a new one
            with suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()

    return release


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock as `take_lock` does, and yield whether it was free."""
    release = take_lock(path, wait=wait)
    try:
        yield release is not None
    finally:
        if release is not None:
            release()


@contextmanager
def sole_writer(target: Path, *, lock: str, wait: bool, busy: str) -> Iterator[None]:
    """Hold a lock beside what is to appear; folders made for it are removed if they stay empty.

    Args:
        target: File or folder that is to appear.
        lock: Name of the lock file beside it.
        wait: Wait for another process that is at it.
        busy: What that process does, for the error where it is not waited for.

    Raises:
        MedvisionError: If another process is at it, and is not waited for.
    """
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(target.with_name(lock), wait=wait) as is_ours:
            if not is_ours:
                raise MedvisionError(busy, where=str(target), hint="wait for it", exit_code=3)
            yield
    finally:
        with suppress(OSError):  # somebody else may use them by now
            for parent in made:
                parent.rmdir()
