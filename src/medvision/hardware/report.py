"""What a run says about the machine it ran on."""

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch


def describe_hardware() -> dict[str, Any]:
    """Processor, cores, memory in MB and GPUs of this host."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpus": gpus,
        "system": platform.platform(),
    }


def wait_for(device: torch.device) -> None:
    """Return when everything that was sent to the device is done; a CPU keeps nobody waiting."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "xla":
        from medvision.hardware.xla_trainer import wait_for_device  # imports torch-xla

        wait_for_device()


def peak_memory_mb(device: str) -> float:
    """Largest memory so far in MB, of this process, or of its device where it computes on one.

    Args:
        device: ``cpu``, ``cuda``, ``xla`` or another of torch's device types.
    """
    if device == "xla":
        from medvision.hardware.xla_trainer import peak_device_memory_mb  # imports torch-xla

        on_device = peak_device_memory_mb()
        if on_device is not None:
            return on_device
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
