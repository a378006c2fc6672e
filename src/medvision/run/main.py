"""The program behind ``train.py``: compose, run each job, turn failures into one line."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvision.errors import MedvisionError, Stopped
from medvision.run.config.store import CONF, help_text, run_name
from medvision.run.multirun.jobs import (
    JOBS,
    Origin,
    Result,
    at_home,
    forget_jobs,
    make_jobs,
    own_environment,
    read_results,
    write_result,
)
from medvision.run.processes.errors import as_failure, described, overheard, report
from medvision.run.training.run_config import run_job

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from medvision.hardware.processes import Place
    from medvision.run.storage.run_folder import RunFolder

__all__ = ["as_failure", "main", "report"]


SEALED_VARIABLE = "MEDVISION_SEALED_BY"
"""Tells the further processes of a run which keys its command varies."""


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
    from medvision.run.processes.signals import heeding_signals

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
    except Exception as error:
        return report(described(error))


def _run_jobs(arguments: Sequence[str]) -> list[int]:
    """Let Hydra compose and start every job; return their exit codes."""
    # Hydra prints its own errors and exits with 1 unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from medvision.hardware.processes import end_with_parent, place_of
    from medvision.run.config.hydra_errors import check_usage, explaining, quote_text
    from medvision.run.storage.test_seal import searches

    place = place_of(os.environ)
    if place.started_by == "medvision":
        end_with_parent()
    multirun, given = check_usage(arguments)
    arguments = [quote_text(argument) for argument in arguments]
    is_search = place.started_by != "medvision" and searches(given)
    if is_search and not multirun:
        arguments = ["-m", *arguments]
    base = None
    if multirun and not is_search:
        base = Path("runs", "multirun", datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    sys.argv = [sys.argv[0], *arguments]
    origin, codes = Origin.here(), list[int]()
    jobs = None if base is None else base / f"{JOBS}_{origin.process}"

    def job(cfg: DictConfig) -> int:  # a launcher may send it to another process
        return _run_composed(cfg, given=given, jobs=jobs, origin=origin, place=place)

    def job_here(cfg: DictConfig) -> int:
        codes.append(job(cfg))
        return codes[-1]

    broken: MedvisionError | Stopped | None = None
    with explaining(arguments), _scratch(jobs) as scratch:
        os.environ["MEDVISION_SCRATCH"] = str(scratch)
        run = job if multirun or is_search else job_here
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(run)()
        except (MedvisionError, HydraException, OmegaConfBaseException):
            raise
        except Stopped as stopped:  # what has ended before is told
            broken = stopped
        except Exception as error:  # of a launcher, whose process was killed or which is gone
            broken = described(error)
        if base is not None and jobs is not None:
            codes = _gather(base, jobs)
    if broken is not None:
        raise broken
    return codes


def _run_composed(
    cfg: DictConfig, *, given: Sequence[str], jobs: Path | None, origin: Origin, place: Place
) -> int:
    """Run one config that Hydra has composed, in whatever process; return its exit code."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from medvision.run.config.hydra_errors import quote_text
    from medvision.run.storage.test_seal import sealed, start_line
    from medvision.run.training.trial import check_is_trial, run_trial

    hydra_cfg: Any = HydraConfig.get()
    number = int(OmegaConf.select(hydra_cfg, "job.num", default=0) or 0)
    keys = sealed([*map(quote_text, given), *_swept_by_config()])
    if place.started_by == "medvision":  # of several runs it sees its own alone
        keys = tuple(filter(None, os.environ.get(SEALED_VARIABLE, "").split(",")))
        with own_environment(place, number=number):
            return _run_job(cfg, None, sealed_by=keys)[0]
    share = int(OmegaConf.select(cfg, "sweep.jobs", default=1))
    with at_home(origin, launcher=str(hydra_cfg.launcher._target_), share=share):
        with own_environment(place, number=number), overheard(quiet=not origin.is_here) as errors:
            os.environ[SEALED_VARIABLE] = ",".join(keys)
            if check_is_trial(cfg):
                return run_trial(cfg, is_here=origin.is_here)
            if keys and number == 0 and place.is_first:
                sys.stdout.write(f"{start_line(keys)}\n")
            run_dir = None
            try:
                code, run_dir = _run_job(cfg, jobs and jobs.parent, sealed_by=keys)
            except Stopped as stopped:
                if origin.is_here:
                    raise
                code = stopped.exit_code
        if jobs is not None:
            # As they were given: ${seed} makes no group of its own of each seed.
            tasks: Any = OmegaConf.to_container(hydra_cfg.overrides, resolve=False)
            told = Result.of(code, run_dir, tasks["task"], errors, told=origin.is_here)
            write_result(jobs, number, told)
    return code


def _gather(base: Path, jobs: Path) -> list[int]:
    """Write and show what the runs of a command scored together; return their exit codes."""
    from medvision.run.multirun.kfold import write_folds
    from medvision.run.multirun.summary import write_multirun
    from medvision.run.multirun.tables import print_folds, print_multirun

    results = read_results(jobs)
    forget_jobs(jobs)
    for result in results:
        if result.error is not None and not result.told:
            sys.stderr.write(f"error: {result.error}\n")
    run_dirs = [result.run for result in results]
    if any(run_dirs):
        base.mkdir(parents=True, exist_ok=True)  # run_dir may have sent the runs elsewhere
        groups = write_multirun(base, run_dirs, [result.overrides for result in results])
        print_multirun(groups)
        print_folds(write_folds(base, groups))
        sys.stdout.write(f"{base}\n")
    return [result.code for result in results]


@contextmanager
def _scratch(jobs: Path | None) -> Iterator[Path]:
    """A folder for what Hydra, its launchers and jobs leave, seen by other hosts too."""
    if jobs is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    make_jobs(jobs)
    try:
        yield jobs.absolute()
    finally:
        forget_jobs(jobs)


def _swept_by_config() -> list[str]:
    """What a config, and not the command line, lets the runs of a command vary."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from medvision.run.storage.test_seal import SEARCH

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
    from medvision.run.storage.resume import InterruptedRun, read_arguments
    from medvision.run.storage.run_folder import RunFolder

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

    from medvision.run.storage.run_folder import RunFolder

    hydra_cfg = HydraConfig.get()
    experiment = str(hydra_cfg.runtime.choices["experiment"])
    number = None if base is None else int(hydra_cfg.job.num)

    def plan() -> RunFolder:
        name = run_name(experiment, cfg.data.get("root"))
        return RunFolder.plan(name, cfg.run_dir, multirun=base, number=number)

    return run_job(cfg, experiment, plan, sealed_by=sealed_by)


def _say_stopped(stopped: Stopped) -> int:
    """Say that the user stopped it, once on each host; return the exit code."""
    from medvision.hardware.processes import place_of

    place = place_of(os.environ)
    if place.is_first or (place.local_rank == 0 and place.started_by == "user"):
        sys.stderr.write("interrupted\n")
    return stopped.exit_code
