"""Everything that differs between CPU, GPU and TPU.

Names load on first use: an ONNX file is run without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvision.hardware.chance import random_state, set_random_state
    from medvision.hardware.cpu import (
        measure_first_layers_in_float32,
        round_weights_once,
        train_with_quick_gradients,
    )
    from medvision.hardware.memory import keep_freed_memory
    from medvision.hardware.plan import REHEARSAL, Plan, choose_plan
    from medvision.hardware.report import describe_hardware, peak_memory_mb, wait_for
    from medvision.hardware.xla import (
        announce_host,
        check_xla_devices,
        skip_slow_tpu_probe,
        tpu_is_present,
        xla_options,
    )

__all__ = [
    "REHEARSAL",
    "Plan",
    "announce_host",
    "check_xla_devices",
    "choose_plan",
    "describe_hardware",
    "keep_freed_memory",
    "measure_first_layers_in_float32",
    "peak_memory_mb",
    "random_state",
    "round_weights_once",
    "set_random_state",
    "skip_slow_tpu_probe",
    "tpu_is_present",
    "train_with_quick_gradients",
    "wait_for",
    "xla_options",
]

_HOME = {
    "REHEARSAL": "plan",
    "Plan": "plan",
    "announce_host": "xla",
    "check_xla_devices": "xla",
    "choose_plan": "plan",
    "describe_hardware": "report",
    "keep_freed_memory": "memory",
    "measure_first_layers_in_float32": "cpu",
    "peak_memory_mb": "report",
    "random_state": "chance",
    "round_weights_once": "cpu",
    "set_random_state": "chance",
    "skip_slow_tpu_probe": "xla",
    "tpu_is_present": "xla",
    "train_with_quick_gradients": "cpu",
    "wait_for": "report",
    "xla_options": "xla",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
