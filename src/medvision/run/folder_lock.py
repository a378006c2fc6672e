"""One process at a time runs in a folder."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from medvision.data.file_lock import is_at
from medvision.types import MedvisionError

NAME = ".lock"

_UNKNOWN = (errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
"""What a file system says that knows no locks."""


class FolderLock:
    """A lock on a file in the folder, which the system lets go when its process ends, however.

    It is not shared with copies of the process, as the loaders are, which may live on for seconds
    when the process was killed. Where the file system or the system knows no locks, nobody is
    kept out.

    Args:
        path: The file.
        handle: Of the open file.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle

    @classmethod
    def take(cls, folder: Path, *, wait: bool = False) -> Self:
        """Lock a folder.

        Args:
            folder: Must exist.
            wait: Wait for the process that has the lock, instead of refusing.

        Raises:
            MedvisionError: If another process has it.
        """
        path = folder / NAME
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _lock(handle, folder, wait=wait)
            except BaseException:
                os.close(handle)
                raise
            if is_at(handle, path):
                return cls(path, handle)
            os.close(handle)  # the process before took its file away

    def release(self) -> None:
        """Let go, and leave no file behind where the disk lets it be removed."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        os.close(self._handle)


def _lock(handle: int, folder: Path, *, wait: bool) -> None:
    try:
        import fcntl  # not on Windows
    except ImportError:
        return
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as fault:
        if fault.errno in (errno.EACCES, errno.EAGAIN):
            raise MedvisionError(
                "the run is going on in another process",
                where=str(folder),
                hint="wait for its end, or end that process",
            ) from fault
        if fault.errno not in _UNKNOWN:
            raise
