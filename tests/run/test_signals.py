import errno
import os
import signal
import threading

import pytest

from medvision.errors import Stopped
from medvision.run.processes import signals as stopping
from medvision.run.processes.signals import after_the_step, default_signals, handle_signals


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGUSR1, 143),
    ],
)
def test_a_signal_ends_the_program_with_its_code(signum: int, code: int) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Stopped) as stopped, handle_signals():
        send(signum)
    assert stopped.value.exit_code == code
    assert signal.getsignal(signum) == before


def test_within_a_step_the_first_signal_waits_and_the_second_does_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with handle_signals(), after_the_step() as requested:
        assert requested() is None
        send(signal.SIGTERM)
        assert requested() == signal.SIGTERM
        with pytest.raises(Stopped) as stopped:
            send(signal.SIGINT)
        assert stopped.value.signum == signal.SIGINT
        stopping._requests.received = None
    assert capfd.readouterr().err == (
        "ending after this step, to continue later; repeat to end at once\n"
    )


def test_a_signal_without_a_reader_ends_the_program_after_the_step() -> None:
    with handle_signals():
        with pytest.raises(Stopped), after_the_step():
            send(signal.SIGTERM)
        with after_the_step() as requested:
            assert requested() is None


def test_a_loader_process_outlives_the_signals_of_a_terminal() -> None:
    with handle_signals():
        child = os.fork()
        if child == 0:
            send(signal.SIGINT)
            send(signal.SIGUSR1)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_forked_training_processes_handle_signals_by_default() -> None:
    with handle_signals():
        with pytest.raises(Stopped) as stopped, default_signals():
            send(signal.SIGINT)
        assert stopped.value.exit_code == 130
        with default_signals():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_signals_ignored_by_the_shell_stay_ignored(signum: int) -> None:
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with handle_signals():
            send(signum)
            with default_signals():
                send(signum)
    finally:
        signal.signal(signum, before)


def test_a_closed_terminal_sends_its_signal_twice_and_the_step_still_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def closed(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "write", closed)
    with handle_signals(), after_the_step() as asked:
        send(signal.SIGHUP)
        send(signal.SIGHUP)
        assert asked() == signal.SIGHUP
        with pytest.raises(Stopped):
            send(signal.SIGTERM)
        stopping._requests.received = None


def test_outside_the_main_thread_nothing_changes() -> None:
    seen = []

    def run() -> None:
        with handle_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
