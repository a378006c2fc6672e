"""The program behind ``train.py``: compose, run each job, turn failures into one line."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvision.run.configs import CONF, help_text
from medvision.run.failures import as_failure, described, report
from medvision.types import MedvisionError, Stopped

if TYPE_CHECKING:  # --help must not wait for Hydra
    from omegaconf import DictConfig

    from medvision.hardware.processes import Place
    from medvision.run.folder import RunFolder

__all__ = ["as_failure", "main", "report"]

SEALED_VARIABLE = "MEDVISION_SEALED_BY"
"""Tells the further processes of a run which keys its command varies."""

STARTED_S = time.perf_counter()
"""When this process began, as near as it can know."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as ``python train.py ARGUMENTS`` does.

    Args:
        arguments: What follows the program's name; None takes it from ``sys.argv``.

    Returns:
        Exit code: 0 done, 2 wrong input or usage, 3 failed while running, 130 stopped by Ctrl-C,
        143 by SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(help_text())
        return 0
    from medvision.run.stopping import heeding_signals

    try:
        with heeding_signals():
            if any(argument.startswith("resume=") for argument in arguments):
                return _go_on(arguments)
            return max(_run_jobs(arguments), default=0)
    except MedvisionError as error:
        return report(error)
    except Stopped as stopped:
        return _say_stopped(stopped)
    except KeyboardInterrupt:  # where signals are not heeded: outside the main thread
        return _say_stopped(Stopped(signal.SIGINT))


def _run_jobs(arguments: Sequence[str]) -> list[int]:
    """Let Hydra compose and start every job; return their exit codes."""
    # Hydra prints its own errors and exits with 1 unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra

    from medvision.hardware.processes import end_with_parent, place_of
    from medvision.run.messages import check_usage, explaining, quote_text
    from medvision.run.sealed import sealed, start_line

    place = place_of(os.environ)
    if place.started_by == "medvision":
        end_with_parent()
    multirun, given = check_usage(arguments)
    arguments = [quote_text(argument) for argument in arguments]
    base = None
    if multirun:
        base = Path("runs", "multirun", datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    codes: list[int] = []
    run_dirs: list[Path | None] = []
    overrides: list[list[str]] = []

    def job(cfg: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        keys = sealed([*map(quote_text, given), *_swept_by_config()])
        if place.started_by == "medvision":  # of several runs it sees its own alone
            keys = tuple(filter(None, os.environ.get(SEALED_VARIABLE, "").split(",")))
        elif keys and not codes and place.is_first:
            sys.stdout.write(f"{start_line(keys)}\n")
        with own_environment(place, number=len(codes)):
            os.environ[SEALED_VARIABLE] = ",".join(keys)
            code, run_dir = _run_job(cfg, base, sealed_by=keys)
        codes.append(code)
        run_dirs.append(run_dir)
        # As they were given: ${seed} makes no group of its own of each seed.
        given_to: Any = OmegaConf.to_container(HydraConfig.get().overrides, resolve=False)
        overrides.append(given_to["task"])

    sys.argv = [sys.argv[0], *arguments]
    with explaining(arguments), tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDVISION_SCRATCH"] = scratch
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(job)()
    if base is not None and any(run_dirs):
        from medvision.run.folds import write_folds
        from medvision.run.multirun import write_multirun
        from medvision.run.multirun_screen import print_folds, print_multirun

        base.mkdir(parents=True, exist_ok=True)  # run_dir may have sent the runs elsewhere
        groups = write_multirun(base, run_dirs, overrides)
        print_multirun(groups)
        print_folds(write_folds(base, groups))
        sys.stdout.write(f"{base}\n")
    return codes


@contextmanager
def own_environment(place: Place, *, number: int) -> Iterator[None]:
    """Give a run of a command an environment of its own, and take back what it leaves there.

    A run of several processes leaves their ranks and addresses behind, by which the next one
    would believe that somebody else starts its processes. Processes that were started from
    outside meet again for each run, at the next port.

    Args:
        place: Of this process.
        number: Of the run within its command, from 0.
    """
    before = dict(os.environ)
    os.environ["MEDVISION_JOB"] = str(number)
    if number and place.started_by == "torchrun":  # its store still holds the run before
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    if number and "MASTER_PORT" in before:
        os.environ["MASTER_PORT"] = str(int(before["MASTER_PORT"]) + number)
    elif number and place.started_by == "slurm":  # Lightning's port of the job, and the next ones
        port = 15000 + int(before.get("SLURM_JOB_ID", "0")[-4:])
        os.environ["MASTER_PORT"] = str(port + number)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        # No more than what differs: other threads may read the environment, without a lock.
        os.environ.update({k: v for k, v in before.items() if os.environ.get(k) != v})


def _swept_by_config() -> list[str]:
    """What a config, and not the command line, lets the runs of a command vary."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from medvision.run.sealed import SEARCH

    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode != RunMode.MULTIRUN:
        return []
    if not str(hydra_cfg.sweeper._target_).endswith(".BasicSweeper"):  # others search
        return [f"{SEARCH}={hydra_cfg.runtime.choices['hydra/sweeper']}"]
    return [f"{key}={value}" for key, value in (hydra_cfg.sweeper.params or {}).items()]


def _go_on(arguments: Sequence[str]) -> int:
    """Go on with the run that ``resume=`` names; return the exit code."""
    from omegaconf import OmegaConf

    from medvision.hardware.processes import end_with_parent, place_of
    from medvision.run.folder import RunFolder
    from medvision.run.resume import InterruptedRun, read_arguments

    place = place_of(os.environ)
    if place.started_by == "medvision":
        end_with_parent()
    path, changes = read_arguments(arguments)
    run = InterruptedRun.read(path)
    if run.is_over:
        sys.stdout.write(f"{path}: {run.summary['status']} already, nothing is left to do\n")
        return 0
    for key, value in changes.items():
        OmegaConf.update(run.cfg, key, value)
    with own_environment(place, number=0):
        code, _ = run_job(
            run.cfg,
            run.experiment,
            lambda: RunFolder.reopen(path),
            sealed_by=run.summary.get("sealed_by", ()),
        )
    return code


def _run_job(
    cfg: DictConfig, base: Path | None, *, sealed_by: Sequence[str]
) -> tuple[int, Path | None]:
    """Run the config that Hydra has composed; return its exit code and run folder."""
    from hydra.core.hydra_config import HydraConfig

    from medvision.run.folder import RunFolder

    hydra_cfg = HydraConfig.get()
    experiment = str(hydra_cfg.runtime.choices["experiment"])
    number = None if base is None else int(hydra_cfg.job.num)

    def plan() -> RunFolder:
        return RunFolder.plan(experiment, cfg.run_dir, multirun=base, number=number)

    return run_job(cfg, experiment, plan, sealed_by=sealed_by)


def run_job(
    cfg: DictConfig,
    experiment: str,
    find_folder: Callable[[], RunFolder],
    *,
    sealed_by: Sequence[str],
) -> tuple[int, Path | None]:
    """Run a config, and say in one line what went wrong.

    Args:
        cfg: As composed or stored.
        experiment: Its name.
        find_folder: Decides the folder, once the config was checked.
        sealed_by: As for ``run_experiment``.

    Returns:
        The exit code, and the folder where there is one.

    Raises:
        Stopped: If a signal ended it; its folder then says so.
    """
    from medvision.run.check import check_config

    folder = None
    try:
        check_config(cfg)
        folder = find_folder()
        from medvision.run.job import run_experiment  # imports torch: a second's config check first

        run_experiment(
            cfg,
            experiment=experiment,
            folder=folder,
            started_s=STARTED_S,
            sealed_by=sealed_by,
        )
        code = 0
    except MedvisionError as error:
        code = report(error, folder)
    except Exception as error:
        code = report(described(error), folder)
    except (Stopped, KeyboardInterrupt):
        _close(folder, "interrupted")
        raise
    _close(folder, "finished" if code == 0 else "failed")
    return code, folder.path if folder is not None and folder.exists else None


def _close(folder: RunFolder | None, status: str) -> None:
    """Let the folder say how its run ended, and let others into it."""
    if folder is None or not folder.exists:
        return
    if status == "interrupted":
        sys.stdout.write(f"to go on: python train.py resume={shlex.quote(str(folder.path))}\n")
    folder.write_status(status)
    folder.release()


def _say_stopped(stopped: Stopped) -> int:
    """Say that the user stopped it, once on each host; return the exit code."""
    from medvision.hardware.processes import place_of

    place = place_of(os.environ)
    if place.is_first or (place.local_rank == 0 and place.started_by == "user"):
        sys.stderr.write("interrupted\n")
    return stopped.exit_code
