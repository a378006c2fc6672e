"""Errors that end a program in one line, and helpers for their messages.

Imports nothing slow: the command line needs ``MedvisionError`` before torch.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class MedvisionError(Exception):
    """Error that the user can fix, reported in one line.

    Args:
        what: Description of the error, without a full stop.
        where: File or config key that the error is about.
        hint: Action that fixes it.
        exit_code: 2 for wrong input, config or usage; 3 for a failure while running.
        trace: Traceback of an unexpected error.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        exit_code: int = 2,
        trace: str | None = None,
    ) -> None:
        self.what, self.where, self.hint, self.exit_code = what, where, hint, exit_code
        self.trace = trace
        super().__init__(what)

    def __str__(self) -> str:
        line = self.what
        if self.where is not None:
            in_one_line = self.where.replace("\n", "\\n")  # a file name may hold a line break
            line += f" ({in_one_line})"
        if self.hint is not None:
            line += f"; {self.hint}"
        return printable(" ".join(line.split()))


class Stopped(BaseException):
    """Request to end the program: Ctrl-C, SIGTERM, SIGHUP or SIGUSR1.

    Not an ``Exception``: after a failed run the next one of the same command starts, but a signal
    ends all of them.

    Args:
        signum: Number of the signal.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)

    @property
    def exit_code(self) -> int:
        """Exit code, as in shells: 130 after Ctrl-C, 129 after SIGHUP, otherwise 143 (SIGTERM)."""
        return 128 + (self.signum if self.signum in (signal.SIGINT, signal.SIGHUP) else 15)


def printable(text: str) -> str:
    """Escape characters that would control a terminal: file names may contain any character.

    Line breaks stay.
    """
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank, or else its type."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def did_you_mean(name: str, choices: Iterable[str], *, otherwise: str) -> str:
    """Name the nearest of ``choices``, ignoring case, or return ``otherwise``."""
    known = {choice.lower(): choice for choice in choices}
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean {known[nearest[0]]}?" if nearest else otherwise


def install_command(extra: str) -> str:
    """Command that installs an optional extra; run in a checkout, since medvision is in no index.

    Args:
        extra: Name in ``[project.optional-dependencies]`` of ``pyproject.toml``.
    """
    return f"pip install -e '.[{extra}]' (in the medvision checkout)"
