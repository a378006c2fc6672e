"""Look at the other processes now and then, and say how one of them ended."""

import signal
import threading
from collections.abc import Callable
from typing import NoReturn

from typing_extensions import override

from medvision.run.notices import Notice
from medvision.types import MedvisionError

LOOK_S = 0.5
"""Pause between two looks at the other processes."""

STUCK_S = 20.0
"""After another process has failed: how long one that waits for it may take to notice."""


class Watch(threading.Thread):
    """Asks now and then whether the run is broken, and acts where nobody else has in time.

    Args:
        is_broken: Whether another process has failed.
        act: Ends this one, where it has not ended ``STUCK_S`` later.
    """

    def __init__(self, is_broken: Callable[[], bool], act: Callable[[], NoReturn]) -> None:
        super().__init__(daemon=True, name="watch-processes")
        self._is_broken, self._act = is_broken, act
        self._over = threading.Event()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()

    @override
    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            if self._is_broken():
                if not self._over.wait(STUCK_S):
                    self._act()
                return


def notice_of_end(name: str, code: int) -> Notice:
    """What is known of a process that ended with an exit code and left no word."""
    if code < 0:
        what = f"a process was ended by {signal.Signals(-code).name}"
        hint = (
            "if that was the system for lack of memory: lower data.batch_size or data.num_workers"
        )
    else:
        what, hint = f"a process ended with code {code} and no word", "see what it printed"
    error = MedvisionError(what, hint=hint, exit_code=3)
    return Notice.of(error, name=name)
