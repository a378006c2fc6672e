"""One line at the bottom of the terminal that shows the current phase of a program.

The line is drawn on stderr, and only if it is a terminal: pipes and files get whole lines only.
rich is imported when the line is drawn first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

Report = Callable[[int, int | None], None]
"""Show the number of things done, and of all things if known."""

REFRESH_S = 0.1
"""Time between two drawings of the line."""

BAR_WIDTH = 24
"""Columns of the bar; the whole line fits into 80."""


class LiveLine:
    """Line that is redrawn in place, and removed before anything else is printed.

    Attributes:
        is_on: False in processes whose terminal belongs to another one.
    """

    def __init__(self) -> None:
        self.is_on = True
        self._live: Live | None = None
        self._content: tuple[str, int | None, int | None, str] = ("", None, None, "")
        self._since_s = self._drawn_s = 0.0

    @property
    def is_possible(self) -> bool:
        """True if there is a terminal to draw on."""
        return self.is_on and sys.stderr is not None and sys.stderr.isatty()

    def show(
        self,
        phase: str,
        *,
        done: int | None = None,
        total: int | None = None,
        note: str | None = None,
        moves: bool = True,
    ) -> None:
        """Draw the line, at most ten times a second for one phase.

        Args:
            phase: What the program is doing.
            done: Number of things done, with a bar if ``total`` is known.
            total: Number of all things.
            note: Text at the end; None shows the time left.
            moves: If True, a thread keeps the line moving. False where processes are forked, or
                where every core computes.
        """
        if not self.is_possible:
            return
        now_s = time.perf_counter()
        if phase != self._content[0]:
            self._since_s, self._drawn_s = now_s, 0.0
        self._content = (phase, done, total, self._left(done, total) if note is None else note)
        if self._live is not None and self._live.auto_refresh != moves:
            self.clear()
        if self._live is None:
            if "rich.live" not in sys.modules:  # its import takes a moment
                sys.stderr.write(f"{phase}\r")
                sys.stderr.flush()
            self._live = self._new(moves=moves)
            self._live.start(refresh=True)
            self._live.console.show_cursor(True)  # a killed program cannot restore it
        elif not moves and now_s - self._drawn_s >= REFRESH_S:
            self._live.refresh()
            self._drawn_s = now_s

    def is_due(self) -> bool:
        """Return True if a new content would be drawn now."""
        return self.is_possible and time.perf_counter() - self._drawn_s >= REFRESH_S

    def clear(self) -> None:
        """Remove the line; must come before anything that is printed."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def _new(self, *, moves: bool) -> Live:
        from rich.console import Console
        from rich.live import Live

        return Live(
            console=Console(file=sys.stderr, highlight=False),
            get_renderable=self._line,
            auto_refresh=moves,
            refresh_per_second=8,
            transient=True,
            # what goes to a file must not be drawn on the terminal instead
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )

    def _line(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        phase, done, total, note = self._content
        if not hasattr(self, "_spinner"):
            self._spinner = Spinner("dots", style="cyan")
        parts: list[Any] = [self._spinner, Text(phase, no_wrap=True)]
        if done is not None and total:
            bar = ProgressBar(total=total, completed=done, width=BAR_WIDTH)
            parts += [bar, Text(f"{done}/{total}", style="green", no_wrap=True)]
        elif done is not None:
            parts.append(Text(str(done), style="green", no_wrap=True))
        if note:
            parts.append(Text(note, style="dim", no_wrap=True, overflow="ellipsis"))
        line = Table.grid(padding=(0, 1))
        line.add_row(*parts)
        return line

    def _left(self, done: int | None, total: int | None) -> str:
        if not done or not total:
            return ""
        return time_left((time.perf_counter() - self._since_s) / done * (total - done))


def time_left(seconds: float) -> str:
    """Format a remaining time, such as ``2:05 left`` or ``1:10:00 left``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"


live_line = LiveLine()
"""The line of this process."""


@contextmanager
def phase(name: str) -> Iterator[Report]:
    """Show the name of a phase while the code inside runs.

    Yields:
        Function to call with the progress.
    """
    live_line.show(name)
    try:
        yield lambda done, total: live_line.show(name, done=done, total=total)
    finally:
        live_line.clear()
