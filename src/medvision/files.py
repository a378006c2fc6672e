"""Write files atomically, lock them, and read plain files from untrusted sources."""

import csv
import errno
import io
import json
import math
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

from medvision.command_line import resuming
from medvision.errors import MedvisionError

_MOST_HIDDEN = 120
"""Largest part of a name that a temporary file beside it has in its own name; bytes."""

MOST_BYTES = 16_000_000
"""Largest size of a plain file; larger ones are not written by medvision."""

MOST_YAML = 1_000_000
"""Largest number of characters of a YAML file: reading a million takes half a minute."""

MOST_TEXT = 10_000
"""Largest length of a value in it; numbers such as ``1:1:1`` take time with its square."""

MOST_READ_BYTES = 2_000_000_000
"""Largest size of an image or a table; an image of 100 million pixels takes less."""

MOST_CELLS = 50_000_000
"""Largest number of cells of a table of results: about 4 GB of memory."""

MOST_MODEL_BYTES = 32_000_000_000
"""Largest size of a file of weights."""


@contextmanager
def file_errors(
    what: str, where: object, *, hint: str = "check space and permissions", exit_code: int = 3
) -> Iterator[None]:
    """Report an `OSError` in the block as a `MedvisionError` with the system's reason.

    Args:
        what: Description of the failure, such as ``cannot write the results``.
        where: File or folder that the error is about.
        hint: Action that fixes it.
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


NOT_REGULAR = "expected a regular file, found a pipe, a socket or a device"


def regular_descriptor(path: Path, *, most: int = MOST_READ_BYTES) -> int:
    """Open a file for reading, without waiting for one that is not a regular file.

    A pipe would block until someone writes to it, and a device may never end.

    Returns:
        Descriptor of the file.

    Raises:
        OSError: If it cannot be opened, is a folder, a pipe, a socket or a device, or is larger
            than ``most`` bytes.
    """
    flags = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")  # each missing on some system
    number = os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in flags))
    try:
        found = os.fstat(number)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, NOT_REGULAR, str(path))
        if found.st_size > most:
            what = f"{found.st_size / 1e6:.0f} MB are more than {most // 1_000_000} MB"
            raise OSError(errno.EINVAL, what, str(path))
    except BaseException:
        os.close(number)
        raise
    return number


def open_regular(path: Path, *, most: int = MOST_READ_BYTES) -> BinaryIO:
    """Open a regular file as a stream of bytes, see `regular_descriptor`."""
    return os.fdopen(regular_descriptor(path, most=most), "rb")


def read_regular(path: Path, *, most: int = MOST_READ_BYTES) -> bytes:
    """Content of a regular file, see `regular_descriptor`."""
    with open_regular(path, most=most) as stream:
        return stream.read(most)


def open_table(path: Path, *, encoding: str = "utf-8") -> io.TextIOWrapper:
    """Open a csv file as ``csv.reader`` takes it, see `regular_descriptor`."""
    return io.TextIOWrapper(open_regular(path), encoding=encoding, newline="")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a csv file by the names of its columns.

    Raises:
        FileNotFoundError: If there is no such file.
        MedvisionError: If it cannot be read, or has more than ``MOST_CELLS`` cells: a wide first
            line would give every short row below as many.
    """
    rows: list[dict[str, str]] = []
    try:
        with open_table(path) as stream:
            reader = csv.DictReader(stream)
            most = MOST_CELLS // (len(reader.fieldnames or ()) + 4)  # a row itself takes memory
            for row in reader:
                rows.append(row)
                if len(rows) > most:
                    raise ValueError(f"more than {MOST_CELLS} cells")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, csv.Error) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise MedvisionError(
            f"cannot read the table: {reason}", where=str(path), hint="fix or remove the file"
        ) from fault
    return rows


def is_there(path: Path) -> bool:
    """Return True if the name exists, also for a pipe or a broken link, which cannot be read."""
    return os.path.lexists(path)


def check_links(folder: Path, *, replaced: Collection[str] = ()) -> None:
    """Check that whatever is written below a folder stays in it, and that all files are regular.

    A link to a file is accepted where files are replaced and never written in place: under a name
    that is not hidden at the top of the folder, and in the folders named ``replaced``.

    Args:
        folder: Existing folder; it may itself be reached by a link.
        replaced: Names of folders in it.

    Raises:
        MedvisionError: If a link below the folder leads out of it, one of the folders is not a
            folder, or there is a pipe, a socket or a device.
        OSError: If a folder cannot be listed.
    """
    top = os.path.realpath(folder)
    parents = [top]
    for parent in parents:  # grows while iterating
        first = Path(parent).relative_to(top).parts[:1]
        with os.scandir(parent) as entries:
            found = list(entries)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                parents.append(entry.path)
                continue
            target, what = Path(os.path.realpath(entry.path)), None
            if not target.is_relative_to(top):
                is_replaced = first[0] in replaced if first else entry.name[0] != "."
                if not (is_replaced and target.is_file()):
                    what = f"a symbolic link points outside the folder, to {target}"
            elif target.exists() and not target.is_dir() and not target.is_file():
                what = NOT_REGULAR
            if what is None and not first and entry.name in replaced and not entry.is_dir():
                what = "expected a folder, found a file"
            if what is not None:
                where = str(folder / Path(entry.path).relative_to(top))
                raise MedvisionError(what, where=where, hint="remove it")


def own_folder(kind: Literal["cache", "state"]) -> Path:
    """Folder for files that outlive runs, outside of data sets and run folders.

    ``MEDVISION_CACHE_DIR``, ``XDG_CACHE_HOME/medvision`` or ``~/.cache/medvision``, and for
    ``state`` the same with ``STATE`` and ``~/.local/state/medvision``.

    Raises:
        RuntimeError: If there is no home folder, and no variable names another one.
    """
    own, base = f"MEDVISION_{kind.upper()}_DIR", os.environ.get(f"XDG_{kind.upper()}_HOME", "")
    if os.environ.get(own):
        return Path(os.environ[own])
    if Path(base).is_absolute():  # the XDG specification requires ignoring relative paths
        return Path(base) / "medvision"
    return Path.home() / {"cache": ".cache", "state": ".local/state"}[kind] / "medvision"


def is_writable(path: Path) -> bool:
    """Return True if a file may be written, or files may be created in a folder.

    Read-only disks are detected, full ones are not.

    Args:
        path: File or folder; for one that does not exist, its nearest parent folder is checked.
    """
    there = next((p for p in (path, *path.parents) if os.path.exists(p)), path)  # noqa: PTH110  raises nothing
    mode = os.W_OK | (os.X_OK if there.is_dir() else 0)
    return os.access(there, mode, effective_ids=os.access in os.supports_effective_ids)


def check_writable(folder: Path, *, hint: str = "give a writable folder with --out") -> None:
    """Check, before the results are computed, that they can be written.

    Args:
        folder: Folder for the results, which may not exist yet.
        hint: Action to take otherwise.

    Raises:
        MedvisionError: If the folder is read-only.
    """
    if not is_writable(folder):
        raise MedvisionError("the folder is read-only", where=str(folder), hint=hint)


def short_name(path: str, *, most: int = 255) -> str:
    """Shorten the last part of a path to a length that file systems accept.

    A longer name is cut, and a digest of it keeps different names different.

    Args:
        path: File name, or path with ``/``.
        most: Largest length of its last part; bytes.
    """
    parent, slash, name = path.rpartition("/")
    data = os.fsencode(name)
    if len(data) <= most:
        return path
    import hashlib  # not for --help

    suffix = os.fsencode(Path(name).suffix)
    suffix = suffix if len(suffix) <= 10 else b""
    end = b"-" + hashlib.sha256(data).hexdigest()[:12].encode() + suffix
    length = most - len(end)
    while data[length] & 0xC0 == 0x80:  # in the middle of a character
        length -= 1
    return parent + slash + os.fsdecode(data[:length] + end)


@contextmanager
def atomic_path(path: Path, *, keep_suffix: bool = False) -> Iterator[Path]:
    """Replace a file once it is complete; after an error the old one stays.

    Args:
        path: Final path of the file, which is replaced if it exists.
        keep_suffix: If True, the temporary name has the suffix of the final one.

    Yields:
        Temporary path in the same folder, to be written before the block ends.

    Raises:
        OSError: If the file cannot be written; it names the final path.
    """
    suffix = path.suffix if keep_suffix else ""
    name = short_name(path.name, most=_MOST_HIDDEN)
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp{suffix}")
    if os.path.lexists(temporary):  # a link would be written through
        temporary.unlink()
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # the failed disk may fail again
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) == str(temporary):
            error.filename = str(path)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file atomically; text is written as UTF-8 with unchanged line ends."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_stored(path: Path) -> None:
    """Check a checkpoint before it is loaded: PyTorch compresses none of its parts.

    A few megabytes of compressed zeros, or of overlapping parts, could exhaust the memory.

    Raises:
        OSError: If the file cannot be read, or is not a regular one.
        ValueError: If its parts are larger than the file, or it is damaged.
    """
    open_regular(path, most=MOST_MODEL_BYTES).close()
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except OSError:
        raise
    except Exception as fault:  # zipfile raises many types for damaged files
        raise ValueError(str(fault)) from fault
    compressed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if compressed or sum(part.file_size for part in parts) > path.stat().st_size:
        raise ValueError("its parts are larger than the file")


def read_plain(path: Path) -> dict[str, Any]:
    """Read names with values from an untrusted ``.json`` or ``.yaml`` file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, not a mapping, larger than ``MOST_BYTES`` or ``MOST_YAML``,
            nested too deep, or YAML with tags or aliases, with which a few lines can expand without
            limit.
    """
    with open_regular(path) as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES // 1_000_000} MB")
    return plain_values(data.decode(), path.suffix)


def plain_values(text: str, suffix: str) -> dict[str, Any]:
    """Names with values in the text of a ``.json`` or ``.yaml`` file, see `read_plain`."""
    try:
        content = json.loads(text) if suffix == ".json" else _plain_yaml(text)
    except RecursionError as fault:
        raise ValueError("nested too deep") from fault
    if not isinstance(content, dict):
        raise ValueError("expected names with values")
    if "\\" in text:  # half a character, which could not be written again
        json.dumps(content, default=str, ensure_ascii=False, skipkeys=True).encode()
    return content


def _plain_yaml(text: str) -> Any:
    import yaml  # not needed for writing

    if len(text) > MOST_YAML:
        raise ValueError(f"more than {MOST_YAML} characters")

    class Plain(yaml.SafeLoader):
        """Loader that checks every node before its value is computed."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it contains YAML aliases")
            if getattr(event, "tag", None) in self.yaml_constructors.keys() - {None}:
                raise ValueError(f"it contains the YAML tag {event.tag[:60]}")
            if len(getattr(event, "value", None) or "") > MOST_TEXT:
                raise ValueError(f"it contains a value of more than {MOST_TEXT} characters")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Plain)
    except yaml.YAMLError as fault:
        raise ValueError(str(fault)) from fault


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values, indented; NaN is refused because it is not valid JSON."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def starts_formula(text: str) -> bool:
    """Return True if a spreadsheet takes a cell with this text for a formula."""
    return text.startswith(("=", "+", "-", "@"))


def runs_in_spreadsheets(text: str) -> bool:
    """Return True if that formula could do more than show an error, such as start a program."""
    return starts_formula(text) and not re.fullmatch(r"[+-][\w ./+-]*", text)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as csv; None, NaN and missing values are blank cells."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def link_or_copy(source: Path, path: Path) -> None:
    """Make ``path`` a hard link to ``source``, or a copy if links are not supported."""
    with atomic_path(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temporary)
    temporary.unlink(missing_ok=True)  # if both are the same file, the rename had no effect


_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
"""Errors of file systems without locks."""


def take_lock(path: Path, *, wait: bool) -> Callable[[], None] | None:
    """Lock a dedicated file against other processes.

    The lock ends with the process, however it ends, and is not held by processes forked from it.
    On a file system without locks, every request succeeds.

    Args:
        path: Lock file; its folder exists.
        wait: If True, wait until the lock is free.

    Returns:
        Function that releases the lock and removes the file; None if another process holds it.
    """
    from filelock import FileLock, Timeout  # slow to import

    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    except OSError as fault:
        if fault.errno not in _NO_LOCKS:
            fault.filename = str(path)  # filelock makes it absolute
            raise

    def release() -> None:
        if lock.is_locked:  # not in a forked process; a waiting process creates a new file
            with suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()

    return release


def is_locked(path: Path) -> bool:
    """Return True if a process holds a lock of `take_lock`; changes nothing.

    If the system cannot tell, an existing lock file counts as held.
    """
    try:
        import fcntl  # not on Windows

        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except (ImportError, OSError):
        return path.exists()
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(number)
    return False


OVER = ("finished", "pruned")
"""Status of a run with nothing left to do."""

RUN_LOCK = ".lock"
"""Lock file in a run folder, held by the process that trains the run."""


def run_status(folder: Path, summary: Mapping[str, Any]) -> str:
    """Return the status of a run as it is now: a killed run cannot correct its ``summary.json``.

    Args:
        folder: Run folder.
        summary: Content of its ``summary.json``.

    Returns:
        The stored status; if the run is not over, ``running`` while a process holds its lock, and
        ``interrupted`` instead of ``running`` if none does.
    """
    status = str(summary.get("status"))
    if status in OVER:
        return status
    if is_locked(folder / RUN_LOCK):
        return "running"
    return "interrupted" if status == "running" else status


def newest_run(folder: Path) -> Path | None:
    """Return the newest run in a folder such as ``runs`` or ``runs/polyp_unet``, if it has any."""
    found = [path for depth in ("*", "*/*") for path in folder.glob(f"{depth}/summary.json")]
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return newest and newest.parent


def way_to_run(folder: Path) -> str:
    """Return what to give instead of a folder that is no run: the newest run in it, if any."""
    newest = newest_run(folder)
    if newest is None:
        return "give a run folder, such as runs/<experiment>/<time>"
    return f"give one of the runs in it; the newest is {newest}"


SUMMARY_TYPES: dict[str, type] = {
    **dict.fromkeys(("experiment", "task", "status"), str),
    **dict.fromkeys(("seed", "epochs", "best_epoch"), int),
    **dict.fromkeys(("dataset", "model", "metrics"), dict),
    "warnings": list,
}
"""Types of values in ``summary.json`` that a finished run always has."""


def check_finished(folder: Path, summary: Mapping[str, Any]) -> None:
    """Check that a run has finished.

    Args:
        folder: Run folder.
        summary: Content of its ``summary.json``.

    Raises:
        MedvisionError: If it is being trained, did not finish, or was pruned by its search; or its
            summary is damaged.
    """
    for key, kind in SUMMARY_TYPES.items():
        if not isinstance(summary.get(key), (kind, type(None))):
            raise MedvisionError(
                f"summary.json: {key} is {str(summary[key])[:60]!r}, expected {kind.__name__}",
                where=str(folder),
                hint="name a folder that training wrote",
            )
    status = run_status(folder, summary)
    if status == "finished":
        return
    if has_undefined_scores(folder, summary):
        raise MedvisionError(
            "the scores of the run are undefined: the output of its network is not finite for"
            " some images",
            where=str(folder),
            hint="train it again with a lower optimizer.lr or trainer.precision=32",
        )
    hint = f"continue it: {resuming(folder)}"
    if status == "pruned":
        hint = "use a run that was trained to its end"
    if status == "running":
        raise MedvisionError(
            "the run is still being trained by another process",
            where=str(folder),
            hint="wait for its end",
        )
    raise MedvisionError(
        f"the run did not finish: its status is {status}", where=str(folder), hint=hint
    )


def has_undefined_scores(folder: Path, summary: Mapping[str, Any]) -> bool:
    """Return True if a run was trained and measured, but has outputs that are not finite."""
    return run_status(folder, summary) == "failed" and bool(summary.get("not_finite"))


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock as `take_lock` does, and yield True if it was free."""
    release = take_lock(path, wait=wait)
    try:
        yield release is not None
    finally:
        if release is not None:
            release()


@contextmanager
def sole_writer(target: Path, *, lock: str, wait: bool, busy: str) -> Iterator[None]:
    """Hold a lock beside a file or folder to create; remove new parent folders if left empty.

    Args:
        target: File or folder to create.
        lock: Name of the lock file beside it.
        wait: If True, wait for another process that creates it.
        busy: Description of the other process's work, for the error if not waiting.

    Raises:
        MedvisionError: If another process creates it and ``wait`` is False.
    """
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(target.with_name(short_name(lock)), wait=wait) as is_ours:
            if not is_ours:
                raise MedvisionError(
                    busy, where=str(target), hint="wait until it has finished", exit_code=3
                )
            yield
    finally:
        with suppress(OSError):  # another process may use them by now
            for parent in made:
                parent.rmdir()
