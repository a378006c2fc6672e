"""Handle Ctrl-C, SIGTERM, SIGHUP and SIGUSR1, at once or after the current step."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from medvision.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""SIGHUP is sent when the terminal is closed or the connection to it is lost. SLURM is usually
configured to send SIGUSR1 some time before it ends a job."""


class _Requests:
    """Signal received by this program, and if it may finish a step first."""

    def __init__(self) -> None:
        self.may_wait = False
        self.received: int | None = None


_requests = _Requests()


@contextmanager
def handle_signals() -> Iterator[None]:
    """Raise `Stopped` on signals while the program runs."""
    handler = _handler(os.getpid())
    with _handlers(dict.fromkeys(_handled(), handler)):
        yield


def _handled() -> list[signal.Signals]:
    """Signals that are not ignored, as nohup and shells set some."""
    return [signum for signum in SIGNALS if signal.getsignal(signum) != signal.SIG_IGN]


@contextmanager
def after_the_step() -> Iterator[Callable[[], int | None]]:
    """Defer the first signal until the code inside checks for it; a second one acts at once.

    Yields:
        Function that returns the number of the deferred signal, or None.

    Raises:
        Stopped: At the end, if a signal was received and not checked for.
    """
    _requests.may_wait, _requests.received = True, None
    try:
        yield _received
        if _requests.received is not None:
            raise Stopped(_requests.received)
    finally:
        _requests.may_wait, _requests.received = False, None


def _received() -> int | None:
    """Number of the deferred signal; a module-level function, so that callbacks can be pickled."""
    return _requests.received


@contextmanager
def default_signals() -> Iterator[None]:
    """Restore the default signal handlers, for a fit in forked processes.

    Raises:
        Stopped: If Ctrl-C or SIGTERM ended the fit.
    """
    handlers: dict[signal.Signals, Any] = dict.fromkeys(_handled(), signal.SIG_DFL)
    if signal.SIGINT in handlers:
        handlers[signal.SIGINT] = signal.default_int_handler
    try:
        with _handlers(handlers):
            yield
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns a signal into SystemExit
        raise Stopped(signal.SIGINT) from stop


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Set handlers for the code inside; has no effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in handlers}
    try:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


def _handler(owner: int) -> Callable[[int, FrameType | None], None]:
    def handle(signum: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a loader lives as long as the training needs it
            return
        if signum == signal.SIGHUP:  # a closed terminal sends it twice: once by its shell
            signal.signal(signum, signal.SIG_IGN)
        if _requests.may_wait and _requests.received is None:
            _requests.received = signum
            words = "ending after this step, to continue later; repeat to end at once\n"
            with suppress(OSError):  # the terminal is closed
                words = "\n" * sys.stderr.isatty() + words  # below the line of the progress
                os.write(sys.stderr.fileno() if _has_file() else 2, words.encode())
            return
        raise Stopped(signum)

    return handle


def _has_file() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (OSError, ValueError):  # stderr is captured
        return False
