"""Functions of the machine: description, peak memory, synchronisation, random states."""

import os
import platform
import random
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvision.hardware.processes import memory_mb


def describe_hardware() -> dict[str, Any]:
    """Processor, cores, memory in MB and GPUs of this host."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_mb": memory_mb(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpus": gpus,
        "system": platform.platform(),
    }


def wait_for(device: torch.device) -> None:
    """Wait until the device has completed all work; returns at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "xla":
        import torch_xla
        import torch_xla.core.xla_model as xm

        torch_xla.sync()
        xm.wait_device_ops()


def peak_memory_mb(device: str) -> float:
    """Peak memory so far in MB, of this process or of the device it computes on.

    Args:
        device: ``cpu``, ``cuda``, ``xla`` or another of torch's device types.
    """
    if device == "xla":
        import torch_xla
        import torch_xla.core.xla_model as xm

        with suppress(RuntimeError, KeyError):  # XLA's CPU backend does not report it
            return xm.get_memory_info(torch_xla.device())["peak_bytes_used"] / 2**20
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


def random_state(device: str, *, of_next_loader: bool = False) -> dict[str, Any]:
    """State of the random number generators of this process: PyTorch, Python and NumPy.

    Only tensors, numbers, strings and lists, as ``torch.load(weights_only=True)`` requires.

    Args:
        device: Device type that trains, such as ``cpu``; its generator is included.
        of_next_loader: If True, the CPU state after the start of another data loader without worker
            processes, which silently draws a number from the global stream.
    """
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  the global one
    version, internal, gauss = random.getstate()
    cpu = torch.get_rng_state()
    if of_next_loader:
        torch.empty((), dtype=torch.int64).random_()
        later = torch.get_rng_state()
        torch.set_rng_state(cpu)
        cpu = later
    state: dict[str, Any] = {
        "cpu": cpu,
        "python": [version, list(internal), gauss],
        "numpy": [kind, [int(key) for key in keys], position, has_gauss, cached],
    }
    if device == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    elif device == "xla":
        import torch_xla.core.xla_model as xm

        state["xla"] = int(xm.get_rng_state())
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the state returned by `random_state`."""
    torch.set_rng_state(state["cpu"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
    elif "xla" in state:
        import torch_xla.core.xla_model as xm

        xm.set_rng_state(state["xla"])
