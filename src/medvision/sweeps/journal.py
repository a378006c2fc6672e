"""The file that a search keeps its trials in, and the locks that end with their process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvision.types import MedvisionError

if TYPE_CHECKING:
    from optuna.storages.journal import JournalStorage

JOURNAL = "journal.log"
LOCK = ".lock"


class JournalLock:
    """One writer of a journal at a time; the system lets go of it with the process.

    The locks of optuna are files that a killed process leaves behind for half a minute. A line
    that a killed process began is taken away by the next writer: appended to, it would make
    everything after it unreadable.

    Args:
        path: The journal, which exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Wait until nobody else writes."""
        file = os.open(self.path, os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file
        _drop_torn_line(self.path)
        return True

    def release(self) -> None:
        """Let the next one write."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def open_journal(folder: Path) -> JournalStorage:
    """The journal of the search in this folder, begun where there is none.

    Any process that sees the file may open it, on another host too.

    Raises:
        MedvisionError: If it cannot be read.
    """
    from json import JSONDecodeError

    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / JOURNAL
    try:
        path.touch(exist_ok=True)
        lock: Any = JournalLock(path)
        lock.acquire()  # what a killed process left behind goes before anybody reads
        lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (OSError, JSONDecodeError, ValueError, KeyError, AssertionError) as error:
        raise MedvisionError(
            f"cannot read the journal of the search: {error}",
            where=str(path),
            hint="repair it, or give the search another sweep.name",
        ) from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process that leads the search of this folder.

    The lock belongs to this process alone, not to the loaders it forks: those may outlive it by
    seconds.

    Raises:
        MedvisionError: If another process leads it.
    """
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise MedvisionError(
                "another process is at work on this search",
                where=str(folder),
                hint="wait for it, or give this one another sweep.name",
            ) from error
        yield
    finally:
        os.close(file)


def _drop_torn_line(path: Path) -> None:
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
