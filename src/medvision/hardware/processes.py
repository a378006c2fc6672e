"""Place of this process among those of a run, from the environment.

Read before torch is imported, and in Lightning's order: torchrun, SLURM, another launcher, none.
"""

import functools
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from medvision.errors import MedvisionError

RANK_VARIABLE = "MEDVISION_PROCESS"
"""Rank of a process among all, set by the first process of its host for those it starts."""

PARENT_VARIABLE = "MEDVISION_PARENT"
"""Process id of the parent, which may end before this process looks for it."""

PARENT_S = 1.0
"""Time between two checks of the parent."""

ORPHANED = 3
"""Exit code of a process whose parent has ended."""

Starter = Literal["user", "medvision", "torchrun", "slurm", "other"]


def num_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_mb() -> int:
    """Memory of this host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


@dataclass(frozen=True, kw_only=True)
class Place:
    """Place of a process among those of its run.

    Attributes:
        started_by: The ``user``, the first process of its host (``medvision``), ``torchrun``,
            ``slurm``, or some ``other`` launcher, which sets ``LOCAL_RANK``.
        rank: Rank among all, from 0; None if only its host is known.
        local_rank: Rank on its host.
        node_rank: Rank of its host.
        num_processes: Number of processes; None if the run's config decides it.
        num_local: Number of processes on its host; None if unknown.
    """

    started_by: Starter
    rank: int | None = 0
    local_rank: int = 0
    node_rank: int = 0
    num_processes: int | None = None
    num_local: int | None = None

    @property
    def is_first(self) -> bool:
        """True for the process that prints and writes for all."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """Name of the process in error messages."""
        return f"host {self.node_rank}" if self.rank is None else f"process {self.rank}"

    @property
    def has_starter(self) -> bool:
        """True if all processes were started from outside, so that this one starts none."""
        return self.started_by not in ("user", "medvision")


_VARIABLES: Mapping[Starter, tuple[str, str, str, str, str]] = {
    "user": ("", "", "NODE_RANK", "", ""),
    "medvision": (RANK_VARIABLE, "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", ""),
    "torchrun": ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    "slurm": (
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_NODEID",
        "SLURM_NTASKS",
        "SLURM_NTASKS_PER_NODE",
    ),
    "other": ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", ""),
}
"""Variables of rank, local rank, node rank, number of processes, and number on a host."""


def place_of(environment: Mapping[str, str]) -> Place:
    """Determine the place of the process with this environment.

    Raises:
        MedvisionError: If a variable that a launcher sets is not a number.
    """
    starter: Starter = "user"
    if RANK_VARIABLE in environment:
        starter = "medvision"
    elif "TORCHELASTIC_RUN_ID" in environment:
        starter = "torchrun"
    elif srun_is_used(environment):
        starter = "slurm"
    elif "LOCAL_RANK" in environment:
        starter = "other"
    numbers = {name: _number(name, environment) for name in ("GROUP_RANK", *_VARIABLES[starter])}
    rank, local_rank, host, num_processes, num_local = map(numbers.get, _VARIABLES[starter])
    node_rank = host if host is not None else numbers["GROUP_RANK"] or 0
    return Place(
        started_by=starter,
        rank=local_rank or 0 if rank is None and node_rank == 0 else rank,
        local_rank=local_rank or 0,
        node_rank=node_rank,
        num_processes=num_processes,
        num_local=num_local,
    )


@functools.cache  # one watcher is enough
def end_with_parent() -> None:
    """End this process as soon as its parent has ended, for whatever reason."""
    parent = int(os.environ.get(PARENT_VARIABLE, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_S)
        os._exit(ORPHANED)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def srun_is_used(environment: Mapping[str, str]) -> bool:
    """Return True if SLURM starts the processes; not in the shell of an interactive job."""
    interactive = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "SLURM_NTASKS" in environment and not interactive


def _number(name: str, environment: Mapping[str, str]) -> int | None:
    value = environment.get(name)
    if value is not None and not value.strip().isdecimal():
        raise MedvisionError(
            f"expected a number, got {value!r}",
            where=name,
            hint=f"unset it, unless a launcher of several processes has set it: env -u {name}",
        )
    return None if value is None else int(value)
