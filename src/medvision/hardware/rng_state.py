"""The states of all random numbers that a training step may draw, as plain types."""

import random
from typing import Any

import numpy as np
import torch


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
