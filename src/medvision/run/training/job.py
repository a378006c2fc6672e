"""One run from the check of its config to its end; errors become one line and an exit code."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvision.errors import MedvisionError, Stopped
from medvision.run.config.schema import check_config
from medvision.run.multirun.jobs import JobResult
from medvision.run.processes.errors import described, report, with_way_on
from medvision.run.quick_imports import gc_pause
from medvision.run.storage.test_seal import trial_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from medvision.run.storage.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run that was asked for.

    Attributes:
        cfg: Config, as composed or stored.
        experiment: Name of the experiment.
        folder: Called for the run folder once the config was checked.
        sealed_by: Keys by which the command chooses hyper-parameters: the test split is not
            touched where there are any.
        is_quiet: Print no error: the reader of the result does.
    """

    cfg: DictConfig
    experiment: str
    folder: Callable[[], RunFolder]
    sealed_by: tuple[str, ...] = ()
    is_quiet: bool = False


_BEGINNINGS = iter([time.perf_counter()])
"""When this process began, as near as it can know, for the first run in it."""


def run_job(job: Job) -> JobResult:
    """Run a job, and report in one line what went wrong.

    Raises:
        Stopped: If a signal ended it; its folder then says so.
    """
    folder: RunFolder | None = None
    started_s = next(_BEGINNINGS, time.perf_counter())
    is_trial = trial_of(job.cfg) is not None  # its search continues it
    failure: MedvisionError | None = None
    try:
        check_config(job.cfg)
        folder = job.folder()
        with gc_pause():  # torch and Lightning: seconds
            from medvision.run.training.experiment import run_experiment

        summary = run_experiment(
            job.cfg,
            experiment=job.experiment,
            folder=folder,
            started_s=started_s,
            sealed_by=job.sealed_by,
        )
        code, status = 0, "pruned" if summary["status"] == "pruned" else "finished"
    except Exception as error:
        failure = described(error)
        if not is_trial:
            failure = with_way_on(failure, folder)
        code, status = report(failure, folder, quiet=job.is_quiet), "failed"
    except (Stopped, KeyboardInterrupt):
        if folder is not None and folder.exists and not is_trial:
            path = shlex.quote(str(folder.path))
            sys.stdout.write(f"to continue: python train.py resume={path}\n")
        _close(folder, "interrupted")
        raise
    run = folder.path if folder is not None and (folder.exists or folder.reopened) else None
    if folder is not None and folder.reopened and code == 2:
        folder.release()  # it did not continue, and stays what it was
    else:
        _close(folder, status)
    return JobResult.of(code, run, failure)


def _close(folder: RunFolder | None, status: str) -> None:
    """Write how the run ended, and let others into its folder."""
    if folder is not None and folder.exists:
        folder.write_status(status)
        folder.release()
