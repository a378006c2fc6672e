"""Run one job, from the config check to the end; errors become one line and an exit code."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvision.command_line import resuming
from medvision.errors import MedvisionError, Stopped
from medvision.registry import trust
from medvision.run.config.schema import check_config
from medvision.run.multirun.jobs import JobResult
from medvision.run.processes.errors import described, report, with_resume_hint
from medvision.run.quick_imports import gc_pause
from medvision.run.storage.test_seal import trial_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from medvision.run.storage.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Job:
    """One requested run.

    Attributes:
        cfg: Config, composed or stored.
        experiment: Name of the experiment.
        folder: Returns the run folder; called after the config was checked.
        sealed_by: Keys with which the command chooses hyper-parameters: if not empty, the test
            split is not used.
        trusted: Packages that are imported first, because they may define the task.
        is_quiet: If True, print no error: the reader of the result does.
        raises: If True, raise an error instead of reporting it, for callers in Python.
    """

    cfg: DictConfig
    experiment: str
    folder: Callable[[], RunFolder]
    sealed_by: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    is_quiet: bool = False
    raises: bool = False


_BEGINNINGS = iter([time.perf_counter()])
"""Approximate start time of this process, for the first run in it."""


def run_job(job: Job) -> JobResult:
    """Run a job, and report errors in one line.

    Raises:
        MedvisionError: If the job failed and is to raise its error.
        Stopped: If a signal ended the job; the status in its folder is updated.
    """
    folder: RunFolder | None = None
    started_s = next(_BEGINNINGS, time.perf_counter())
    is_trial = trial_of(job.cfg) is not None  # its search resumes it
    failure: MedvisionError | None = None
    cause: Exception | None = None
    try:
        trust(job.trusted)
        check_config(job.cfg)
        folder = job.folder()
        with gc_pause():  # torch and Lightning take seconds to import
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
        failure, cause = described(error), error
        if not is_trial:
            failure = with_resume_hint(failure, folder)
        quiet = job.is_quiet or job.raises
        code, status = report(failure, folder, quiet=quiet), "failed"
    except (Stopped, KeyboardInterrupt):
        if folder is not None and folder.exists and not is_trial:
            sys.stdout.write(f"to continue: {resuming(folder.path)}\n")
        _close(folder, "interrupted")
        raise
    run = folder.path if folder is not None and (folder.exists or folder.reopened) else None
    if folder is not None and folder.reopened and code == 2:
        folder.release()  # it was not resumed and keeps its status
    else:
        _close(folder, status)
    if failure is not None and job.raises:
        raise failure from (None if cause is failure else cause)
    return JobResult.of(code, run, failure)


def _close(folder: RunFolder | None, status: str) -> None:
    """Write the final status of the run, and release its folder."""
    if folder is not None and folder.exists:
        folder.write_status(status)
        folder.release()
