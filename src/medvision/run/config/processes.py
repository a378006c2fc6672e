"""Refuse process settings that would train twice, block, or leave a process without work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from medvision.console import counted
from medvision.errors import MedvisionError
from medvision.hardware.processes import Place, place_of

if TYPE_CHECKING:
    from medvision.data import ImageData
    from medvision.hardware import Plan


STARTERS = {"torchrun": "torchrun", "slurm": "SLURM", "other": "the launcher"}
ADDRESS = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
ON_XLA = ("tpu", "tpu_rehearsal")
"""Accelerators that determine their hosts and processes themselves."""


def check_processes(cfg: DictConfig) -> None:
    """Check that the number of started processes matches the config.

    Raises:
        MedvisionError: If the numbers differ, or the hosts could not connect to each other.
    """
    if OmegaConf.select(cfg, "trainer.accelerator") in ON_XLA:
        return
    place = place_of(os.environ)
    devices = OmegaConf.select(cfg, "trainer.devices", default=1)
    num_nodes = int(OmegaConf.select(cfg, "trainer.num_nodes", default=1))
    if place.started_by == "slurm":
        _check_srun(place)
    if place.has_starter:
        _check_numbers(place, devices, num_nodes)
    if place.node_rank >= num_nodes:
        raise MedvisionError(
            f"this is host {place.node_rank}, counted from 0, but the run has"
            f" {counted(num_nodes, 'host')}",
            where="trainer.num_nodes",
            hint=f"set it to the number of hosts, at least {place.node_rank + 1},"
            " or unset NODE_RANK",
        )
    missing = [name for name in ADDRESS if name not in os.environ]
    if num_nodes > 1 and place.started_by == "user" and missing:
        raise MedvisionError(
            f"{num_nodes} hosts are requested, but {', '.join(missing)}"
            f" {'is' if len(missing) == 1 else 'are'} not set: they would block, waiting for each"
            " other",
            where="trainer.num_nodes",
            hint="on each host set NODE_RANK=0, 1, ..., MASTER_ADDR=<first host> and"
            " MASTER_PORT=<free port>, or start with torchrun or srun",
        )


def check_plan(cfg: DictConfig, plan: Plan, data: ImageData) -> None:
    """Check the number of processes against the available devices and training rows.

    Raises:
        MedvisionError: If there are too few devices or rows, or the device does not support
            synchronised batch norm.
    """
    if plan.xla:
        from medvision.hardware import REHEARSAL, xla_trainer  # imports torch-xla

        rehearsal = plan.accelerator == REHEARSAL
        xla_trainer.count_devices(rehearsal=rehearsal, devices=cfg.trainer.devices)
        return
    per_host = _count_devices(cfg.trainer.devices, plan.accelerator)
    processes = per_host * int(cfg.trainer.num_nodes)
    place = place_of(os.environ)
    if place.has_starter:
        _check_numbers(place, per_host, int(cfg.trainer.num_nodes))
    rows = len(data.tables["train"])
    if processes > rows:
        raise MedvisionError(
            f"expected at most one process per training image, got {processes} for {rows}",
            where="trainer.devices",
            hint=f"use at most {rows}",
        )
    if (
        OmegaConf.select(cfg, "trainer.sync_batchnorm")
        and processes > 1
        and plan.accelerator != "gpu"
    ):
        raise MedvisionError(
            "synchronised batch norm requires GPUs",
            where="trainer.sync_batchnorm",
            hint="leave it out",
        )


def _count_devices(devices: int | str, accelerator: str) -> int:
    """Number of processes per host; ``auto`` gives one per GPU, or one on a CPU."""
    import torch

    if accelerator != "gpu":
        return 1 if devices == "auto" else int(devices)
    found = torch.cuda.device_count()
    if devices != "auto" and int(devices) > found:
        raise MedvisionError(
            f"{counted(int(devices), 'GPU')} requested, but {found} found",
            where="trainer.devices",
            hint="lower it, or set it to auto",
        )
    return found if devices == "auto" else int(devices)


def _check_srun(place: Place) -> None:
    tasks = place.num_processes or 1
    if tasks > 1 and "SLURM_STEP_ID" not in os.environ:
        raise MedvisionError(
            f"the SLURM job has {tasks} tasks, but this process was not started by srun:"
            " it would block, waiting for the others",
            where="SLURM_NTASKS",
            hint="put srun before python",
        )
    if tasks > 1 and place.num_local is None:
        raise MedvisionError(
            f"the SLURM job has {tasks} tasks, but the number per host is not set",
            where="SLURM_NTASKS_PER_NODE",
            hint="use --ntasks-per-node=<GPUs of a host> instead of --ntasks",
        )


def _check_numbers(place: Place, devices: int | str, num_nodes: int) -> None:
    """Compare the number of started processes with the config."""
    starter = STARTERS[place.started_by]
    if place.started_by == "other" and "MASTER_PORT" not in os.environ:
        if devices != 1 or num_nodes > 1:
            raise MedvisionError(
                "LOCAL_RANK is set, so another program starts the processes, but MASTER_PORT is"
                " not set",
                where="LOCAL_RANK",
                hint="unset LOCAL_RANK, or set MASTER_ADDR and MASTER_PORT for all of them",
            )
        return
    if devices == "auto" or place.num_processes is None:
        return
    local = place.num_local or int(devices)
    if (place.num_processes, local) != (int(devices) * num_nodes, int(devices)):
        hosts = -(-place.num_processes // local)
        local = place.num_local or place.num_processes // num_nodes
        raise MedvisionError(
            f"{starter} started {counted(place.num_processes, 'process', 'processes')}, but the run"
            f" expects {devices} on each of {counted(num_nodes, 'host')}",
            where="trainer.devices",
            hint=f"add trainer=ddp trainer.devices={local} trainer.num_nodes={hosts}",
        )
