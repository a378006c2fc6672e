"""Inject a fault at one file operation of a program: a kill, a full disk, a removed folder.

The program runs in a fork of this process, so that nothing is imported again. Operations are those
that Python reports (PEP 578) for paths below a folder: files opened for writing, renamed,
linked or removed, folders created.
"""

import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATHS = {  # how many of the first arguments are paths
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.truncate": 1,
}
LONGEST_S = 120.0
OF_SPACE = ("open", "os.mkdir", "os.link", "os.symlink", "os.truncate")
"""Operations that need space, which a full disk refuses; a rename needs none."""


@dataclass(frozen=True)
class Operation:
    """One file operation.

    Attributes:
        name: Name of the audit event.
        paths: Its paths, relative to the watched folder.
    """

    name: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {' '.join(self.paths)}"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Result of a program.

    Attributes:
        code: Exit code; negative if a signal ended it.
        out: Standard output.
        err: Standard error.
        operations: File operations, in order.
    """

    code: int
    out: str
    err: str
    operations: list[Operation]

    @property
    def errors(self) -> list[str]:
        """Its lines of errors."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


Fault = Callable[[Operation], None]


def kill(_: Operation) -> None:
    """End the process like kill -9 or the system's out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def full(operation: Operation) -> None:
    """Fail with a full disk; see ``stays`` of ``attempt``."""
    if operation.name in OF_SPACE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), operation.paths[-1])


NOBODY = 65534


@contextmanager
def as_nobody(*writable: Path) -> Iterator[None]:
    """Be a user who may write only below some folders, to whom their parents are open for reading.

    Args:
        writable: Folders that this user may write to, created if missing.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root to be another user")
    for folder in writable:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        for path in folder.parents:
            if path.stat().st_mode & 0o055 != 0o055:
                path.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def attempt(
    program: Callable[[], int],
    folder: Path,
    watched: Path,
    *,
    at: int | None = None,
    fault: Fault = kill,
    stays: bool = False,
) -> Ended:
    """Run a program in a fork.

    Args:
        program: Returns its exit code.
        folder: Working folder; the output is stored beside it.
        watched: Operations below this folder count.
        at: Number of the operation before which the fault is injected; None for no fault.
        fault: Function that causes the fault.
        stays: If True, it is also injected before every later operation.
    """
    out, err, log = (folder.with_name(f"{folder.name}.{kind}") for kind in ("out", "err", "log"))
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            for stream, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
            os.chdir(folder)
            journal = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            _watch(watched, journal, at, fault, stays)
            code = program()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 71
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = _wait(child)
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    return Ended(
        code=code,
        out=out.read_text(),
        err=err.read_text(),
        operations=[Operation(name, tuple(paths)) for name, *paths in lines],
    )


def _wait(child: int) -> int:
    """Exit code of a process; a blocked process is ended."""
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"the program has not ended after {LONGEST_S:.0f} s")


def _watch(watched: Path, journal: int, at: int | None, fault: Fault, stays: bool) -> None:
    """Count operations below a folder in this process, and inject the fault at its number."""
    process, seen, busy = os.getpid(), 0, False
    root = os.path.realpath(watched)

    def hook(event: str, arguments: Sequence[Any]) -> None:
        nonlocal seen, busy
        if busy or os.getpid() != process:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str | bytes | os.PathLike) or not (flags or 0) & WRITING:
                return
            paths: Sequence[Any] = (path,)
        elif event in PATHS:
            paths = arguments[: PATHS[event]]
        else:
            return
        busy = True
        try:
            named = [os.fsdecode(path) for path in paths if not isinstance(path, int)]
            texts = [os.path.normpath(Path.cwd() / name) for name in named]
            inside = [os.path.relpath(text, root) for text in texts if text.startswith(root + "/")]
            if not inside:
                return
            operation = Operation(event, tuple(inside))
            seen += 1
            os.write(journal, "\t".join([event, *inside]).encode() + b"\n")
            if at is not None and (seen > at if stays else seen == at + 1):
                fault(operation)
        finally:
            busy = False

    sys.addaudithook(hook)
