"""Print to the user: lines on stdout, progress bars on stderr.

rich is imported at the first output, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medvision.errors import printable

if TYPE_CHECKING:
    pass

Advance = Callable[[str, int, int | None], None]
"""Report the progress of a named step: amount done, and total if known."""


def print_line(text: str) -> None:
    """Print one line: not wrapped, no markup, line breaks and control characters escaped.

    Args:
        text: The line; names of files and classes may contain any character.
    """
    from rich.console import Console

    in_one_line = printable(text).replace("\n", "\\n")
    Console().print(in_one_line, highlight=False, soft_wrap=True, markup=False)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return the number with its noun, in the plural unless the number is one.

    Args:
        number: Number of things.
        noun: Singular of the noun.
        plural: Plural of the noun; None adds an s.
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


@contextmanager
def progress_bar(*, of_bytes: bool = False, transient: bool = True) -> Iterator[Advance]:
    """Show a bar for each step, on stderr if it is a terminal.

    Args:
        of_bytes: If True, count bytes instead of images.
        transient: If True, remove the bars at the end.

    Yields:
        Function to call with the name of a step, the amount done and the total.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()]
        if of_bytes
        else [MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    )
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    ) as bar:
        steps: dict[str, TaskID] = {}

        def advance(step: str, done: int, total: int | None) -> None:
            if step not in steps:  # a resumed download starts with the existing bytes
                steps[step] = bar.add_task(step, total=total, completed=done, rate="")
            elapsed = next(task.elapsed for task in bar.tasks if task.id == steps[step])
            rate = f"{done / elapsed:.1f} images/s" if elapsed and not of_bytes else ""
            bar.update(steps[step], completed=done, total=total, rate=rate)

        yield advance
