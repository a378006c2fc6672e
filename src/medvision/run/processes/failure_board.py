"""What the processes of one host tell each other: who failed first, and whether it was said."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from medvision.errors import MedvisionError
from medvision.files import write_atomically
from medvision.hardware.processes import Place, place_of

BOARD_VARIABLE = "MEDVISION_BOARD"
"""The folder of the board, where the first process of a host has started the others."""

JOB_VARIABLE = "MEDVISION_JOB"
"""Number of the run within its command."""

POLL_S = 0.1
PEERS_S = 5.0
"""How long the first process waits for what the others have to say about a failure."""
SAID_S = 15.0
"""How long a further process waits for the first one to speak, before it does so itself."""
OLD_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Why a process failed.

    Attributes:
        name: Of the process.
        what, where, hint, exit_code: Of the error.
        trace: Its traceback, where nobody foresaw it.
        posted_s: ``time.time()`` when it failed.
    """

    name: str
    what: str
    where: str | None
    hint: str | None
    exit_code: int
    trace: str | None
    posted_s: float

    @classmethod
    def of(cls, error: MedvisionError, *, name: str) -> Self:
        """What an error says."""
        return cls(
            name=name,
            what=error.what,
            where=error.where,
            hint=error.hint,
            exit_code=error.exit_code,
            trace=getattr(error, "trace", None),
            posted_s=time.time(),
        )

    def says_the_same(self, other: "Notice") -> bool:
        """Whether both tell of one error."""
        return (self.what, self.where) == (other.what, other.where)


class ProcessError(MedvisionError):
    """An error that not every process had: its line ends in the process that had it.

    Args:
        notice: What that process said.
    """

    def __init__(self, notice: Notice) -> None:
        super().__init__(
            notice.what, where=notice.where, hint=notice.hint, exit_code=notice.exit_code
        )
        self.notice, self.trace = notice, notice.trace

    def __str__(self) -> str:
        return f"{super().__str__()} [{self.notice.name}]"


class Board:
    """A folder in which the processes of one host leave notes; made by the first note.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._since_s = time.time() - OLD_S

    @classmethod
    def here(cls) -> Self | None:
        """The board of this process; None where it has no other processes beside it."""
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

    def post(self, place: Place, notice: Notice) -> None:
        """Tell the others that this process failed, and why."""
        self._write(f"failed.{place.local_rank}.json", json.dumps(asdict(notice)))

    def notices(self) -> list[Notice]:
        """What failed so far, the first failure first."""
        found = [Notice(**json.loads(path.read_text())) for path in self._glob("failed.*.json")]
        return sorted(found, key=lambda notice: notice.posted_s)

    def arrive(self, place: Place) -> None:
        """Tell the first process that this one has come as far as the fit."""
        self._write(f"ready.{place.local_rank}", "")

    def num_arrived(self) -> int:
        """How many have come as far as the fit."""
        return len(self._glob("ready.*"))

    @property
    def is_told(self) -> bool:
        """Whether the error was said to the user."""
        return bool(self._glob("told"))

    def tell(self) -> None:
        """Note that it was."""
        self._write("told", "")

    def remove(self) -> None:
        """Take the board away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, text: str) -> None:
        self.folder.mkdir(exist_ok=True, mode=0o700)
        write_atomically(self.folder / name, text)

    def _glob(self, pattern: str) -> list[Path]:
        """Notes of this run: a launcher that was killed may have left an older board behind."""
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
    """Ask again and again; whether it came to hold in time."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def first_cause(own: Notice, others: Sequence[Notice]) -> MedvisionError | None:
    """The error of the process that failed first; None where all failed alike.

    Args:
        own: Of the process that asks.
        others: Of the others.
    """
    notices = sorted([own, *others], key=lambda notice: notice.posted_s)
    if others and all(notice.says_the_same(own) for notice in notices):
        return None
    return ProcessError(notices[0])
