"""What a run asks its machine for: a description, memory, waiting, states of random numbers."""

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
        import torch_xla
        import torch_xla.core.xla_model as xm

        torch_xla.sync()
        xm.wait_device_ops()


def peak_memory_mb(device: str) -> float:
    """Largest memory so far in MB, of this process, or of its device where it computes on one.

    Args:
        device: ``cpu``, ``cuda``, ``xla`` or another of torch's device types.
    """
    if device == "xla":
        import torch_xla
        import torch_xla.core.xla_model as xm

        with suppress(RuntimeError, KeyError):  # XLA's CPU backend does not tell
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
    """What decides the next random numbers of this process: PyTorch's, Python's and NumPy's.

    Tensors, numbers, texts and lists only, as ``torch.load(weights_only=True)`` takes them.

    Args:
        device: Kind of device that trains, such as ``cpu``: its own numbers are among them.
        of_next_loader: The state of the CPU as it will be once another data loader without worker
            processes has begun: it draws a number from the global stream, and nothing says so.
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
    """Let this process draw what it would have drawn after `random_state`."""
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
