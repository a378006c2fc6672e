"""Results and environments of the jobs of one command, wherever a launcher starts them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvision.errors import MedvisionError
from medvision.files import write_json

if TYPE_CHECKING:
    from medvision.hardware.processes import Place


JOBS = ".jobs"
"""Subfolder of a search in which each job keeps its lock and its result."""

RESULT = "result.json"
BEGUN = "begun"
"""Empty file that a job creates first."""

STOPPED = (129, 130, 143)
"""Exit codes of jobs that a signal ended."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """Result of a job.

    Attributes:
        code: Exit code.
        run: Run folder; None if it was not created.
        error: Error message in one line.
        where: File or key that the error is about.
        overrides: Overrides that the command set for the job.
        trusted: Packages that may define its classes.
        reported: True if the user has seen the error message.
    """

    code: int
    run: Path | None
    error: str | None = None
    where: str | None = None
    overrides: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    reported: bool = False

    @classmethod
    def of(cls, code: int, run: Path | None, error: MedvisionError | None) -> JobResult:
        """Result of a job that may have ended with an error."""
        if error is None:
            return cls(code=code, run=run)
        return cls(code=code, run=run, error=str(error), where=error.where)


def write_result(jobs: Path, number: int, result: JobResult) -> None:
    """Write the job result for the process that started the job, possibly on another host.

    Args:
        jobs: Folder of all jobs of the command.
        number: Number of this job.
        result: Its result.
    """
    folder = jobs / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    run = None if result.run is None else str(result.run)
    write_json(folder / RESULT, {**vars(result), "run": run})


def read_result(jobs: Path, number: int) -> JobResult | None:
    """Read the result of a job; None if there is none."""
    path = jobs / str(number) / RESULT
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    run = content.pop("run")
    content.pop("told", None)  # an earlier name of ``reported``, in searches that continue
    content |= {name: tuple(content[name]) for name in ("overrides", "trusted")}
    return JobResult(run=None if run is None else Path(run), **content)


def drop_result(jobs: Path, number: int) -> None:
    """Remove the result of a job because it has been read or is out of date."""
    for name in (RESULT, BEGUN):
        (jobs / str(number) / name).unlink(missing_ok=True)


def has_begun(jobs: Path, number: int) -> bool:
    """Return True if a process has started the job since its result was dropped."""
    return (jobs / str(number) / BEGUN).exists()


def read_results(jobs: Path) -> list[JobResult]:
    """Read the results of all jobs of a command, by number."""
    numbers = sorted(int(path.parent.name) for path in jobs.glob(f"*/{RESULT}"))
    results = [read_result(jobs, number) for number in numbers]
    return [result for result in results if result is not None]


def forget_jobs(jobs: Path) -> None:
    """Remove the folder of the jobs, and its parent folders if they are then empty."""
    shutil.rmtree(jobs, ignore_errors=True)
    drop_empty(*list(jobs.parents)[:3])


def drop_empty(*folders: Path) -> None:
    """Remove the empty ones of these folders, in this order."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def alone_with(jobs: Path, number: int) -> Iterator[None]:
    """Run this job in one process only: wait for one that an earlier command left running."""
    folder = jobs / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEGUN).touch()
    from medvision.run.storage.run_folder import lock_folder  # imports yaml: not for --help

    unlock = lock_folder(folder, wait=True)
    try:
        yield
    finally:
        unlock()


@contextmanager
def own_environment(place: Place, *, number: int) -> Iterator[None]:
    """Give a run of a command its own environment, and restore it afterwards.

    A run of several processes leaves ranks and addresses behind, from which the next run would
    conclude that its processes are started from outside. Processes that were started from outside
    connect again for each run, at the next port.

    Args:
        place: Place of this process.
        number: Number of the run within its command, from 0.
    """
    before = dict(os.environ)
    os.environ["MEDVISION_JOB"] = str(number)
    if number and place.started_by == "torchrun":  # its store still holds the previous run
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    if number and "MASTER_PORT" in before:
        os.environ["MASTER_PORT"] = str(int(before["MASTER_PORT"]) + number)
    elif number and place.started_by == "slurm":  # Lightning's port, then the next ones
        port = 15000 + int(before.get("SLURM_JOB_ID", "0")[-4:])
        os.environ["MASTER_PORT"] = str(port + number)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        # Only the differences: other threads may read the environment, without a lock.
        os.environ.update({k: v for k, v in before.items() if os.environ.get(k) != v})
