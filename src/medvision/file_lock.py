"""One process at a time: a lock on a file that the system lets go with the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Make a file, take its lock, and say whether it was free; the file goes with the lock.

    Where the system has no such locks, it is taken for granted.

    Args:
        path: The file; its folder is there.
        wait: Wait until it is free.
    """
    while True:
        with path.open("w") as stream:
            is_ours = take_lock(stream.fileno(), wait=wait)
            if is_ours and not is_at(stream.fileno(), path):
                continue  # the process before has taken the file away
            try:
                yield is_ours
            finally:
                if is_ours:
                    with suppress(FileNotFoundError):  # gone with its folder
                        path.unlink()
            return


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one that a path leads to."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def take_lock(file: int, *, wait: bool) -> bool:
    """Take a lock that ends with the process; where the system has none, take it for granted."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
