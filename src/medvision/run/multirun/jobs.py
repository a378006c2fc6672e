"""Jobs of one command, wherever a launcher starts them: their results and environments."""

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
"""Folder in that of a search, in which each job keeps its lock and leaves its result."""

RESULT = "result.json"
BEGUN = "begun"
"""Empty file that a job makes first of all."""

STOPPED = (130, 143)
"""Exit codes of what a signal ended."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """How a job ended.

    Attributes:
        code: Exit code.
        run: Its run folder, where it got so far.
        error: What went wrong, in one line.
        where: File or key that this is about.
        overrides: What the command set for it.
        trusted: Packages that may define its classes.
        told: Whether the line was printed where the user sees it.
    """

    code: int
    run: Path | None
    error: str | None = None
    where: str | None = None
    overrides: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    told: bool = False

    @classmethod
    def of(cls, code: int, run: Path | None, error: MedvisionError | None) -> JobResult:
        """Of a job that the error ended, if there was one."""
        if error is None:
            return cls(code=code, run=run)
        return cls(code=code, run=run, error=str(error), where=error.where)


def write_result(jobs: Path, number: int, result: JobResult) -> None:
    """Write the job result for the process that started the job, maybe on another host.

    Args:
        jobs: Folder of all jobs of the command.
        number: Of this one.
        result: How it ended.
    """
    folder = jobs / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    run = None if result.run is None else str(result.run)
    write_json(folder / RESULT, {**vars(result), "run": run})


def read_result(jobs: Path, number: int) -> JobResult | None:
    """What a job left; None where it left nothing."""
    path = jobs / str(number) / RESULT
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    run = content.pop("run")
    content |= {name: tuple(content[name]) for name in ("overrides", "trusted")}
    return JobResult(run=None if run is None else Path(run), **content)


def drop_result(jobs: Path, number: int) -> None:
    """Take away what a job left, for it has been read or is out of date."""
    for name in (RESULT, BEGUN):
        (jobs / str(number) / name).unlink(missing_ok=True)


def has_begun(jobs: Path, number: int) -> bool:
    """Whether a process has started with the job since its result was dropped."""
    return (jobs / str(number) / BEGUN).exists()


def read_results(jobs: Path) -> list[JobResult]:
    """What all jobs of a command left, by number."""
    numbers = sorted(int(path.parent.name) for path in jobs.glob(f"*/{RESULT}"))
    results = [read_result(jobs, number) for number in numbers]
    return [result for result in results if result is not None]


def forget_jobs(jobs: Path) -> None:
    """Take away the folder of the jobs, and of those that hold it what is empty then."""
    shutil.rmtree(jobs, ignore_errors=True)
    drop_empty(*list(jobs.parents)[:3])


def drop_empty(*folders: Path) -> None:
    """Take away those of the folders that are empty, in this order."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def alone_with(jobs: Path, number: int) -> Iterator[None]:
    """Be the only process that runs this job: wait for one that an ended command left behind."""
    folder = jobs / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEGUN).touch()
    from medvision.run.storage.run_folder import lock_folder  # with yaml, for --help

    unlock = lock_folder(folder, wait=True)
    try:
        yield
    finally:
        unlock()


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
