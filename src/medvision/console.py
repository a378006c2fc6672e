"""Print to the user: lines on stdout, progress bars on stderr.

rich is imported at the first output, not before.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from medvision.errors import printable
from medvision.live import live_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segment
    from typing_extensions import Buffer

Advance = Callable[[str, int, int | None], None]
"""Report the progress of a named step: amount done, and total if known."""


class _Output(io.FileIO):
    """Standard stream of this process, which outlives its reader."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self._lost = (errno.EPIPE, *((errno.EIO, errno.ENXIO) if self.isatty() else ()))

    def write(self, data: Buffer, /) -> int:
        """Write to the stream; after its pipe or terminal was closed, to nowhere."""
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in self._lost:
                raise
            return memoryview(data).nbytes


@contextmanager
def unread_output() -> Iterator[None]:
    """Let the program continue after the reader of its output has gone.

    The reader of a pipe may end first, as in ``| head``, and a terminal may be closed. What is
    written afterwards is lost; other errors, such as a full disk, are raised.
    """
    before = sys.stdout, sys.stderr
    lasting = sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)
    try:
        yield
    finally:
        for stream in lasting:
            with suppress(OSError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _lasting(stream: TextIO | None) -> TextIO:
    """Return a stream to the same place, if it is one of this process, that needs no reader."""
    if stream is None:  # closed before the program started
        return open(os.devnull, "w")  # noqa: PTH123
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # captured by the caller, or closed
        return stream
    if not isinstance(stream, io.TextIOWrapper) or number not in (1, 2):
        return stream  # redirected by the caller
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(number)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,  # of PYTHONUNBUFFERED
    )


def screen(*, stderr: bool = False) -> Console:
    """Console of rich that escapes control characters in whatever it prints.

    Names of files, classes and experiments may contain any character, in tables and titles too.
    """
    from rich.console import Console
    from rich.segment import Segment

    live_line.clear()
    console = Console(stderr=stderr)
    render = console.render

    def printable_parts(*arguments: Any, **options: Any) -> Iterator[Segment]:
        for part in render(*arguments, **options):
            yield part if part.control else Segment(printable(part.text), part.style)

    console.render = printable_parts  # type: ignore[method-assign]
    return console


def print_line(text: str) -> None:
    """Print one line: not wrapped, no markup, line breaks and control characters escaped.

    Args:
        text: The line; names of files and classes may contain any character.
    """
    screen().print(in_one_line(text), highlight=False, soft_wrap=True, markup=False)


def in_one_line(text: str) -> str:
    """Return the text with line breaks and control characters escaped."""
    return printable(text).replace("\n", "\\n")


def cell(text: str) -> str:
    """Return the text in one line, for a cell or title of rich, which would read markup in it."""
    from rich.markup import escape

    return escape(in_one_line(text))


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
    console = screen(stderr=True)
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
