"""What a machine does to a program: disks that fill up, memory that ends, processes that die."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from medvision.types import MedvisionError

_TEMPORARY = re.compile(r"^\.(.+?)(\.\d+)?\.tmp$")
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|Unable to allocate|Insufficient memory"
    r"|Cannot allocate memory|Failed to allocate",
    re.IGNORECASE,
)
_NO_SHARED_MEMORY = re.compile(r"shared memory|Bus error|</?torch_\w+>")
_WRITER = re.compile(r"PytorchStreamWriter|inline_container|unexpected pos")
_IN_LOADER = "in DataLoader worker process"

_DISK = {
    errno.ENOSPC: ("no space left on the disk", "free some"),
    errno.EDQUOT: ("no space left in the quota of the disk", "free some"),
    errno.EFBIG: ("the file is larger than the system allows", "see ulimit -f"),
    errno.EROFS: ("the disk may only be read", "make it writable, or start elsewhere"),
    errno.EIO: ("the disk failed", "see what the system's log says of it"),
    errno.EACCES: ("permission denied", "check the permissions"),
    errno.EPERM: ("the system forbids it", "check the permissions"),
}
_HANDLES = "too many open files"
_FEWER = "raise the limit (ulimit -n 65536) or lower data.num_workers"
_MEMORY = ("out of memory", "lower data.batch_size or data.image_size")
_DIED = (
    "a process that reads images has died",
    "if it lacked memory, or shared memory (/dev/shm): lower data.num_workers",
)
_GRAVE = (_HANDLES, _MEMORY[0], _DISK[errno.ENOSPC][0])
_SHARED = (
    "a process that reads images found no shared memory left",
    "data.num_workers=0 needs none; in a container, docker run --shm-size=1g gives more",
)


class MachineError(MedvisionError):
    """What the machine did, and no mistake of the user: the run may go on when that is mended.

    Args:
        what: What went wrong.
        where: The file it is about.
        hint: What to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint, exit_code=3)


def machine_error(error: BaseException) -> MachineError | None:
    """What a failure is called that the machine is the cause of; None for any other.

    A library that is left in the midst of its work by a fault of the machine may fail once more in
    its own words: then the first fault counts.
    """
    found = _machine_error(error)
    first = error.__cause__ or error.__context__
    if found is None and first is not None and not isinstance(error, MedvisionError):
        below = machine_error(first)
        return below if below is not None and below.what in _GRAVE else None
    return found


def _machine_error(error: BaseException) -> MachineError | None:
    text = str(error)
    if _IN_LOADER in text:  # torch puts a whole traceback into the message
        text = text.strip().rsplit("\n", 1)[-1]
    if "Too many open files" in text:
        return MachineError(_HANDLES, hint=_FEWER)
    if isinstance(error, RuntimeError | OSError) and _NO_SHARED_MEMORY.search(text):
        return MachineError(_SHARED[0], hint=_SHARED[1])
    if _is_of_memory(error, text):
        return MachineError(_MEMORY[0], hint=_MEMORY[1])
    died = isinstance(error, RuntimeError) and "DataLoader worker (pid" in text
    if died or (isinstance(error, ConnectionError | EOFError) and _is_of_loader(error)):
        return MachineError(_DIED[0], hint=_DIED[1])
    if isinstance(error, RuntimeError) and _WRITER.search(text):
        below = error.__context__  # torch's own words hide what the disk said
        if isinstance(below, OSError) and (found := _of_disk(below, str(below))) is not None:
            return found
        return MachineError("a file could not be written to its end", hint="free some space")
    return _of_disk(error, text)


def _is_of_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    kinds = ("RuntimeError", "OutOfMemoryError", "AcceleratorError", "error")  # OpenCV's is `error`
    return type(error).__name__ in kinds and _NO_MEMORY.search(text) is not None


def _is_of_loader(error: BaseException) -> bool:
    """Whether it was raised as a batch was fetched from another process."""
    trace = error.__traceback__
    while trace is not None:
        if "torch/utils/data" in Path(trace.tb_frame.f_code.co_filename).as_posix():
            return True
        trace = trace.tb_next
    return False


def _of_disk(error: BaseException, text: str) -> MachineError | None:
    if not isinstance(error, OSError):
        return None
    number = error.errno
    if number is None:  # from a loader process, as text alone
        found = re.search(r"\[Errno (\d+)\]", text)
        number = int(found[1]) if found else None
    if number not in _DISK:
        return None
    what, hint = _DISK[number]
    name = error.filename2 or error.filename
    where = None if name is None or isinstance(name, int) else _final(os.fsdecode(name))
    return MachineError(what, where=where, hint=hint)


def _final(name: str) -> str:
    """The name that a file would have had, of the one under which it was being written."""
    path = Path(name)
    found = _TEMPORARY.match(path.name)
    return str(path.with_name(found[1])) if found else name
