"""What every room shares: batches, stages, errors and the legend of shape letters.

Legend, used in every docstring: N samples, C channels, K classes, H and W pixels.
An image tensor is (N, C, H, W); a segmentation target is (N, H, W) with class indices
in [0, K) or ``IGNORE_INDEX``.

Nothing heavy is imported here: the command line needs ``MedvisionError`` before it needs torch.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:  # torch takes seconds to import; config errors must not wait for it
    from torch import Tensor

IGNORE_INDEX = 255
"""Target value of pixels and samples that no loss and no metric counts."""

RESEARCH_ONLY = "For research use only: not a medical device, no diagnosis."
"""What everything that predicts says beside its output."""

Stage = Literal["train", "val", "test"]

STAGES: tuple[Stage, ...] = ("train", "val", "test")


class Batch(TypedDict):
    """What a data loader yields and a task takes.

    Attributes:
        image: uint8 (N, C, H, W) in [0, 255]; models also take floats in [0, 1].
        target: uint8 (N, H, W) class indices, or ``IGNORE_INDEX``.
        index: int64 (N,), row of each sample in its split's table.
    """

    image: Tensor
    target: Tensor
    index: Tensor


def install_command(extra: str) -> str:
    """Command that adds an optional extra; run in a checkout, since no package index has medvision.

    Args:
        extra: Name in ``[project.optional-dependencies]`` of ``pyproject.toml``.
    """
    return f"pip install -e '.[{extra}]' (in the medvision checkout)"


def did_you_mean(name: str, choices: Iterable[str], *, otherwise: str) -> str:
    """Name the nearest of ``choices``, whatever its case, or say ``otherwise``."""
    known = {choice.lower(): choice for choice in choices}
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean {known[nearest[0]]}?" if nearest else otherwise


def printable(text: str) -> str:
    """Return the text with what would steer a terminal written out: file names may hold anything.

    Line breaks stay.
    """
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


class MedvisionError(Exception):
    """Something the user can mend, told in one line.

    Args:
        what: What is wrong, without a full stop.
        where: The file or config key it is about.
        hint: What to do about it.
        exit_code: 2 for wrong input, config or usage; 3 for a failure while running.
    """

    def __init__(
        self, what: str, *, where: str | None = None, hint: str | None = None, exit_code: int = 2
    ) -> None:
        self.what, self.where, self.hint, self.exit_code = what, where, hint, exit_code
        line = what
        if where is not None:
            in_one_line = where.replace("\n", "\\n")  # a file name may hold a line break
            line += f" ({in_one_line})"
        if hint is not None:
            line += f"; {hint}"
        super().__init__(printable(" ".join(line.split())))


class Stopped(BaseException):
    """Somebody asked the program to end: by Ctrl-C, SIGTERM or SIGUSR1.

    Not an ``Exception``: a run that failed lets the next one of its command start, a signal ends
    them all.

    Args:
        signum: Number of the signal.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, otherwise 143, as shells count a program ended by SIGTERM."""
        return 130 if self.signum == signal.SIGINT else 143
