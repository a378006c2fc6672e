"""Start and watch the further processes of a run, and report the first failure."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector
from typing_extensions import override

from medvision.errors import MedvisionError
from medvision.hardware.processes import PARENT_VARIABLE, RANK_VARIABLE, place_of
from medvision.run.config.hydra_errors import quote_text
from medvision.run.processes.errors import described, print_error
from medvision.run.processes.failure_board import (
    BOARD_VARIABLE,
    PEERS_S,
    Board,
    ProcessError,
    first_cause,
    wait_until,
)
from medvision.run.storage.run_folder import RunFolder

PROGRAM = ("-c", "import sys; from medvision.run import main; sys.exit(main(sys.argv[1:]))")
"""Start the same program without a command line, as in a notebook or a test."""

FLAGS = ("config_dir", "config_name", "config_path")
OF_SEVERAL_RUNS = re.compile(r"[+~]*hydra(\.mode|\.sweep|[./](sweeper|launcher))([.@=]|$)")
"""Hydra overrides about several runs, which the processes of a single run do not need."""


def relaunch_command() -> tuple[list[str], Path]:
    """Command that starts this run again, alone, and its working folder.

    Keeps ``python -m``, ``medvision train`` and options of Python itself. For a command with
    several runs, uses the overrides of this run.
    """
    given = sys.argv[1:]
    if not HydraConfig.initialized():  # resume=RUN
        return [*_program(given), *given], Path.cwd()
    cfg = HydraConfig.get()
    options = get_args_parser().parse_args(given)
    flags = [
        f"--{name.replace('_', '-')}={getattr(options, name)}"
        for name in FLAGS
        if getattr(options, name)
    ]
    given_to: Any = OmegaConf.to_container(cfg.overrides, resolve=False)  # ${seed} stays unresolved
    kept = [override for override in given_to["hydra"] if not OF_SEVERAL_RUNS.match(override)]
    command = [*_program(given), *flags, *given_to["task"], *kept]
    return command, Path(get_original_cwd())


def _program(given: Sequence[str]) -> list[str]:
    """Command line of this process up to its arguments, which are ``given``, quoted."""
    front = len(sys.orig_argv) - len(given)
    if [quote_text(argument) for argument in sys.orig_argv[front:]] == list(given):
        return [sys.executable, *sys.orig_argv[1:front]]
    return [sys.executable, *PROGRAM]


LOOK_S = 0.5
"""Time between two checks of the other processes."""

STUCK_S = 20.0
"""Time that a process waiting for a failed one has to notice the failure."""


FAILED = 3
"""Exit code of a process that another one has stopped."""

END_S = 30.0
"""Time that further processes have to end after the fit."""


def supervise(trainer: Trainer, folder: RunFolder) -> None:
    """Replace the launcher of a trainer of several processes by `Launcher`.

    Signals are always handled by this program.

    Args:
        trainer: Left unchanged apart from its signals if its strategy starts no programs.
        folder: Run folder; its status is written if the first process no longer can.
    """
    signals = trainer._signal_connector
    # Lightning handles SIGTERM by a broadcast, which would block during another broadcast.
    signals.register_signal_handlers = partial(_remember_handlers, signals)  # type: ignore[method-assign]
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = Launcher(launcher, folder)
        trainer.strategy.setup_environment = _quietly(trainer.strategy.setup_environment)  # type: ignore[method-assign]


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher with clear errors, which leaves no process behind.

    Args:
        plain: Launcher created by the strategy.
        folder: Run folder.
    """

    def __init__(self, plain: _SubprocessScriptLauncher, folder: RunFolder) -> None:
        super().__init__(plain.cluster_environment, plain.num_processes, plain.num_nodes)
        self.folder, self.place = folder, place_of(os.environ)
        self.starts = not self.cluster_environment.creates_processes_externally
        self.board: Board | None = None
        self.cause: MedvisionError | None = None

    @override
    def launch(
        self,
        function: Callable[..., Any],
        *args: Any,
        trainer: Trainer | None = None,
        **kwargs: Any,
    ) -> Any:
        self.cluster_environment.validate_settings(self.num_processes, self.num_nodes)
        threads = torch.get_num_threads()
        over = threading.Event()
        watchdog = threading.Thread(target=self._watch, args=(over,), daemon=True, name="watchdog")
        try:
            self._gather()
            torch.set_num_threads(self._threads())
            watchdog.start()
            return function(*args, **kwargs)
        except Exception as fault:
            self.cause = self._cause(fault) if self.procs else described(fault)
            self._end()
            if torch.distributed.is_initialized():  # the next run would reuse it
                torch.distributed.destroy_process_group()
            raise self.cause from fault
        except BaseException:
            self._end()
            raise
        finally:
            over.set()
            torch.set_num_threads(threads)

    @override
    def kill(self, signum: int) -> None:
        """Send a signal to the started processes and their loaders."""
        for process in self.procs:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signum)

    def wait(self) -> None:
        """Wait for the started processes; kill those that do not end."""
        for process in self.procs:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=END_S)
        self._end()

    def _gather(self) -> None:
        """Start the other processes if nothing else does, or report to the first process."""
        if self.starts and self.num_processes > 1:
            self.board = Board(Path(tempfile.mkdtemp(prefix="medvision-processes-")))
            self._start(self.board)
            return
        self.board = Board.here()
        if self.board is not None and self.place.started_by == "medvision":
            self.board.arrive(self.place)

    def _start(self, board: Board) -> None:
        """Start the other processes of this host, and wait until they have reached the fit."""
        command, folder = relaunch_command()
        for local_rank in range(1, self.num_processes):
            rank = self.place.node_rank * self.num_processes + local_rank
            environment = {
                **os.environ,
                BOARD_VARIABLE: str(board.folder),
                RANK_VARIABLE: str(rank),
                PARENT_VARIABLE: str(os.getpid()),
                "MASTER_ADDR": self.cluster_environment.main_address,
                "MASTER_PORT": str(self.cluster_environment.main_port),
                "NODE_RANK": str(self.place.node_rank),
                "LOCAL_RANK": str(local_rank),
                "WORLD_SIZE": str(self.num_processes * self.num_nodes),
            }
            self.procs.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C reaches only this process, which ends the others
                )
            )

        def has_ended() -> bool:
            return any(p.poll() is not None for p in self.procs) or bool(board.errors())

        wait_until(
            lambda: board.num_arrived() == len(self.procs) or has_ended(), timeout_s=float("inf")
        )
        if board.num_arrived() < len(self.procs):
            raise _DiedEarlyError

    def _watch(self, over: threading.Event) -> None:
        """End this process if another one has failed and this one does not notice in time."""
        while not over.wait(LOOK_S):
            if self._is_broken():
                if not over.wait(STUCK_S):
                    self._take_over()
                return

    def _is_broken(self) -> bool:
        """Return True if another process of this host failed or the first reported a failure."""
        if self.procs:
            failed = any(process.poll() not in (None, 0) for process in self.procs)
            return failed or (self.board is not None and bool(self.board.errors()))
        if self.board is None or self.place.started_by == "medvision":
            return False
        return bool(self.board.errors()) if self.place.local_rank == 0 else self.board.is_reported

    def _cause(self, fault: Exception) -> MedvisionError:
        """First failure of any process; called after this process failed."""
        assert self.board is not None
        board = self.board
        wait_until(lambda: self._all_ended(board), timeout_s=PEERS_S)
        others = [*self._unexplained(board), *board.errors()]
        if isinstance(fault, _DiedEarlyError):
            return others[0] if others else fault
        error = described(fault)
        return first_cause(ProcessError.of(error, name=self.place.name), others) or error

    def _all_ended(self, board: Board) -> bool:
        running = sum(process.poll() is None for process in self.procs)
        return running == 0 or len(board.errors()) == len(self.procs)

    def _unexplained(self, board: Board) -> list[ProcessError]:
        """Errors of processes that ended without a message, such as killed ones."""
        posted, found = {error.name for error in board.errors()}, []
        for number, process in enumerate(self.procs, start=1):
            name = f"process {self.place.node_rank * self.num_processes + number}"
            if process.poll() in (None, 0) or name in posted:
                continue
            code = process.returncode
            what, hint = (
                f"a process ended with code {code} without a message",
                "see its output",
            )
            if code < 0:
                what = f"a process was ended by {signal.Signals(-code).name}"
                hint = "if memory ran out, lower data.batch_size or data.num_workers"
            found.append(ProcessError.of(MedvisionError(what, hint=hint, exit_code=3), name=name))
        return found

    def _take_over(self) -> NoReturn:
        """End this process, which waits for one that has failed; nothing else can stop the wait."""
        assert self.board is not None
        if self.place.local_rank > 0:  # the first process has reported the reason
            os._exit(FAILED)
        cause = self.cause or [*self._unexplained(self.board), *self.board.errors()][0]
        if not self.board.is_reported:
            print_error(cause, self.folder)
            self.board.mark_reported()
        if self.folder.exists:
            self.folder.write_status("failed")
        self._end()
        sys.stdout.flush()
        os._exit(cause.exit_code)

    def _end(self) -> None:
        """End all started processes and remove their board."""
        self.kill(signal.SIGKILL)
        for process in self.procs:
            process.wait()
        if self.procs and self.board is not None:
            self.board.remove()

    def _threads(self) -> int:
        """Cores per process of this host, unless the user has set them."""
        if "OMP_NUM_THREADS" in os.environ:
            return torch.get_num_threads()
        return max(1, torch.get_num_threads() // self.num_processes)


class _DiedEarlyError(MedvisionError):
    """A process ended before the fit; its note on the board, if any, has the reason."""

    def __init__(self) -> None:
        super().__init__("a process ended before the training started", exit_code=3)


def _remember_handlers(signals: _SignalConnector) -> None:
    """Keep the current handlers, which Lightning restores after the fit."""
    signals._original_handlers = signals._get_current_signal_handlers()


def _quietly(connect: Callable[[], None]) -> Callable[[], None]:
    """Connect the processes without the output that Gloo writes to stdout in each of them."""

    def connect_quietly() -> None:
        sys.stdout.flush()
        kept = os.dup(1)
        try:
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            connect()
        finally:
            os.dup2(kept, 1)
            os.close(kept)

    return connect_quietly
