"""Shared notes of the processes of one host: which failed first, and if it was reported."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from medvision.errors import MedvisionError
from medvision.files import write_atomically
from medvision.hardware.processes import Place, place_of

BOARD_VARIABLE = "MEDVISION_BOARD"
"""Folder of the board, if the first process of a host has started the others."""

JOB_VARIABLE = "MEDVISION_JOB"
"""Number of the run within its command."""

POLL_S = 0.1
PEERS_S = 5.0
"""Time that the first process waits for the errors of the others."""
REPORTED_S = 15.0
"""Time that a further process waits for the first one to report, before it reports itself."""
OLD_S = 60.0


class ProcessError(MedvisionError):
    """Error with the name of its process at the end of the line.

    Args:
        name: Name of the process.
        posted_s: ``time.time()`` when it failed.
        **error: Arguments of the error.
    """

    def __init__(self, *, name: str, posted_s: float, **error: Any) -> None:
        super().__init__(**error)
        self.name, self.posted_s = name, posted_s

    @classmethod
    def of(cls, error: MedvisionError, *, name: str) -> Self:
        """Error of a process that has just failed."""
        fields = ("what", "where", "hint", "exit_code", "trace")
        known = {field: getattr(error, field) for field in fields}
        return cls(name=name, posted_s=time.time(), **known)

    def __str__(self) -> str:
        return f"{super().__str__()} [{self.name}]"


class Board:
    """Folder of notes shared by the processes of one host; created by the first note.

    Args:
        folder: Path of the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._since_s = time.time() - OLD_S

    @classmethod
    def here(cls) -> Self | None:
        """Board of this process; None if no other process shares it."""
        if given := os.environ.get(BOARD_VARIABLE):
            return cls(Path(given))
        place = place_of(os.environ)
        if not place.has_starter or place.num_processes == 1:
            return None
        run = [os.environ.get(name, "") for name in _NAMES_OF[place.started_by]]
        parent = "" if place.started_by == "slurm" else os.getppid()  # the launcher of this host
        words = repr((place.started_by, run, parent, os.environ.get(JOB_VARIABLE)))
        digest = hashlib.sha256(words.encode()).hexdigest()[:16]
        return cls(Path(tempfile.gettempdir(), f"medvision-processes-{digest}"))

    def post(self, place: Place, error: ProcessError) -> None:
        """Post the error of this process for the others."""
        self._write(f"failed.{place.local_rank}.json", json.dumps(vars(error)))

    def errors(self) -> list[ProcessError]:
        """Errors so far, the first failure first."""
        files = self._glob("failed.*.json")
        found = [ProcessError(**json.loads(path.read_text())) for path in files]
        return sorted(found, key=lambda error: error.posted_s)

    def arrive(self, place: Place) -> None:
        """Report to the first process that this one has reached the fit."""
        self._write(f"ready.{place.local_rank}", "")

    def num_arrived(self) -> int:
        """Number of processes that have reached the fit."""
        return len(self._glob("ready.*"))

    @property
    def is_reported(self) -> bool:
        """True if the error has been reported to the user."""
        return bool(self._glob("reported"))

    def mark_reported(self) -> None:
        """Note that the error has been reported."""
        self._write("reported", "")

    def remove(self) -> None:
        """Remove the board."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, text: str) -> None:
        self.folder.mkdir(exist_ok=True, mode=0o700)
        write_atomically(self.folder / name, text)

    def _glob(self, pattern: str) -> list[Path]:
        """Notes of this run; a launcher that was killed may have left an older board behind."""
        found = []
        for path in self.folder.glob(pattern):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime > self._since_s:
                    found.append(path)
        return found


_NAMES_OF = {
    "torchrun": ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT"),
    "slurm": ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NODEID"),
    "other": ("MASTER_ADDR", "MASTER_PORT"),
}


def wait_until(holds: Callable[[], bool], *, timeout_s: float) -> bool:
    """Poll a condition; return True if it holds before the timeout."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def first_cause(own: ProcessError, others: Sequence[ProcessError]) -> ProcessError | None:
    """Error of the process that failed first; None if all failed with the same error.

    Args:
        own: Error of this process.
        others: Errors of the other processes.
    """
    if others and all((own.what, own.where) == (other.what, other.where) for other in others):
        return None
    return min([own, *others], key=lambda error: error.posted_s)
