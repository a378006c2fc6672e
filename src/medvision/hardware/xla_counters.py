"""What torch-xla counts: compilations, operators that fell back, transfers to the host."""

import torch_xla
from torch_xla.debug import metrics

from medvision.hardware.xla_trace import take_triggers

__all__ = [
    "NOT_ON_XLA_CPU",
    "count_compilations",
    "count_reads",
    "find_fallbacks",
    "finish_step",
    "take_triggers",
]

NOT_ON_XLA_CPU = {
    "aten::upsample_nearest2d": "only the TPU backend has the custom call it is made of",
    "aten::upsample_nearest2d_backward": "only the TPU backend has the custom call it is made of",
    "aten::upsample_bilinear2d": "only the TPU backend has the custom call it is made of",
    "aten::upsample_bilinear2d_backward": "only the TPU backend has the custom call it is made of",
}
"""Operators that a TPU computes and XLA's CPU backend hands to PyTorch, each with the reason
(torch-xla 2.9, ``aten_xla_type.cpp``)."""


def count_compilations() -> int:
    """How many graphs were compiled since the process began."""
    data = metrics.metric_data("CompileTime")
    return 0 if data is None else int(data[0])


def count_reads() -> int:
    """How often the host has waited for values of the device since the process began."""
    data = metrics.metric_data("TransferFromDeviceTime")
    return 0 if data is None else int(data[0])


def find_fallbacks() -> dict[str, int]:
    """Operators that XLA does not have and PyTorch computed on the host, and how often."""
    names = (name for name in metrics.counter_names() if name.startswith("aten::"))
    return {name: int(metrics.counter_value(name)) for name in sorted(names)}


def finish_step() -> None:
    """Send every pending operation to the device, without waiting for it."""
    torch_xla.sync()
