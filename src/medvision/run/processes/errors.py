"""Turn failures of the program and of the machine into one line, reported once."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from medvision.command_line import resuming
from medvision.errors import MedvisionError
from medvision.files import write_atomically
from medvision.hardware.processes import place_of
from medvision.live import live_line
from medvision.run.processes.failure_board import (
    PEERS_S,
    REPORTED_S,
    Board,
    ProcessError,
    first_cause,
    wait_until,
)

if TYPE_CHECKING:
    from medvision.run.storage.run_folder import RunFolder


_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|Unable to allocate|Insufficient memory"
    r"|Cannot allocate memory|Failed to allocate",
    re.IGNORECASE,
)
_NO_SHARED_MEMORY = re.compile(r"shared memory|Bus error|</?torch_\w+>")
_WRITER = re.compile(r"PytorchStreamWriter|inline_container|unexpected pos")
_IN_LOADER = "in DataLoader worker process"

_DISK = {
    errno.ENOSPC: ("no space left on the disk", "free some space"),
    errno.EDQUOT: ("disk quota exceeded", "free some space"),
    errno.EFBIG: ("the file is larger than the system allows", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the disk is read-only", "make it writable, or start in another folder"),
    errno.EIO: ("the disk failed", "see the system log"),
    errno.ENAMETOOLONG: ("the file name is too long", "shorten it"),
    errno.EACCES: ("permission denied", "check the permissions"),
    errno.EPERM: ("operation not permitted", "check the permissions"),
}
_FULL = _DISK[errno.ENOSPC][0]
_HANDLES = ("too many open files", "raise the limit (ulimit -n 65536) or lower data.num_workers")
_MEMORY = ("out of memory", "lower data.batch_size or data.image_size")
_DIED = (
    "a process that reads images ended unexpectedly",
    "if memory or shared memory (/dev/shm) ran out, lower data.num_workers",
)
_SHARED = (
    "no shared memory is left for a process that reads images",
    "set data.num_workers=0, or in a container raise it with docker run --shm-size=1g",
)


class MachineError(MedvisionError):
    """Failure of the machine, not a mistake of the user: the run can be resumed once it is fixed.

    Args:
        what: Description of the failure.
        hint: Action to take.
        where: File that the failure is about.
    """

    def __init__(self, what: str, hint: str, *, where: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint, exit_code=3)


def machine_error(error: BaseException) -> MachineError | None:
    """Describe a failure that the machine caused; None for any other.

    A library that is interrupted by a machine failure may raise another error of its own: then the
    first failure is reported.
    """
    found = _machine_error(error)
    first = error.__cause__ or error.__context__
    if found is None and first is not None and not isinstance(error, MedvisionError):
        below = machine_error(first)
        if below is not None and below.what in (_HANDLES[0], _MEMORY[0], _FULL):
            return below
    return found


def _machine_error(error: BaseException) -> MachineError | None:
    text = str(error)
    if _IN_LOADER in text:  # torch puts a whole traceback into the message
        text = text.strip().rsplit("\n", 1)[-1]
    if "Too many open files" in text:
        return MachineError(*_HANDLES)
    if isinstance(error, RuntimeError | OSError) and _NO_SHARED_MEMORY.search(text):
        return MachineError(*_SHARED)
    if _is_of_memory(error, text):
        return MachineError(*_MEMORY)
    died = isinstance(error, RuntimeError) and "DataLoader worker (pid" in text
    if died or (isinstance(error, ConnectionError | EOFError) and _is_of_loader(error)):
        return MachineError(*_DIED)
    if isinstance(error, RuntimeError) and _WRITER.search(text):
        below = error.__context__  # torch's message hides that of the disk
        if isinstance(below, OSError) and (found := _of_disk(below, str(below))) is not None:
            return found
        return MachineError("a file could not be written completely", "free some space")
    return _of_disk(error, text)


def _is_of_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    kinds = ("RuntimeError", "OutOfMemoryError", "AcceleratorError", "error")  # OpenCV's is `error`
    return type(error).__name__ in kinds and _NO_MEMORY.search(text) is not None


def _is_of_loader(error: BaseException) -> bool:
    """Return True if the error was raised while fetching a batch from another process."""
    return any(
        "torch/utils/data" in Path(frame.f_code.co_filename).as_posix()
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _of_disk(error: BaseException, text: str) -> MachineError | None:
    if not isinstance(error, OSError):
        return None
    number = error.errno
    if number is None:  # from a loader process, which sends only the text
        found = re.search(r"\[Errno (\d+)\]", text)
        number = int(found[1]) if found else None
    if number not in _DISK:
        return None
    name, where = error.filename2 or error.filename, None
    if name is not None and not isinstance(name, int):
        where = os.fsdecode(name)
    return MachineError(*_DISK[number], where=where)


_BROKEN = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo")
_OF_CONNECTIONS = ("DistBackendError", "DistNetworkError", "DistStoreError")


def described(error: Exception) -> MedvisionError:
    """Convert a failure into a ``MedvisionError``; an unexpected one keeps its traceback."""
    inner = _from_worker(str(error))
    if inner is not None:  # torch puts the traceback of a loader into an error of the same type
        return MedvisionError(inner)
    if isinstance(error, MedvisionError):
        return error
    machine = machine_error(error)
    if machine is not None:
        return machine
    line = next(iter(str(error).splitlines()), "")
    what, hint = f"{type(error).__name__}: {line}", None
    if _is_broken_connection(error):
        what = f"the connection to another process of the run broke: {line}"
        hint = "see the output of that process"
    trace = "".join(traceback.format_exception(error))
    return MedvisionError(what, hint=hint, exit_code=3, trace=trace)


def with_resume_hint(error: MedvisionError, folder: RunFolder | None) -> MedvisionError:
    """Add how to resume a run that failed because of the machine, if it has started."""
    if folder is None or not folder.exists:
        return error
    is_machine = isinstance(error, MachineError)
    if not folder.path.is_dir() and (is_machine or error.trace is not None):
        what = "the run folder was removed during the run"
        return MachineError(what, "start the run again", where=str(folder.path))
    if is_machine and (folder.path / "summary.json").exists():
        way = f"then continue with {resuming(folder.path)}"
        error.hint = f"{error.hint}; {way}"
    return error


def report(error: Exception, folder: RunFolder | None = None, *, quiet: bool = False) -> int:
    """Report an error in one line, unless another process does; return the exit code.

    Args:
        error: Error to report.
        folder: Folder for a traceback, if this process has created it.
        quiet: If True, print nothing: the reader of the job result reports the error.
    """
    failure = described(error)
    try:
        place, board = place_of(os.environ), Board.here()
    except MedvisionError as fault:  # the environment itself is invalid
        print_error(fault, folder)
        return fault.exit_code
    own = ProcessError.of(failure, name=place.name)
    if board is None:
        print_error(failure if place.is_first else own, folder, quiet=quiet)
        return failure.exit_code
    board.post(place, own)
    if place.started_by == "medvision":  # the first process reads it
        return failure.exit_code
    if place.local_rank > 0:
        # The first process of this host reports the error, and removes the board once all processes
        # have posted. If it does not, because it is blocked, this one reports.
        reported = wait_until(
            lambda: board.is_reported or not board.folder.exists(), timeout_s=REPORTED_S
        )
        if not reported:
            print_error(own, folder)
            board.mark_reported()
        return failure.exit_code
    expected = place.num_local or place.num_processes or 2
    together = wait_until(lambda: len(board.errors()) >= expected, timeout_s=PEERS_S)
    others = [other for other in board.errors() if other.name != place.name]
    cause = first_cause(own, others) or (failure if place.is_first else own)
    if not board.is_reported:
        print_error(cause, folder)
    if together:
        board.remove()
    else:
        board.mark_reported()
    return cause.exit_code


def print_error(error: MedvisionError, folder: RunFolder | None, *, quiet: bool = False) -> None:
    """Print the error, and write its traceback, if any, to a file that the line names."""
    if os.environ.get("MEDVISION_DEBUG") == "1":
        traceback.print_exception(error)
    if error.trace is not None:
        where = Path("medvision_traceback.txt")
        if folder is not None and folder.exists:
            where = folder.path / "traceback.txt"
        kept = f"the traceback is in {where}"
        try:
            write_atomically(where, error.trace)
        except OSError as fault:  # the error line matters more
            kept = f"the traceback could not be written ({fault.strerror}):"
            kept += " MEDVISION_DEBUG=1 prints it"
        error.hint = kept if error.hint is None else f"{error.hint}; {kept}"
        error.trace = None
    live_line.clear()
    if not quiet:
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()


def _from_worker(message: str) -> str | None:
    """Message of a ``MedvisionError`` raised in a loader process, if it is one."""
    mark = f"{MedvisionError.__module__}.{MedvisionError.__name__}: "
    return message.rsplit(mark, 1)[1].strip() if mark in message else None


def _is_broken_connection(error: Exception) -> bool:
    known = any(words in str(error) for words in _BROKEN)
    return type(error).__name__ in _OF_CONNECTIONS or (type(error) is RuntimeError and known)
